"""Training arguments, the trainer and precomputed features."""
