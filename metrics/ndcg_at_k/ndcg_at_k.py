import torch

from modeling_transrec.evaluation import modules
from modeling_transrec.evaluation.metrics import ndcg


class NdcgAtK(modules.TargetMetric):
    """
    Normalised discounted cumulative gain: 1 / log2(rank + 1) summed over the relevant items among the first k of a
    list, divided by the sum of the best possible list, averaged over users.

    Args:
        predictions: ranked item ids, best first, one list a user.
        references: the id, or the ids, of the items that are relevant to each user.
        k: cut-off, or several (default: 10).

    Configurations: "scores" takes as predictions the scores of a user's candidates, as references the index of the
    relevant one among them, and gives items that tie their expected value over a random order; "ranks" takes
    num_better and num_tied, how many candidates score better than the relevant one and how many others the same.

    Returns:
        {"ndcg@10": …}, from 0 to 1; higher is better.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/ndcg_at_k")
    >>> found = metric.compute(predictions=[["a", "b", "c"], ["c", "b", "a"]], references=["a", "b"], k=2)
    >>> round(found["ndcg@2"], 4)
    0.8155
    >>> metric = evaluate.load("metrics/ndcg_at_k", config_name="ranks", k=2)
    >>> metric.compute(num_better=[0, 1], num_tied=[0, 0]) == found
    True
    """

    title = "NDCG@K"
    row = "ndcg"
    bibtex = """\
@article{jarvelin2002cumulated,
  title   = {Cumulated Gain-based Evaluation of IR Techniques},
  author  = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal = {ACM Transactions on Information Systems},
  year    = {2002}
}
"""
    urls = ("https://doi.org/10.1145/582415.582418",)

    def measure(self, positions, k):
        ranks = torch.arange(k)
        best = ndcg(ranks, torch.zeros_like(ranks), k).cumsum(0)  # of 1, 2, … relevant items
        return positions.total(ndcg, k) / best[positions.num_relevant.clamp(max=k) - 1]
