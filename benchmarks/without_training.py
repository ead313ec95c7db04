"""What needs no training: content kNN and counted transitions, how each part matters, and growth with users.

    python benchmarks/without_training.py tables --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py ablation --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py tuned --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py growth --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py split --datasets ML100K --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py idrec --datasets ML100K --data_dir DATA
    HF_DATASETS_CACHE=EMPTY python benchmarks/without_training.py parts --datasets Amazon_Beauty …
    python benchmarks/without_training.py page

`tables` chooses on the validation split and reads the test split once. `ablation` takes one part away, or changes it,
and looks at the validation split only. `tuned` is what `auto` is compared with: it changes one setting after the
other, also those that `auto` leaves alone, keeps what is best on the validation split, and reads the test split once.
`growth` counts the transitions of n users, chooses on their validation items and tests on other users. `split` has the
same users under a split by time and under leave-one-out. Results are added to
`benchmarks/results/without_training.json`; `page` makes `.md` and `.png` of them. How fast counts are made, changed
and read is measured by `benchmarks/counts.py`.
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import scipy.sparse
import torch
from without_training_page import ORDER as ROWS
from without_training_page import USERS, add, read_record, write_page

from modeling_transrec.benchmark.worker import parse_options
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import baselines
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.content import ContentKNN, Whitening
from modeling_transrec.evaluation.evaluate import evaluate
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.features import load_content_model, read_content
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.evaluation.settings import settings_of
from modeling_transrec.evaluation.weighing import empty_scorer, log_popularity
from modeling_transrec.training.train import train


UNCUT = 1_000  # no history of these data sets is longer
WEIGHTS = tuple(2.0**power for power in np.arange(-2, 7.5, 0.5))  # of transitions, in units of the dense spread
POPULARITY = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4)


def tables(name: str, args: argparse.Namespace) -> None:
    """Metrics on the test split, everything chosen on validation."""
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir, split_strategy=args.split_strategy)
    backbones = {"text_model_name_or_path": args.text_model, "vision_model_name_or_path": args.vision_model}
    backbones = {option: folder for option, folder in backbones.items() if folder}
    content = " and ".join(
        word for word, folder in (("titles", args.text_model), ("posters", args.vision_model)) if folder
    )
    for row in args.rows:
        options = backbones if row.startswith("content") else {}
        start, cpu = time.perf_counter(), time.process_time()
        rules: dict = {"eval_ks": [10], "max_seq_len": UNCUT, "use_cpu": True, "num_settings": args.num_settings}
        found = evaluate(EvaluationArguments(row, **rules, **options), data)
        scoring = found["protocol"].get("scoring", {})
        scoring.get("content", {}).pop("source", None)
        value = {"hr@10": found["metrics"]["hr@10"], "ndcg@10": found["metrics"]["ndcg@10"], "scoring": scoring}
        value["seconds"] = round(time.perf_counter() - start, 1)
        value["cpu_seconds"] = round(time.process_time() - cpu, 1)
        value["num_users"], value["num_candidates"] = (
            found["protocol"][field] for field in ("num_users", "num_candidates")
        )
        of_row = f"{row}, {content}" if options and args.vision_model else row
        if args.num_settings:
            of_row += f", the best of {len(settings_of(row, args.num_settings))}"
        add("tables", f"{name}{' by time' if args.split_strategy == 'temporal' else ''} | {of_row}", value)


class Platform:
    """A data set, its features and evaluators of some of its users."""

    def __init__(self, name: str, args: argparse.Namespace):
        data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
        self.items, self.training = data.load_items(UNCUT), data.load_training_histories()
        model, processor = load_content_model(args.text_model)
        self.content = read_content(model, processor, self.items)
        self.splits = {split: data.load_sequences(split, UNCUT) for split in ("validation", "test")}
        self.order = np.random.default_rng(0).permutation(len(self.training))

    def evaluator(self, split: str, users: np.ndarray) -> FullRankingEvaluator:
        return FullRankingEvaluator(self.items, self.splits[split].select(np.sort(users)), ks=[10], split=split)

    def count(self, users: np.ndarray | None = None, **settings) -> Transitions:
        training = self.training if users is None else self.training.select(np.sort(users))
        return Transitions.from_sequences(training, self.items["item_id"][:], **settings)

    def embed(self, parts: "Parts") -> CatalogueScorer:
        """Returns content kNN with these settings."""
        if parts.centre:
            return self.content.fit(None, UNCUT, power=parts.content_power, history_decay=parts.content_decay)
        whitenings = {
            name: Whitening.fit(torch.cat([values, -values]), parts.content_power)  # their mean is zero
            for name, values in self.content.features.items()
        }
        knn = ContentKNN(whitenings, history_decay=parts.content_decay, max_seq_len=UNCUT)
        return CatalogueScorer(knn, knn.embed_items(self.content.features, self.content.has_content))


@dataclass(frozen=True)
class Parts:
    """All settings of content and counts; `centre` is whether content is centred."""

    content_power: float = 0.75
    content_decay: float = 0.7
    centre: bool = True
    window: int = 20
    decay: float = 0.9
    backward: float = 0.5
    power: float = 0.3
    history_decay: float = 0.6
    popularity: float = 0.0

    @property
    def counted(self) -> dict:
        return {name: getattr(self, name) for name in ("window", "decay", "backward", "power", "history_decay")}


class Ranks:
    """NDCG@10 of users of the validation split for many settings of the counts beside the same dense scores.

    The dense scores are sorted once. A pair of settings then looks only at items that have transitions.
    """

    def __init__(self, platform: Platform, users: np.ndarray):
        self.platform = platform
        self.evaluator = platform.evaluator("validation", users)
        self.blocks = list(self.evaluator.blocks_of(np.arange(len(users))))
        self.popularity = log_popularity(platform.count().item_counts)
        self.kept: dict = {}

    def read(self, parts: Parts | None, sort: bool) -> None:
        """Makes the dense scores: content and popularity; `None` for neither."""
        key = (sort, parts and (parts.content_power, parts.content_decay, parts.centre, parts.popularity))
        if self.kept and self.kept["key"] == key:
            return
        scorer = empty_scorer(len(self.platform.items)) if parts is None else self.platform.embed(parts)
        self.kept = {"key": key, "dense": [scorer.scores(histories) for histories, _ in self.blocks], "sorted": []}
        spread = sum(float(dense.std(dim=1, correction=0).sum()) for dense in self.kept["dense"])
        self.spread = spread / len(self.evaluator.targets) or 1.0
        for dense, (histories, users) in zip(self.kept["dense"], self.blocks, strict=True):
            if parts is not None and parts.popularity:
                dense += parts.popularity * self.spread * self.popularity
            targets = torch.from_numpy(self.evaluator.targets[users]).long()[:, None]
            seen = torch.zeros(len(dense), dense.shape[1] + 1, dtype=torch.bool)
            seen.scatter_(1, torch.where(histories < 0, dense.shape[1], histories), True)
            dense.masked_fill_(seen[:, :-1].scatter_(1, targets, False), float("-inf"))
            self.kept["sorted"].append(dense.sort(dim=1).values if sort else None)

    def weigh(self, parts: Parts | None, counted: dict | None, weights=WEIGHTS) -> list[float]:
        """Returns NDCG@10 for each weight of transitions with the settings `counted`; `None` for no transitions."""
        self.read(parts, sort=counted is not None)
        transitions = None if counted is None else self.platform.count(**counted)
        gains = np.zeros(len(weights))
        up_to = torch.cat([torch.zeros(1), (1 / torch.log2(torch.arange(10) + 2.0)).cumsum(0)])  # of the first n ranks
        for number, (histories, users) in enumerate(self.blocks):
            dense, ordered = self.kept["dense"][number], self.kept["sorted"][number]
            targets = torch.from_numpy(self.evaluator.targets[users]).long()
            added = scipy.sparse.csr_array(dense.shape, dtype=np.float32)
            if transitions is not None:
                added = transitions.scores(histories.numpy())
            owner = torch.from_numpy(np.repeat(np.arange(len(users)), np.diff(added.indptr)))
            items, values = torch.from_numpy(added.indices).long(), torch.from_numpy(added.data).float()
            before = dense[owner, items]
            of_target = torch.zeros(len(users)).index_add_(0, owner, torch.where(items == targets[owner], values, 0.0))
            for place, weight in enumerate(weights):
                own = dense[torch.arange(len(users)), targets] + weight * self.spread * of_target
                after = before + weight * self.spread * values
                # A float32 sum has other last bits than the target's own: what is this close is a tie.
                margin = 1e-6 * own.abs().clamp(min=1e-6)
                bounds = own + margin, own - margin
                if ordered is None:
                    above, from_own_on = ((dense > bound[:, None]).sum(dim=1) for bound in bounds)
                else:
                    above, from_own_on = (num_above(bound, ordered, owner, before, after) for bound in bounds)
                from_own_on = torch.maximum(from_own_on, above + 1).long()
                above = above.long()
                gained = up_to[from_own_on.clamp(max=10)] - up_to[above.clamp(max=10)]
                gains[place] += float((gained / (from_own_on - above)).sum())  # ties count as their expected value
        return (gains / len(self.evaluator.targets)).tolist()

    def best(self, parts: Parts | None, counted: dict | None = None) -> float:
        """Returns NDCG@10 at the best weight."""
        return max(self.weigh(parts, counted, WEIGHTS if counted else WEIGHTS[:1]))


def num_above(bound, ordered, owner, before, after) -> torch.Tensor:
    """Returns how many of a user's scores are above a bound `(B,)`: of sorted ones `(B, V)`, some of which change.

    Args:
        bound, ordered: see above.
        owner: `(E,)` the users of the scores that change.
        before, after: `(E,)` these scores.
    """
    above = ordered.shape[1] - torch.searchsorted(ordered, bound[:, None].contiguous()).squeeze(1)
    changed = (after > bound[owner]).float() - (before > bound[owner]).float()
    return above + torch.zeros(len(bound)).index_add_(0, owner, changed)


def chosen_by_auto(name: str) -> Parts:
    """Returns what `tables` has chosen on the validation split."""
    chosen = read_record()["tables"][f"{name} | content-and-transitions"]["scoring"]
    return Parts(
        content_power=chosen["content"]["power"],
        content_decay=chosen["content"]["history_decay"],
        power=chosen["transitions"]["power"],
        history_decay=chosen["transitions"]["history_decay"],
        popularity=chosen["popularity_weight"],
    )


def ablation(name: str, args: argparse.Namespace) -> None:
    """NDCG@10 of users of the validation split; one part is taken away or changed, the others stay as chosen."""
    platform = Platform(name, args)
    ranks = Ranks(platform, platform.order[:USERS])
    chosen = chosen_by_auto(name)

    def show(section: str, setting: str, value: float) -> None:
        add("ablation", f"{name} | {section} | {setting}", round(value, 5))

    content = replace(chosen, popularity=0.0)
    show("content", "as chosen", ranks.best(content))
    show("content", "not centred", ranks.best(replace(content, centre=False)))
    show("content", "neither centred nor whitened", ranks.best(replace(content, centre=False, content_power=0.0)))
    for power in (0.0, 0.25, 0.5, 0.75, 1.0):
        show("content", f"whitening power {power}", ranks.best(replace(content, content_power=power)))
    for decay in (1e-9, 0.4, 0.6, 0.7, 0.8, 1.0):
        label = f"decay of the history {decay}" if decay > 1e-6 else "decay of the history 0: only the last item"
        show("content", label, ranks.best(replace(content, content_decay=decay)))

    by_weight = ranks.weigh(chosen, chosen.counted)
    weight = int(np.argmax(by_weight))
    show("both", "as chosen", by_weight[weight])
    show("both", "without transitions", ranks.best(chosen))
    show("both", "without popularity", ranks.best(content, chosen.counted))
    for steps in (-4, -2, 2, 4):
        if 0 <= weight + steps < len(WEIGHTS):
            show("both", f"weight of transitions × {WEIGHTS[4 + steps] / WEIGHTS[4]:g}", by_weight[weight + steps])
    changes = {
        "window": (1, 5, 10, 20, 50),
        "decay": (0.7, 0.9, 1.0),
        "backward": (0.0, 0.5, 1.0),
        "power": (0.0, 0.1, 0.3, 0.5, 0.7),
        "history_decay": (0.3, 0.5, 0.6, 0.7, 0.9),
    }
    for setting, values in changes.items():
        for value in values:
            show("both", f"{setting} {value}", ranks.best(chosen, {**chosen.counted, setting: value}))
    show("transitions", "as chosen, without content and popularity", ranks.best(None, chosen.counted))


def tuned(name: str, args: argparse.Namespace) -> None:
    """Changes one setting after another and keeps what is best on the validation split; test is read once."""
    platform = Platform(name, args)
    ranks = Ranks(platform, platform.order[:USERS])
    parts = Parts()
    choices = {
        "content_power": (0.25, 0.5, 0.6, 0.75, 0.9, 1.0),
        "content_decay": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "history_decay": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "power": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "window": (3, 5, 10, 20, 30, 50, 100),
        "decay": (0.7, 0.8, 0.9, 0.95, 1.0),
        "backward": (0.0, 0.25, 0.5, 0.75, 1.0),
        "popularity": POPULARITY,
    }
    best, tried = ranks.best(parts, parts.counted), 1
    for setting, values in choices.items():
        for value in values:
            if value == getattr(parts, setting):
                continue
            changed = replace(parts, **{setting: value})
            found, tried = ranks.best(changed, changed.counted), tried + 1
            if found > best:
                best, parts = found, changed
    print(name, best, parts, flush=True)
    weights = ranks.weigh(parts, parts.counted)
    transitions = platform.count(**parts.counted)
    scorer = platform.embed(parts).replace(
        transitions=transitions,
        transition_weight=WEIGHTS[int(np.argmax(weights))] * ranks.spread,
        item_scores=parts.popularity * ranks.spread * ranks.popularity,
    )
    metrics = platform.evaluator("test", platform.order).rank(scorer)
    chosen = {field: getattr(parts, field) for field in Parts.__dataclass_fields__}
    value = {"hr@10": metrics["hr@10"], "ndcg@10": metrics["ndcg@10"], "settings tried": tried}
    add("tuned", name, {**value, "chosen": {**chosen, "weight": float(WEIGHTS[int(np.argmax(weights))])}})


def growth(name: str, args: argparse.Namespace) -> None:
    """NDCG@10 of other users, by how many users the platform has."""
    platform = Platform(name, args)
    others = platform.order[: min(USERS, len(platform.order) // 4)]
    rest = platform.order[len(others) :]
    test = platform.evaluator("test", others)
    for count in [*(n for n in (200, 500, 1_000, 5_000) if n < 0.75 * len(rest)), len(rest)]:
        users = rest[:count]
        validation = platform.evaluator("validation", users[:1_000])
        training = platform.training.select(np.sort(users))
        known = baselines.Platform(platform.items, training, validation=validation, content=platform.content)
        for row in ("transitions", "content-knn", "content-and-transitions"):
            ndcg = test.rank(baselines.BASELINES[row](known)[0])["ndcg@10"]
            add("growth", f"{name} | {row} | {count}", round(ndcg, 5))


def split(name: str, args: argparse.Namespace) -> None:
    """What leave-one-out flatters: the same users under a split by time, with later users counted, and without.

    At a time, all users are tested who have interactions before and after it: the history is what is before, the
    target the first after. `by time` counts what everybody did before; `later users counted` also the whole histories
    of users who come later; `leave-one-out` has the same users' last items as targets, and counts all but the last two
    of everybody. Times are after 50, 60, … 90 % of the interactions; their users are pooled. Nothing is chosen.
    """
    import pandas

    file = Path(args.data_dir) / name / f"{name}_pair.csv"
    table = pandas.read_csv(file, names=["user", "item", "time"], dtype={"user": str, "item": str})
    platform = Platform(name, args)
    rows = platform.splits["test"].select_columns(["user_id", "item_ids", "target"])
    whole = {row["user_id"]: [*row["item_ids"], row["target"]] for row in rows}
    sums: dict[tuple[str, str], np.ndarray] = {}
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        boundary = table["time"].quantile(share, interpolation="nearest")
        number_before = table[table["time"] < boundary].groupby("user").size()
        before = {user: whole[user][: number_before.get(user, 0)] for user in whole}
        tested = [user for user, items in whole.items() if 0 < len(before[user]) < len(items)]
        later = [items for user, items in whole.items() if not before[user]]
        earlier = [items for items in before.values() if items]
        by_time = [(before[user], whole[user][len(before[user])]) for user in tested]
        one_out = [(whole[user][:-1], whole[user][-1]) for user in tested]
        ways = {
            "by time": (earlier, by_time),
            "by time, later users counted": (earlier + later, by_time),
            "leave-one-out": ([items[:-2] for items in whole.values()], one_out),
        }
        for way, (training, rows) in ways.items():
            transitions = Transitions.from_sequences(training, platform.items["item_id"][:])
            content = platform.content.fit(None, UNCUT)
            popularity = log_popularity(transitions.item_counts)
            empty = empty_scorer(len(platform.items))
            scorers = {
                "popularity": empty.replace(item_scores=popularity),
                "last-item-transitions": empty.replace(transitions=transitions.with_settings(history_decay=1e-9)),
                "transitions": empty.replace(transitions=transitions),
                "content-knn": content,
                "content-and-transitions": content.replace(transitions=transitions, transition_weight=1.0),
            }
            histories = datasets.Dataset.from_dict(
                {"item_ids": [row[0] for row in rows], "target": [row[1] for row in rows]}
            )
            evaluator = FullRankingEvaluator(platform.items, histories, ks=[10])
            for row, scorer in scorers.items():
                metrics = evaluator.rank(scorer)
                found = np.array([metrics["hr@10"], metrics["ndcg@10"], 1.0]) * len(rows)
                sums[row, way] = sums.get((row, way), 0) + found
    for (row, way), (hits, gain, number) in sums.items():
        add(
            "split",
            f"{name} | {row} | {way}",
            {"hr@10": hits / number, "ndcg@10": gain / number, "tests": int(number)},
        )


def train_one(options: dict, folder: Path) -> tuple[float, float, float]:
    """Trains into `folder`; best validation HR@10, its epoch, and seconds of training."""
    fixed = {"output_dir": str(folder), "disable_tqdm": True, "logging_strategy": "no"}
    start = time.perf_counter()
    trainer = train(*parse_options({**options, **fixed}))
    hits = [(entry["eval_hr@10"], entry["epoch"]) for entry in trainer.state.log_history if "eval_hr@10" in entry]
    best, epoch = max(hits, key=lambda hit: (hit[0], -hit[1]))
    return best, epoch, time.perf_counter() - start


def idrec(name: str, args: argparse.Namespace) -> None:
    """IDRec, trained on the same candidates, for comparison; learning rate and loss are chosen on validation."""
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir, catalogue="all")
    common = {
        "dataset_config_name": name,
        "data_dir": args.data_dir,
        "catalogue": "all",
        "modality": "id",
        "max_seq_len": 50,
        "hidden_size": 64,
        "hidden_dropout_prob": 0.2,
        "num_train_epochs": 30,
        "per_device_train_batch_size": 64,
        "use_cpu": True,
        "seed": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        tried = []
        for loss, rate in itertools.product(("in_batch", "full_softmax"), (1e-3, 3e-3)):
            options = {"loss_type": loss, "learning_rate": rate}
            place = Path(folder) / f"{loss}_{rate}"
            best, epoch, seconds = train_one({**common, **options}, place)
            tried.append((best, place, f"{loss}, learning rate {rate}, epoch {epoch:g}", round(seconds, 1)))
            print(*tried[-1], flush=True)
        _, place, chosen, seconds = max(tried)
        for row, weight in (("IDRec", "0"), ("IDRec and transitions", "auto")):
            options = {"eval_ks": [10], "use_cpu": True, "transition_weight": weight}
            found = evaluate(EvaluationArguments(str(place), **options), data)
            value = {**found["metrics"], "scoring": found["protocol"].get("scoring", {}), "seconds": seconds}
            value["scoring"]["model"] = chosen
            value["num_users"], value["num_candidates"] = (
                found["protocol"][field] for field in ("num_users", "num_candidates")
            )
            add("tables", f"{name} | {row}", value)


def parts(name: str, args: argparse.Namespace) -> None:
    """CPU seconds of each part from two raw tables to evaluated numbers; `HF_DATASETS_CACHE` names an empty folder."""
    start, since = time.perf_counter(), [time.process_time()]

    def show(part: str) -> None:
        since.append(time.process_time())
        add("parts", f"{name} | {part}", round(since[-1] - since[-2], 1))

    add("parts", f"{name} | starting Python, importing", round(since[0], 1))
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
    items = data.load_items(UNCUT)
    splits = {split: data.load_sequences(split, UNCUT) for split in ("validation", "test")}
    training = data.load_training_histories()
    show("reading")
    evaluators = {split: FullRankingEvaluator(items, rows, ks=[10], split=split) for split, rows in splits.items()}
    show("looking up items")
    model, processor = load_content_model(args.text_model)
    show("loading the backbone")
    prepare_items(items, processor)
    show("tokenising")
    content = read_content(model, processor, items)
    show("encoding")
    known = baselines.Platform(items, training, validation=evaluators["validation"], content=content)
    len(known.transitions)
    show("counting")
    scorer, chosen = baselines.BASELINES["content-knn"](known)
    show("whitening and choosing for content")
    scorer, _ = baselines.add_transitions(scorer, chosen, known)
    show("choosing for transitions and popularity")
    metrics = evaluators["test"].rank(scorer)
    show(f"ranking: {metrics['hr@10']:.4f} / {metrics['ndcg@10']:.4f}")
    add(
        "parts",
        f"{name} | seconds of all after the imports, {torch.get_num_threads()} threads",
        round(time.perf_counter() - start, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {
        "tables": tables,
        "ablation": ablation,
        "tuned": tuned,
        "growth": growth,
        "split": split,
        "parts": parts,
        "idrec": idrec,
    }
    parser.add_argument("what", choices=[*commands, "page"])
    parser.add_argument("--datasets", nargs="+", default=[])
    parser.add_argument("--data_dir")
    parser.add_argument("--text_model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--vision_model", help='of `tables`; --text_model "" leaves the texts out')
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--num_settings", type=int, help="of `tables`: how many to choose from")
    parser.add_argument("--split_strategy", choices=["leave_one_out", "temporal"])
    args = parser.parse_args()
    for name in args.datasets:
        commands[args.what](name, args)
    write_page()


if __name__ == "__main__":
    main()
