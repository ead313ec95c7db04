"""Suites of other libraries, run on this one's classes; see `make test-peers`."""
