"""EASE and ItemKNN of RecTools and SLIM of RecBole on the same splits, beside what needs no training here.

    python benchmarks/peers.py --datasets ML100K --data_dir DATA --environments ENVIRONMENTS

Each library is installed into an environment of its own under `--environments`, where it stays. There it learns
weights between items from the training interactions; a history is scored by the sum of its items' weights, as the
library scores it, which the environment's script asserts on some users. Settings are chosen by NDCG@10 on the users
of the validation split that `auto` looks at; the test split is ranked once, by the same evaluator as everything here.
Items that a library does not know, since no training interaction has them, are its last. Results are added to
`benchmarks/results/without_training.json`.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from recbole_sasrec import PACKAGES, install
from without_training_page import add

from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.loading import index_histories, read_histories
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.weighing import USERS_TO_CHOOSE_ON


UNCUT = 1_000  # no history of these data sets is longer
LAST = -1e30  # the score of items that a library does not know
RECTOOLS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy, pandas, scipy.sparse
from implicit import nearest_neighbours
from rectools.dataset import Dataset
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel

folder, settings = sys.argv[1], json.loads(sys.argv[2])
training = scipy.sparse.load_npz(f"{folder}/training.npz").tocoo()
table = {"user_id": training.row, "item_id": training.col, "weight": 1.0, "datetime": pandas.Timestamp("2020-01-01")}
dataset = Dataset.construct(pandas.DataFrame(table))
kind = settings.pop("kind")
if kind == "EASE":
    model = EASEModel(**settings, recommend_n_threads=1).fit(dataset)
    weights = scipy.sparse.csr_matrix((0, 0))
    numpy.save(f"{folder}/weights.npy", model.weight)
else:
    model = ImplicitItemKNNWrapperModel(getattr(nearest_neighbours, kind)(**settings, num_threads=1)).fit(dataset)
    scipy.sparse.save_npz(f"{folder}/weights.npz", scipy.sparse.csr_matrix(model.model.similarity))
    numpy.save(f"{folder}/weights.npy", numpy.zeros(0))
numpy.save(f"{folder}/known.npy", dataset.item_id_map.external_ids.astype(numpy.int64))

users = numpy.unique(training.row)[:20]
matrix = dataset.get_user_item_matrix(include_weights=True)
weights = model.weight if kind == "EASE" else model.model.similarity
for user, found in model.recommend(users, dataset, k=10, filter_viewed=True).groupby("user_id"):
    history = matrix[dataset.user_id_map.convert_to_internal([user])]
    scores = history @ (weights.T if kind == "EASE" else weights)  # as it scores
    scores = numpy.asarray(scores.todense() if scipy.sparse.issparse(scores) else scores).ravel()
    scores[history.indices] = -numpy.inf
    best = numpy.sort(scores)[::-1][: len(found)]
    assert numpy.allclose(best, found["score"], rtol=1e-3, atol=1e-5), (best, found["score"].tolist())
"""
RECBOLE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy, scipy.sparse
from recbole.config import Config
from recbole.data import create_dataset
from recbole.model.general_recommender import SLIMElastic

class Columns(scipy.sparse.csc_matrix):
    # Columns are read, emptied and put back in place. RecBole does so in a matrix of lists, which scikit-learn turns
    # into one of columns for each item: the same weights to the bit, ten times as slow on Amazon_Beauty.
    def __getitem__(self, key):
        found = super().__getitem__(key)
        return found.copy() if scipy.sparse.issparse(found) else found

    def __setitem__(self, key, value):
        place = slice(*self.indptr[key[1] : key[1] + 2])
        self.data[place] = value.data if scipy.sparse.issparse(value) else value

scipy.sparse.csr_matrix.tolil = lambda matrix: Columns(matrix)
folder, settings = sys.argv[1], json.loads(sys.argv[2])
settings.pop("kind")
numpy.random.seed(0)
config = Config(model="SLIMElastic", dataset="data", config_dict={
    "data_path": folder, "load_col": {"inter": ["user_id", "item_id"]}, "use_gpu": False, "state": "ERROR",
    **settings})
dataset = create_dataset(config)
model = SLIMElastic(config, dataset)
names = dataset.id2token("item_id", numpy.arange(1, dataset.item_num)).astype(numpy.int64)
weights = scipy.sparse.csr_matrix(model.item_similarity)[1:, 1:]
scipy.sparse.save_npz(f"{folder}/weights.npz", weights)
numpy.save(f"{folder}/weights.npy", numpy.zeros(0))
numpy.save(f"{folder}/known.npy", names)
for user in range(1, 21):
    scores = model.full_sort_predict({"user_id": __import__("torch").tensor([user])}).numpy()[1:]
    history = dataset.inter_matrix(form="csr")[user, 1:]
    assert numpy.allclose(scores, (history @ weights).toarray().ravel(), atol=1e-5)
"""
# Packages and script.
LIBRARIES = {
    "rectools": (["rectools==0.19.0", "implicit==0.7.3"], RECTOOLS),
    "recbole": (PACKAGES, RECBOLE),
}
LARGE = 10_000  # items; a fit takes minutes, and fewer settings are tried


def ease_settings(*values: float) -> list[dict]:
    """Returns settings of EASE with these regularisations, read as the library and as the paper reads them.

    RecTools 0.19 makes the weights of the paper (Steck, 2019), but scores a history with their transpose.
    """
    return [
        {"kind": "EASE", "regularization": value, "reading": reading}
        for value in values
        for reading in ("library", "paper")
    ]


def slim_settings(*values: float) -> list[dict]:
    """Returns settings of SLIM with these factors of the penalty; the library's defaults are 0.2 and 0.02."""
    return [{"kind": "SLIM", "alpha": value, "l1_ratio": 0.02} for value in values]


