"""Names on the Hub: of repositories, and of the files that a checkpoint's repository has."""

# The card; the facts that it was written from, results in a file of their own; and the image in it.
CARD_NAME, FACTS_NAME, RESULTS_NAME, CURVE_NAME = "README.md", "card.json", "results.json", "training_curve.png"
EVAL_RESULTS_FOLDER = ".eval_results"
CATALOGUE_FOLDER = "catalogue"
HANDLER_NAME = "handler.py"  # of Inference Endpoints
