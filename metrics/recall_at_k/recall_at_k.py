from modeling_transrec.evaluation import modules
from modeling_transrec.evaluation.metrics import hit_rate


class RecallAtK(modules.TargetMetric):
    """
    Recall: the share of a user's relevant items that are among the first k of the list, averaged over users.

    With one relevant item a user it is the hit rate.

    Args:
        predictions: ranked item ids, best first, one list a user.
        references: the id, or the ids, of the items that are relevant to each user.
        k: cut-off, or several (default: 10).

    Configurations: "scores" takes as predictions the scores of a user's candidates, as references the index of the
    relevant one among them, and gives items that tie their expected value over a random order; "ranks" takes
    num_better and num_tied, how many candidates score better than the relevant one and how many others the same.

    Returns:
        {"recall@10": …}, from 0 to 1; higher is better.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/recall_at_k")
    >>> metric.compute(predictions=[["a", "b", "c"], ["c", "b", "a"]], references=[["a", "c"], ["b"]], k=2)
    {'recall@2': 0.75}
    """

    title = "Recall@K"
    row = "recall"

    def measure(self, positions, k):
        return positions.total(hit_rate, k) / positions.num_relevant
