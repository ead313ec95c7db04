from modeling_transrec.evaluation import modules


class PopularityBiasAtK(modules.HistoryListMetric):
    """
    Popularity bias: how many times as popular the first k items of a list are as the items of the user's history.

    It is the group average popularity (GAP) of the lists divided by that of the histories: the mean number of training
    interactions of a list's items, and of a history's, each averaged over users. What it is above 1 is called ΔGAP or
    popularity lift.

    Args:
        predictions: ranked item ids, best first, one list a user.
        histories: the ids of the items that each user has taken.
        item_counts: the number of training interactions of every item, by its id; 0 where there are none.
        k: cut-off, or several (default: 10).

    Returns:
        {"popularity_bias@10": …}, at least 0; 1 says that users are shown items as popular as those that they take.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/popularity_bias_at_k", item_counts={"a": 6, "b": 4, "c": 2, "d": 0})
    >>> metric.compute(predictions=[["a", "b"], ["a"]], histories=[["c", "d", "c"], ["b"]], k=[1, 2])
    {'popularity_bias@1': 2.25, 'popularity_bias@2': 2.0625}
    """

    title = "Popularity bias@K"
    row = "popularity_bias"
    bibtex = """\
@inproceedings{abdollahpouri2019unfairness,
  title     = {The Unfairness of Popularity Bias in Recommendation},
  author    = {Abdollahpouri, Himan and Mansoury, Masoud and Burke, Robin and Mobasher, Bamshad},
  booktitle = {RecSys Workshop on Recommendation in Multistakeholder Environments (RMSE)},
  year      = {2019}
}
"""
    urls = ("https://arxiv.org/abs/1907.13286",)
