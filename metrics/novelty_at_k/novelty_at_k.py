from modeling_transrec.evaluation import modules


class NoveltyAtK(modules.CountedListMetric):
    """
    Novelty: the mean information of the first k items of a list, in bits: -log2 of an item's share of all training
    interactions, where every item counts once more than it was taken.

    Args:
        predictions: ranked item ids, best first, one list a user.
        item_counts: the number of training interactions of every item, by its id; 0 where there are none.
        k: cut-off, or several (default: 10).

    Returns:
        {"novelty@10": …} in bits; higher says that rarer items are shown.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/novelty_at_k", item_counts={"a": 7, "b": 1, "c": 0, "d": 4})
    >>> metric.compute(predictions=[["a", "b"], ["a", "c"]], k=[1, 2])
    {'novelty@1': 1.0, 'novelty@2': 2.25}
    """

    title = "Novelty@K"
    row = "novelty"
    bibtex = """\
@article{zhou2010solving,
  title   = {Solving the Apparent Diversity-Accuracy Dilemma of Recommender Systems},
  author  = {Zhou, Tao and Kuscsik, Zolt{\\'a}n and Liu, Jian-Guo and Medo, Mat{\\'u}{\\v{s}} and
             Wakeling, Joseph Rushton and Zhang, Yi-Cheng},
  journal = {Proceedings of the National Academy of Sciences},
  year    = {2010}
}
"""
    urls = ("https://doi.org/10.1073/pnas.1000488107",)
