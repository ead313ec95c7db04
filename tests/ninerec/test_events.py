"""`min_rating` and `event_weights`: which interactions count, and what, against an implementation in plain Python."""

import json

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from datasets import load_dataset

from modeling_transrec import DataArguments
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.baselines import BASELINES, Platform
from modeling_transrec.evaluation.evaluate import EvaluationArguments, evaluate
from modeling_transrec.ninerec.protocol import split_protocol
from modeling_transrec.ninerec.tables import interactions as module
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tools.describe import statistics
from modeling_transrec.ninerec.tools.validate import main, validate


WEIGHTS = {"click": 0.25, "purchase": 1, "view": 0}
ITEM_IDS = [f"i{number}" for number in range(23)]
HEADER = ("customer", "sku", "grade", "kind", "bought")
COLUMNS = {"user_id": "customer", "item_id": "sku", "rating": "grade", "event_type": "kind", "timestamp": "bought"}
FORMS = ["csv", "quoted", "irregular", "tsv", "parquet", "bare"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("NINEREC_DATA_DIR", raising=False)


def make_rows(num_rows=3000, num_times=60):
    """Rows (user, item, rating, event type, time), some equal in user, item and time."""
    rng = np.random.default_rng(3)
    kinds = ["click", "click", "view", "purchase", "wish"]
    return [
        (
            f"u{rng.integers(40)}",
            f"i{rng.integers(25)}",  # two of them are not in the items table
            float(rng.integers(1, 11)) / 2,
            str(rng.choice(kinds)),
            int(rng.integers(num_times)),
        )
        for _ in range(num_rows)
    ]


def naive(rows, min_rating=None, event_weights=None, timed=True):
    """User -> [(item, weight), …] in time order: users as they appear, equal events once, with the largest weight."""
    users = {}
    for user, item, rating, kind, time in rows:
        weight = 1.0 if event_weights is None else event_weights.get(kind, 0)
        if weight == 0 or (min_rating is not None and rating < min_rating) or item not in ITEM_IDS:
            continue
        events = users.setdefault(user, [])
        same = [event for event in events if timed and event[:2] == [item, time]]
        if same:
            same[0][2] = max(same[0][2], weight)
        else:
            events.append([item, time, weight])
    if timed:
        users = {user: sorted(events, key=lambda event: event[1]) for user, events in users.items()}
    return {user: [(item, weight) for item, _, weight in events] for user, events in users.items()}


def write_items(folder, name="X"):
    (folder / f"{name}_items.csv").write_text("item_id,title\n" + "".join(f"{one},title {one}\n" for one in ITEM_IDS))


def write(folder, rows, form):
    """Writes interactions in a form; returns the file and the options that say what its columns are."""
    folder.mkdir(exist_ok=True)
    write_items(folder)
    path = folder / f"X_interactions.{form if form in ('tsv', 'parquet') else 'csv'}"
    if form == "parquet":
        pl.DataFrame(rows, schema=HEADER, orient="row").write_parquet(path)
        return path, {"columns": COLUMNS}
    separator = "\t" if form == "tsv" else ","
    lines = [separator.join(map(str, row)) for row in rows]
    if form == "quoted":
        lines = [f'"{user}",{item},{rating},"{kind}",{time}' for user, item, rating, kind, time in rows]
    if form == "irregular":  # a field with a quoted line break, which only the careful reader reads
        user, item, rating, kind, time = rows[0]
        lines[0] = f'{user},"{item}\n",{rating},{kind},{time}'
    if form == "bare":
        path.write_text("\n".join(lines) + "\n")
        return path, {"pair_columns": ("user_id", "item_id", "rating", "event_type", "timestamp")}
    path.write_text("\n".join([separator.join(HEADER), *lines]) + "\n")
    return path, {"columns": COLUMNS}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [{"min_rating": 3.5}, {"event_weights": WEIGHTS}, {"min_rating": 2, "event_weights": {"purchase": 2, "click": 1}}],
)
def test_what_counts_equals_plain_python(tmp_path, monkeypatch, caplog, form, options):
    rows = make_rows()
    path, names = write(tmp_path, rows, form)
    monkeypatch.setattr(module, "ROWS_PER_PART", 500)  # parts of the users are merged
    sequences = read_sequences(path, pl.Series(ITEM_IDS), min_actions=1, options=TableOptions(**names, **options))
    weights = sequences.weights if "event_weights" in options else np.ones(len(sequences.items))
    events = [(ITEM_IDS[item], weight) for item, weight in zip(sequences.items, weights, strict=True)]
    ends = sequences.offsets
    found = {user: events[ends[n] : ends[n + 1]] for n, user in enumerate(sequences.user_ids.to_pylist())}
    assert found == naive(rows, **options)
    assert (sequences.weights is None) == ("event_weights" not in options)
    low = [row for row in rows if "min_rating" in options and row[2] < options["min_rating"]]
    if low:
        least = f"{options['min_rating']:g}"
        message = f"{len(low):,} interactions in {path.name} have a rating below {least}: left out"
        assert message in caplog.text


