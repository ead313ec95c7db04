"""Readers of raw tables and of the files beside them."""
