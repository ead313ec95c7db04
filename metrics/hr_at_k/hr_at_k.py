from modeling_transrec.evaluation import modules
from modeling_transrec.evaluation.metrics import hit_rate


class HrAtK(modules.TargetMetric):
    """
    Hit rate: the share of users who have a relevant item among the first k of their list.

    Args:
        predictions: ranked item ids, best first, one list a user.
        references: the id, or the ids, of the items that are relevant to each user.
        k: cut-off, or several (default: 10).

    Configurations: "scores" takes as predictions the scores of a user's candidates, as references the index of the
    relevant one among them, and gives items that tie their expected value over a random order; "ranks" takes
    num_better and num_tied, how many candidates score better than the relevant one and how many others the same.

    Returns:
        {"hr@10": …}, from 0 to 1; higher is better.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/hr_at_k")
    >>> metric.compute(predictions=[["a", "b", "c"], ["c", "b", "a"]], references=["b", "a"], k=[1, 2])
    {'hr@1': 0.0, 'hr@2': 0.5}
    >>> metric = evaluate.load("metrics/hr_at_k", config_name="scores", k=1)
    >>> metric.compute(predictions=[[0.2, 0.9, 0.9], [0.5, 0.1, 0.3]], references=[1, 0])
    {'hr@1': 0.75}
    """

    title = "HR@K"
    row = "hr"

    def measure(self, positions, k):
        return positions.first.total(hit_rate, k)
