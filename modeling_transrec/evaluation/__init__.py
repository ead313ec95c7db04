"""Full ranking: scores, ranks, metrics."""
