import numpy as np

from modeling_transrec.evaluation import modules


class CoverageAtK(modules.ListMetric):
    """
    Catalogue coverage: the share of all items that are among the first k of at least one user's list.

    Args:
        predictions: ranked item ids, best first, one list a user.
        catalogue: the ids of all items.
        k: cut-off, or several (default: 10).

    Returns:
        {"coverage@10": …}, from 0 to 1; higher says that more of the catalogue is shown.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/coverage_at_k", catalogue=["a", "b", "c", "d"])
    >>> metric.compute(predictions=[["a", "b"], ["a", "c"]], k=[1, 2])
    {'coverage@1': 0.25, 'coverage@2': 0.75}
    """

    title = "Coverage@K"
    row = "coverage"
    bibtex = """\
@inproceedings{ge2010beyond,
  title     = {Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity},
  author    = {Ge, Mouzhi and Delgado-Battenfeld, Carla and Jannach, Dietmar},
  booktitle = {RecSys},
  year      = {2010}
}
"""
    urls = ("https://doi.org/10.1145/1864708.1864761",)

    def _compute(self, predictions, catalogue=None, k=None):
        item_ids = [*dict.fromkeys(self.need(catalogue=catalogue))]
        return self.measure_lists(predictions, item_ids, k, item_counts=np.zeros(len(item_ids)))
