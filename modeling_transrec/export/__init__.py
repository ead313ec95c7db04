"""Checkpoints as graphs of other runtimes, and as models of sentence-transformers."""
