from modeling_transrec.evaluation import modules
from modeling_transrec.evaluation.metrics import reciprocal_rank


class Mrr(modules.TargetMetric):
    """
    Mean reciprocal rank: 1 / rank of a user's first relevant item, 0 where the list has none, averaged over users.

    Args:
        predictions: ranked item ids, best first, one list a user.
        references: the id, or the ids, of the items that are relevant to each user.
        k: cut-off, or several (default: the whole list counts).

    Configurations: "scores" takes as predictions the scores of a user's candidates, as references the index of the
    relevant one among them, and gives items that tie their expected value over a random order; "ranks" takes
    num_better and num_tied, how many candidates score better than the relevant one and how many others the same.

    Returns:
        {"mrr": …}, or {"mrr@10": …} with a cut-off, from 0 to 1; higher is better.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/mrr")
    >>> metric.compute(predictions=[["a", "b", "c"], ["c", "b", "a"]], references=["a", "b"])
    {'mrr': 0.75}
    >>> metric.compute(predictions=[["a", "b", "c"], ["c", "b", "a"]], references=["a", "b"], k=1)
    {'mrr@1': 0.5}
    """

    title = "MRR"
    row = "mrr"
    k = None

    def measure(self, positions, k):
        return positions.first.total(reciprocal_rank, k)
