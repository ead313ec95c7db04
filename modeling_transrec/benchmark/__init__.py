"""Benchmarks: suites, runs and their statistics, published numbers, the leaderboard."""
