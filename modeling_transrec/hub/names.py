"""Names on the Hub: of repositories, and of the files that a checkpoint's repository has."""

from pathlib import Path

from ..models.checkpoint_files import is_hub_id


# The card; the facts that it was written from, results in a file of their own; and the image in it.
CARD_NAME, FACTS_NAME, RESULTS_NAME, CURVE_NAME = "README.md", "card.json", "results.json", "training_curve.png"
EVAL_RESULTS_FOLDER = ".eval_results"
CATALOGUE_FOLDER = "catalogue"


def public_name(name: str) -> str:
    """Returns a Hub id as it is, and only the last part of a local folder's name.

    >>> public_name("someone/shop"), public_name("/home/me/shop")
    ('someone/shop', 'shop')
    """
    return name if is_hub_id(name) else Path(name).name
