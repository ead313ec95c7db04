from modeling_transrec.evaluation import modules


class PopularityBiasAtK(modules.CountedListMetric):
    """
    Popularity bias: how many times as popular the first k items of a list are as the items that users take themselves.

    It is the mean number of training interactions of listed items, divided by that of the training interactions' own
    items.

    Args:
        predictions: ranked item ids, best first, one list a user.
        item_counts: the number of training interactions of every item, by its id; 0 where there are none.
        k: cut-off, or several (default: 10).

    Returns:
        {"popularity_bias@10": …}, at least 0; 1 says that popular items are shown as often as they are taken.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/popularity_bias_at_k", item_counts={"a": 3, "b": 1, "c": 0, "d": 0})
    >>> found = metric.compute(predictions=[["a", "b"], ["a", "c"]], k=[1, 2])
    >>> {name: round(value, 4) for name, value in found.items()}
    {'popularity_bias@1': 1.2, 'popularity_bias@2': 0.7}
    """

    title = "Popularity bias@K"
    row = "popularity_bias"
    bibtex = """\
@article{yin2012challenging,
  title   = {Challenging the Long Tail Recommendation},
  author  = {Yin, Hongzhi and Cui, Bin and Li, Jing and Yao, Junjie and Chen, Chen},
  journal = {Proceedings of the VLDB Endowment},
  year    = {2012}
}
"""
    urls = ("https://doi.org/10.14778/2311906.2311916",)