KNN_SETTINGS = [
    {"kind": f"{kind}Recommender", "K": size} for kind in ("Cosine", "TFIDF", "BM25") for size in (20, 100, 500)
]
# Name → library, settings to choose from, and of a large catalogue.
METHODS = {
    "EASE, RecTools": ("rectools", ease_settings(1.0, 10.0, 50.0, 200.0, 500.0), ease_settings(10.0, 50.0, 200.0)),
    "ItemKNN, RecTools": ("rectools", KNN_SETTINGS, KNN_SETTINGS),
    "SLIM, RecBole": (
        "recbole",
        slim_settings(0.2, 0.02, 0.002, 0.0005),
        slim_settings(0.002, 0.0005, 0.0002, 0.0001),
    ),
}


class Peer:
    """A method of another library on one data set.

    Args:
        library: key of `LIBRARIES`.
        folder: for the files that are exchanged.
        environments: where the libraries' environments lie.
        num_items: `V`.
    """

    def __init__(self, library: str, folder: Path, environments: Path, num_items: int):
        packages, script = LIBRARIES[library]
        self.python = install(environments / library, packages)
        self.folder, self.num_items, self.fitted = folder, num_items, None
        (folder / "worker.py").write_text(script, encoding="utf-8")

    def fit(self, settings: dict) -> float:
        """Learns the weights `(known, known)` from the training interactions; returns the seconds of it."""
        reading = settings.get("reading")
        settings = {name: value for name, value in settings.items() if name != "reading"}
        if settings == self.fitted:
            self._read_as(reading)
            return self.seconds
        start = time.perf_counter()
        command = [self.python, "worker.py", ".", json.dumps(settings)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the library failed:\n{done.stderr[-3000:]}")
        self.known = np.load(self.folder / "known.npy")
        dense = np.load(self.folder / "weights.npy")
        self.weights = dense if dense.size else scipy.sparse.load_npz(self.folder / "weights.npz")
        self.fitted, self.seconds = settings, time.perf_counter() - start
        self._read_as(reading)
        return self.seconds

    def _read_as(self, reading: str | None) -> None:
        # SciPy multiplies rows that lie in memory one after the other; else each batch of users copies all weights.
        self.to_score = np.ascontiguousarray(self.weights.T) if reading == "library" else self.weights

    def score(self, histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
        """Histories `(B, L)` to scores `(B, V)`."""
        found = as_matrix(histories.numpy(), self.num_items)[:, self.known] @ self.to_score
        scores = np.full((len(histories), self.num_items), LAST, dtype=np.float32)
        scores[:, self.known] = found.toarray() if scipy.sparse.issparse(found) else found
        return torch.from_numpy(scores)


def as_matrix(histories: np.ndarray, num_items: int) -> scipy.sparse.csr_matrix:
    """Returns which items `(B, V)` occur in histories `(B, L)`, -1 at padding."""
    users, places = np.nonzero(histories >= 0)
    found = scipy.sparse.csr_matrix(
        (np.ones(len(users), np.float32), (users, histories[users, places])), shape=(len(histories), num_items)
    )
    found.data[:] = 1
    return found


def write_training(training: np.ndarray, num_items: int, folder: Path) -> None:
    """Writes the training interactions as a matrix, and as RecBole's atomic file."""
    matrix = as_matrix(training, num_items)
    scipy.sparse.save_npz(folder / "training.npz", matrix)
    (folder / "data").mkdir()
    with open(folder / "data" / "data.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\n")
        for user, item in zip(*matrix.nonzero(), strict=True):
            file.write(f"{user}\t{item}\n")


def compare(name: str, args: argparse.Namespace) -> None:
    """Chooses and evaluates each method on a data set."""
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
    items = data.load_items(UNCUT)
    training = index_histories(data.load_training_histories(), items["item_id"][:])
    training = read_histories(training, np.arange(len(training)))
    splits = {split: data.load_sequences(split, UNCUT) for split in ("validation", "test")}
    step = -(-len(splits["validation"]) // USERS_TO_CHOOSE_ON)
    splits["validation"] = splits["validation"].select(range(0, len(splits["validation"]), step))
    evaluators = {split: FullRankingEvaluator(items, rows, ks=[10], split=split) for split, rows in splits.items()}
    for method in args.methods:
        library, *choices = METHODS[method]
        choices = choices[len(items) > LARGE]
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            folder = Path(folder)
            write_training(training, len(items), folder)
            peer = Peer(library, folder, args.environments, len(items))
            tried = []
            for settings in choices:
                seconds = peer.fit(settings)
                tried.append((evaluators["validation"].evaluate(peer.score)["ndcg@10"], seconds, settings))
                print(name, *tried[-1], flush=True)
                if tried[-1][0] == max(value for value, *_ in tried):
                    best = copy.copy(peer)
            _, seconds, settings = max(tried, key=lambda one: one[0])
            metrics = evaluators["test"].evaluate(best.score)
        add(
            "peers",
            f"{name} | {method}",
            {
                "hr@10": metrics["hr@10"],
                "ndcg@10": metrics["ndcg@10"],
                "chosen": settings,
                "seconds of the choice's fit": round(seconds, 1),
                "validation": {json.dumps(setting): round(value, 5) for value, _, setting in tried},
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--scratch", type=Path, help="Folder for exchanged files, where the system's is too small.")
    args = parser.parse_args()
    for name in args.datasets:
        compare(name, args)


if __name__ == "__main__":
    sys.exit(main())
