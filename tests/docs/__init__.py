"""Tests of README, the documentation and the notebooks."""
