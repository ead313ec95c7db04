from modeling_transrec.evaluation import modules


class CalibrationAtK(modules.HistoryListMetric):
    """
    Calibration: how far the first k items of a list are from their user's history in popularity.

    It is the Jensen-Shannon divergence, in bits, between the shares of popular, middle and rare items in the list and
    in the history, averaged over users. Popular are the items that have the first 20 % of the training interactions,
    rare those that have the last 20 %.

    Args:
        predictions: ranked item ids, best first, one list a user.
        histories: the ids of the items that each user has taken.
        item_counts: the number of training interactions of every item, by its id; 0 where there are none.
        k: cut-off, or several (default: 10).

    Returns:
        {"calibration@10": …}, from 0 (calibrated) to 1; lower is better.

    Examples:

    >>> import evaluate
    >>> metric = evaluate.load("metrics/calibration_at_k", item_counts={"a": 6, "b": 4, "c": 2, "d": 1})
    >>> metric.compute(predictions=[["a"], ["a", "d"]], histories=[["d"], ["c", "d"]], k=2)
    {'calibration@2': 0.75}
    """

    title = "Calibration@K"
    row = "calibration"
    bibtex = """\
@inproceedings{abdollahpouri2021user,
  title     = {User-centered Evaluation of Popularity Bias in Recommender Systems},
  author    = {Abdollahpouri, Himan and Mansoury, Masoud and Burke, Robin and Mobasher, Bamshad and
               Malthouse, Edward},
  booktitle = {UMAP},
  year      = {2021}
}
"""
    urls = ("https://doi.org/10.1145/3450613.3456821",)
