"""Items and histories to batches."""