def test_by_default_everything_counts(tmp_path):
    rows = make_rows()
    path, names = write(tmp_path, rows, "csv")
    sequences = read_sequences(path, pl.Series(ITEM_IDS), min_actions=1, options=TableOptions(**names))
    assert len(sequences.items) == sum(map(len, naive(rows).values())) and sequences.weights is None


def test_without_times(tmp_path):
    """As QB and TN: rows in time order, here with the types of events beside them."""
    rows = make_rows(200)
    lines = "".join(f"{user},{item},{kind}\n" for user, item, _, kind, _ in rows)
    (tmp_path / "X_pair.csv").write_text(lines)
    options = TableOptions({"timestamp": None}, ("user_id", "item_id", "event_type"), event_weights=WEIGHTS)
    sequences = read_sequences(tmp_path / "X_pair.csv", pl.Series(ITEM_IDS), min_actions=1, options=options)
    assert sequences.timestamps is None
    expected = naive(rows, event_weights=WEIGHTS, timed=False)
    assert sequences.weights.tolist() == [weight for events in expected.values() for _, weight in events]


# Loaded


@pytest.fixture
def load(tmp_path):
    rows = make_rows(6000, num_times=10**6)
    _, names = write(tmp_path / "data", rows, "csv")

    def load(name="X", **options):
        where = {"data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "hf")}
        return load_dataset("ninerec", name, **{**where, **names, "max_seq_len": 10_000, **options})

    load.rows = rows
    return load


def test_splits_are_made_of_what_counts(load):
    options = {"min_rating": 4, "event_weights": WEIGHTS}
    data, expected = load(**options), naive(load.rows, **options)
    expected = {user: events for user, events in expected.items() if len(events) >= 5}
    assert data["test"]["user_id"][:] == list(expected)
    for split, num_last in (("train", 2), ("validation", 2), ("test", 1)):
        for row, events in zip(data[split], expected.values(), strict=True):
            history = events[:-num_last]
            assert list(zip(row["item_ids"], row["weights"], strict=True)) == history
            assert row["target"] == (None if split == "train" else events[-num_last][0])
    assert data["train"].features["weights"] == datasets.List(datasets.Value("float32"))
    used = {item for events in expected.values() for item, _ in events}
    assert load("X_items", **options)["train"]["item_id"][:] == [one for one in ITEM_IDS if one in used]
    streamed = load(**options, streaming=True)["test"]
    assert list(streamed) == list(data["test"])


def test_protocol_and_cache(load):
    everything = load()["train"]
    assert "min_rating" not in split_protocol(everything) and "weights" not in everything.column_names
    rated = load(min_rating=4)["train"]
    assert split_protocol(rated)["min_rating"] == 4 and "weights" not in rated.column_names
    weighed = load(event_weights={"purchase": 1, "click": 0.25})["train"]
    assert split_protocol(weighed)["event_weights"] == {"click": 0.25, "purchase": 1.0}
    files = [data.cache_files[0]["filename"] for data in (everything, rated, weighed)]
    assert len(set(files)) == 3
    again = load(event_weights={"click": 0.25, "purchase": 1.0})["train"]
    assert again.cache_files == weighed.cache_files


def test_a_click_counts_less_than_a_purchase(load):
    training = load(event_weights=WEIGHTS, split="train")
    items = load("X_items", event_weights=WEIGHTS, split="train")
    platform = Platform(items, training)
    counts, pairs, num_interactions = {}, {}, {}
    for row in training:
        for place, (item, weight) in enumerate(zip(row["item_ids"], row["weights"], strict=True)):
            counts[item] = counts.get(item, 0) + weight
            num_interactions[item] = num_interactions.get(item, 0) + 1
            for back in range(1, min(place, 20) + 1):
                earlier = row["item_ids"][place - back]
                pairs[earlier, item] = pairs.get((earlier, item), 0) + weight * 0.9 ** (back - 1)
                pairs[item, earlier] = pairs.get((item, earlier), 0) + weight * 0.9 ** (back - 1) / 2
    item_ids = items["item_id"][:]
    assert platform.num_interactions.tolist() == [num_interactions[one] for one in item_ids]
    assert platform.item_counts == pytest.approx([counts[one] for one in item_ids])
    transitions = platform.transitions
    assert transitions.item_counts == pytest.approx([counts[one] for one in item_ids])
    found = {(one, other): count for one in item_ids for other, count in transitions[one].items()}
    assert found == pytest.approx(pairs)
    plain = Transitions.from_sequences(training["item_ids"][:], item_ids)
    assert transitions.stamp["fingerprint"] != plain.stamp["fingerprint"]
    popular = BASELINES["popularity"](platform)[0].scores(torch.zeros(1, 1, dtype=torch.long))[0]
    assert popular.tolist() == platform.item_counts.tolist()


def test_options_of_commands(load, tmp_path, monkeypatch):
    """What `--min_rating` and `--event_weights` say reaches the counts and the protocol of an evaluation."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    options = {"min_rating": 4.0, "event_weights": json.dumps(WEIGHTS)}
    data = DataArguments(
        dataset_config_name="X", data_dir=str(tmp_path / "data"), columns=json.dumps(COLUMNS), **options
    )
    results = evaluate(EvaluationArguments("transitions", use_cpu=True), data)
    assert results["protocol"]["data"]["min_rating"] == 4
    assert results["protocol"]["data"]["event_weights"] == {"click": 0.25, "purchase": 1.0, "view": 0.0}
    weighed = load(min_rating=4, event_weights=WEIGHTS, split="train")
    assert data.load_training_histories()["weights"][:] == weighed["weights"][:]
    with pytest.raises(ValueError, match="--event_weights is for --dataset_name ninerec"):
        DataArguments("prepared", "X", event_weights='{"click": 1}').load_items(20)


# Errors and tools


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_rating": "4"}, "min_rating must be a number, got '4'"),
        ({"min_rating": float("nan")}, "min_rating must be a number"),
        ({"event_weights": ["click"]}, "event_weights must be what each type counts"),
        ({"event_weights": {"click": -1}}, "at least 0"),
        ({"event_weights": {"click": 0}}, "event_weights must be"),
        (
            {"event_weights": {"buy": 1}},
            "X_interactions.csv: no interaction is of the type 'buy'.*'click', 'purchase'",
        ),
        ({"min_rating": 9}, "X_interactions.csv: all interactions have a rating below 9"),
        (
            {"min_rating": 1, "columns": {"user_id": "customer", "item_id": "sku", "timestamp": "bought"}},
            r"X_interactions.csv:1: min_rating needs a column rating, and none of .*columns={\"rating\": \"…\"}",
        ),
        (
            {"event_weights": {"click": 1}, "columns": {**COLUMNS, "event_type": "typ"}},
            "no column 'typ' for event_type: .*X_interactions.csv has .*'kind'",
        ),
    ],
)
def test_errors(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


@pytest.mark.parametrize("form", ["csv", "quoted", "parquet", "bare"])
def test_wrong_ratings_are_named(tmp_path, form):
    rows = [("u", "i1", "5", "click", 1), ("u", "i2", "good", "click", 2)]
    path, names = write(tmp_path, rows, form)
    place = {"parquet": ", row 2", "bare": ":2"}.get(form, ":3")
    with pytest.raises(ValueError, match=f"{path.name}{place}: rating 'good' is no number"):
        read_sequences(path, pl.Series(ITEM_IDS), min_actions=1, options=TableOptions(**names, min_rating=1))


@pytest.mark.parametrize("rating", [None, float("nan"), "", " "])
def test_missing_ratings_are_named(tmp_path, rating):
    path = tmp_path / "X_interactions.parquet"
    column = pl.Series("rating", ["5", rating]) if isinstance(rating, str) else pl.Series("rating", [5.0, rating])
    pl.DataFrame({"user_id": "u", "item_id": ["i1", "i2"], "timestamp": [1, 2]}).with_columns(column).write_parquet(
        path
    )
    with pytest.raises(ValueError, match=f"{path.name}, row 2: (empty rating|rating '.?' is no number)"):
        read_sequences(path, pl.Series(ITEM_IDS), min_actions=1, options=TableOptions(min_rating=1))


def test_lines_of_users_have_no_ratings(tmp_path):
    (tmp_path / "X_behaviour.tsv").write_text("u\ti1 i2\n")
    for options, role in (({"min_rating": 1}, "rating"), ({"event_weights": {"a": 1}}, "event_type")):
        with pytest.raises(ValueError, match=rf"X_behaviour\.tsv: .* needs a column {role}.*a line a user"):
            read_sequences(tmp_path / "X_behaviour.tsv", pl.Series(ITEM_IDS), options=TableOptions(**options))


def test_validate_and_describe(tmp_path, capsys):
    rows = make_rows()
    path, names = write(tmp_path, rows, "csv")
    options = {**names, "min_rating": 4, "event_weights": WEIGHTS}
    problems = {problem.what: problem for problem in validate("X", tmp_path, min_actions=1, **options)}
    low = [(line, row) for line, row in enumerate(rows, 2) if row[2] < 4]
    found = problems["interactions have a rating below 4: left out"]
    assert found.count == len(low) and found.examples[0] == f"{path.name}:{low[0][0]}: {low[0][1][2]}"
    light = [row for row in rows if row[2] >= 4 and row[3] in ("view", "wish")]
    assert problems["interactions are of a type without weight in event_weights: left out"].count == len(light)
    assert not [problem for problem in problems.values() if problem.severity == "error"]
    counted = sum(map(len, naive(rows, 4, WEIGHTS).values()))
    assert statistics("X", tmp_path, **options)["interactions"] == counted
    for wrong in (["--min_rating", "much"], ["--event_weights", "[1]"], ["--event_weights", '{"click": -1}']):
        with pytest.raises(SystemExit):
            main(["X", "--data_dir", str(tmp_path), *wrong])
    capsys.readouterr()
