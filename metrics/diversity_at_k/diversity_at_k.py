import numpy as np
import torch

from modeling_transrec.evaluation import modules


class DiversityAtK(modules.ListMetric):
    """
    Diversity: the mean of 1 - cosine over pairs of the first k items of a list, by vectors of their content.

    Items whose vector is zero have no content and are left out, and so are lists that have fewer than two others.

    Args:
        predictions: ranked item ids, best first, one list a user.
        item_features: a vector of every item, by its id.
        k: cut-off of at least 2, or several (default: 10).

    Returns:
        {"diversity@10": …}, from 0 (all items alike) to 2; values by vectors of different models cannot be compared.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/diversity_at_k", item_features={"a": [1, 0], "b": [2, 0], "c": [0, 1]})
    >>> metric.compute(predictions=[["a", "b"], ["a", "c"]], k=2)
    {'diversity@2': 0.5}
    """

    title = "Diversity@K"
    row = "diversity"
    bibtex = """\
@inproceedings{ziegler2005improving,
  title     = {Improving Recommendation Lists Through Topic Diversification},
  author    = {Ziegler, Cai-Nicolas and McNee, Sean M. and Konstan, Joseph A. and Lausen, Georg},
  booktitle = {WWW},
  year      = {2005}
}
"""
    urls = ("https://doi.org/10.1145/1060745.1060754",)

    def _compute(self, predictions, item_features=None, k=None):
        vectors = self.need(item_features=item_features)
        features = torch.from_numpy(np.array([*vectors.values()], dtype=np.float32))
        return self.measure_lists(predictions, [*vectors], k, item_features=features)
