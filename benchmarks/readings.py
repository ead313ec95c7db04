"""Content kNN and transitions written once more, by NumPy and SciPy from the raw files, in several readings.

    python benchmarks/readings.py content --data_dir DATA --text_model MINILM
    python benchmarks/readings.py transitions --data_dir DATA
    python benchmarks/without_training.py page

Nothing of the library is used, so that equal numbers say that both are right. `content` changes one part of content
kNN on Amazon_Beauty that its definition leaves open, `transitions` the order of interactions of ML100K that have the
same time. All users of both splits are ranked. Nothing is chosen but power and decay for each order, by NDCG@10 on
validation. Results are added to `benchmarks/results/without_training.json`, of which `page` makes the page.

Shapes: `V` items, `H` width of the features, `B` users.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from without_training_page import add


Histories = list[list[int]]
BLOCK = 256  # users ranked at a time


def read_items(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Returns the index of each item id, and the items' texts."""
    with open(folder / f"{folder.name}_item.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return {row[0]: index for index, row in enumerate(rows)}, [row[2] for row in rows]


def read_sequences(folder: Path, index: dict[str, int]) -> Histories:
    """Returns the items of each user, in the order of the file."""
    lines = (folder / f"{folder.name}_behaviour.tsv").read_text(encoding="utf-8").splitlines()
    return [[index[item] for item in line.split("\t")[1].split(" ")] for line in lines]


def read_pairs(folder: Path, index: dict[str, int], order: Callable[[int, int], float]) -> Histories:
    """Returns the items of each user by time; `order` of place and item id sorts those of the same time."""
    users: dict[str, list[tuple[int, float, int]]] = {}
    with open(folder / f"{folder.name}_pair.csv", newline="") as file:
        for user, item, time in csv.reader(file):
            events = users.setdefault(user, [])
            events.append((int(time), order(len(events), int(item)), index[item]))
    return [[event[2] for event in sorted(events)] for events in users.values()]


def encode(texts: Sequence[str], model: str) -> dict[str, np.ndarray]:
    """Returns features `(V, H)` of texts: several poolings."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, backbone = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).float().eval()
    names = ("mean", "mean without [CLS] and [SEP]", "[CLS]", "mean of first and last layer")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    by_length = sorted(range(len(texts)), key=lambda place: len(tokenizer(texts[place])["input_ids"]))
    for start in range(0, len(texts), 64):
        batch = tokenizer([texts[place] for place in by_length[start : start + 64]], padding=True, return_tensors="pt")
        with torch.inference_mode():
            layers = backbone(**batch, output_hidden_states=True).hidden_states
        states, both = layers[-1], (layers[0] + layers[-1]) / 2
        mask = batch["attention_mask"][:, :, None].float()
        last = mask.sum(dim=1, keepdim=True).long() - 1
        inner = mask.scatter(1, last, 0.0)
        inner[:, 0] = 0
        parts["mean"].append(((states * mask).sum(1) / mask.sum(1)).numpy())
        parts["mean without [CLS] and [SEP]"].append(((states * inner).sum(1) / inner.sum(1).clamp(min=1)).numpy())
        parts["[CLS]"].append(states[:, 0].numpy())
        parts["mean of first and last layer"].append(((both * mask).sum(1) / mask.sum(1)).numpy())
    back = np.argsort(by_length)
    return {name: np.concatenate(values)[back] for name, values in parts.items()}


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divides vectors `(V, H)` by their length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def whiten(
    features: np.ndarray,
    power: float = 0.75,
    unit_before: bool = True,
    unit_after: bool = True,
    centre: bool = True,
    known: np.ndarray | None = None,
    cut: float = 0.0,
    added: float = 0.0,
) -> np.ndarray:
    """Returns item vectors `(V, H)`.

    Args:
        features: `(V, H)`.
        power: of the standard deviations that the principal axes are divided by.
        unit_before, unit_after: whether vectors have length 1 before, and after.
        centre: whether the mean is taken away.
        known: indices of the items that mean and axes are taken from; by default all, each once.
        cut: axes with a smaller share of the largest variance are dropped.
        added: to all variances, in units of their mean.
    """
    values = unit(features.astype(np.float64)) if unit_before else features.astype(np.float64)
    sample = values if known is None else values[known]
    mean = sample.mean(axis=0) if centre else np.zeros(values.shape[1])
    variances, axes = np.linalg.eigh((sample - mean).T @ (sample - mean) / len(sample))
    variances = variances.clip(0)
    divisors = (variances + added * variances.mean()).clip(1e-30) ** (power / 2)
    kept = np.where(variances > cut * variances.max(), 1 / divisors, 0)
    vectors = ((values - mean) @ axes * kept) @ axes.T if power else values - mean
    return (unit(vectors) if unit_after else vectors).astype(np.float32)


def prefixes(histories: Histories, split: str) -> tuple[Histories, np.ndarray]:
    """Returns what is read of each user, and the target: the last item, for validation the last but one."""
    end = {"test": 1, "validation": 2}[split]
    return [items[:-end] for items in histories], np.array([items[-end] for items in histories])


def history_weights(read: Histories, num_items: int, decay: float, length: int | None = None) -> sparse.csr_matrix:
    """Returns `(B, V)`: decay to the power of the steps back from the history's end; decay 0 keeps the last item."""
    cut = [items[-length:] if length else items for items in read]
    steps = np.concatenate([np.arange(len(items))[::-1] for items in cut])
    rows = np.repeat(np.arange(len(cut)), [len(items) for items in cut])
    return sparse.csr_matrix((np.power(float(decay), steps), (rows, np.concatenate(cut))), (len(cut), num_items))


def rank(
    score: Callable[[slice], np.ndarray], read: Histories, targets: np.ndarray, exclude: bool = True
) -> dict[str, float]:
    """Returns HR@10 and NDCG@10 among all items but those of the history; of a tie the target has the middle.

    Args:
        score: returns the scores of some users.
        read: histories.
        targets: `(B,)`.
        exclude: whether the items of the history are left out.
    """
    hits, gain = 0.0, 0.0
    for start in range(0, len(read), BLOCK):
        scores = score(slice(start, start + BLOCK))
        lines = np.arange(len(scores))
        of_block = targets[start : start + BLOCK]
        own = scores[lines, of_block]
        if exclude:
            for line in lines:
                scores[line, read[start + line]] = -np.inf
            scores[lines, of_block] = own
        better, equal = (scores > own[:, None]).sum(axis=1), (scores == own[:, None]).sum(axis=1) - 1
        places = better + equal / 2
        hits += (places < 10).sum()
        gain += np.where(places < 10, 1 / np.log2(places + 2), 0).sum()
    return {"hr@10": round(float(hits / len(read)), 6), "ndcg@10": round(float(gain / len(read)), 6)}


def content_metrics(
    vectors: np.ndarray,
    read: Histories,
    targets: np.ndarray,
    decay: float = 0.6,
    length: int | None = None,
    exclude: bool = True,
) -> dict[str, float]:
    """Returns the metrics of content kNN."""
    users = (history_weights(read, len(vectors), decay, length) @ vectors).astype(np.float32)
    return rank(lambda some: users[some] @ vectors.T, read, targets, exclude)


def content(args: argparse.Namespace) -> None:
    """Changes one part of content kNN on Amazon_Beauty after the other."""
    folder = Path(args.data_dir) / "Amazon_Beauty"
    index, texts = read_items(folder)
    histories = read_sequences(folder, index)
    features = encode(texts, args.text_model)
    mean = features["mean"]
    training = np.array([item for items in histories for item in items[:-2]])
    # What is changed: features, arguments of `whiten`, arguments of `content_metrics`.
    readings: dict[str, tuple[np.ndarray, dict, dict]] = {
        "as defined (power 0.75, decay 0.6)": (mean, {}, {}),
        "last layer's mean not of length 1 before": (mean, {"unit_before": False}, {}),
        "item vectors not of length 1": (mean, {"unit_after": False}, {}),
        "not centred": (mean, {"centre": False}, {}),
        "neither centred nor whitened": (mean, {"centre": False, "power": 0}, {}),
        "statistics of the items of training histories": (mean, {"known": np.unique(training)}, {}),
        "statistics of the training interactions": (mean, {"known": training}, {}),
        "axes below 1 % of the largest variance dropped": (mean, {"cut": 0.01}, {}),
        "power 1, variances + 0.1 of their mean": (mean, {"power": 1, "added": 0.1}, {}),
        "power 1, variances + 0.3 of their mean": (mean, {"power": 1, "added": 0.3}, {}),
        "last 10 items of the history": (mean, {}, {"length": 10}),
        "last 50 items of the history": (mean, {}, {"length": 50}),
        "items of the history not excluded": (mean, {}, {"exclude": False}),
        **{f"power {power:g}": (mean, {"power": power}, {}) for power in (0, 0.25, 0.5, 0.85, 1)},
        **{f"decay {decay:g}": (mean, {}, {"decay": decay}) for decay in (0, 0.5, 0.7, 0.8, 1)},
        "features: [CLS]": (features["[CLS]"], {}, {}),
        "features: mean without [CLS] and [SEP]": (features["mean without [CLS] and [SEP]"], {}, {}),
        **{
            f"features: first_last, decay {decay}": (
                features["mean of first and last layer"],
                {"unit_before": False},
                {"decay": decay},
            )
            for decay in (0.6, 0.7)
        },
    }
    for name, (values, of_items, of_users) in readings.items():
        vectors = whiten(values, **of_items)
        for split in ("validation", "test"):
            found = content_metrics(vectors, *prefixes(histories, split), **of_users)
            add("readings", f"Amazon_Beauty | {name} | {split}", found)


def count(histories: Histories, num_items: int, window: int = 20, decay: float = 0.9, backward: float = 0.5):
    """Returns the counted pairs `(V, V)` of the training interactions, all but each user's last two, and the items'
    counts `(V,)`.
    """
    earlier, later, weights = [], [], []
    for items in histories:
        training = np.array(items[:-2])
        for distance in range(1, min(window, len(training) - 1) + 1):
            earlier.append(training[:-distance])
            later.append(training[distance:])
            weights.append(np.full(len(training) - distance, decay ** (distance - 1)))
    places = np.concatenate(earlier), np.concatenate(later)
    pairs = sparse.csr_matrix((np.concatenate(weights), places), (num_items, num_items))
    counts = np.bincount([item for items in histories for item in items[:-2]], minlength=num_items)
    return (pairs + backward * pairs.T).tocsr(), counts


def transition_metrics(
    pairs: sparse.csr_matrix, counts: np.ndarray, power: float, decay: float, read: Histories, targets: np.ndarray
) -> dict[str, float]:
    """Returns the metrics of transitions."""
    scales = sparse.diags(np.where(counts > 0, counts.clip(1).astype(float) ** -power, 0))
    users = history_weights(read, len(counts), decay) @ (scales @ pairs @ scales)
    scores = users.toarray().astype(np.float32)
    return rank(lambda some: scores[some].copy(), read, targets)


def transitions(args: argparse.Namespace) -> None:
    """Orders interactions of the same time in several ways, and chooses power and decay for each."""
    folder = Path(args.data_dir) / "ML100K"
    index, _ = read_items(folder)
    shuffled = {seed: np.random.default_rng(seed).random(1_000) for seed in range(4)}
    orders: dict[str, Callable[[int, int], float]] = {
        "as in the file": lambda number, item: number,
        "the file's reversed": lambda number, item: -number,
        "by item number": lambda number, item: item,
        "by item number, falling": lambda number, item: -item,
        **{f"by chance, seed {seed}": lambda number, item, seed=seed: shuffled[seed][number] for seed in shuffled},
    }
    for name, order in orders.items():
        histories = read_pairs(folder, index, order)
        pairs, counts = count(histories, len(index))
        grid = [(power, decay) for power in (0.3, 0.4, 0.5) for decay in (0.5, 0.6, 0.7, 0.8)]
        by_split = {
            split: {one: transition_metrics(pairs, counts, *one, *prefixes(histories, split)) for one in grid}
            for split in ("validation", "test")
        }
        chosen = max(grid, key=lambda one: by_split["validation"][one]["ndcg@10"])
        for split, found in by_split.items():
            add("readings", f"ML100K | {name} | {split}", {**found[chosen], "chosen": chosen})
            if name == "as in the file":
                for power, decay in grid:
                    add("readings", f"ML100K | power {power}, decay {decay} | {split}", found[power, decay])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"content": content, "transitions": transitions}
    parser.add_argument("what", choices=commands)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--text_model", default="sentence-transformers/all-MiniLM-L6-v2")
    args = parser.parse_args()
    commands[args.what](args)


if __name__ == "__main__":
    main()
