"""Properties of reading and splitting that hold for any data; hypothesis looks for counterexamples."""

import io
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_transrec.ninerec.builder import SPLITS, NineRecConfig
from modeling_transrec.ninerec.files import find_files
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.items import read_items
from modeling_transrec.ninerec.tables.lists import is_list
from modeling_transrec.ninerec.tools.check_media import check_image
from modeling_transrec.ninerec.tools.validate import validate


settings.register_profile("same everywhere", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("same everywhere")

NOT_TEXT = ("Cs",)  # lone surrogates cannot be written as UTF-8
ids = st.text(st.characters(exclude_categories=("Cc", *NOT_TEXT)), min_size=1, max_size=9).filter(
    # A list would be several ids; a mark at the beginning of a line is that of a file that was joined to another.
    lambda text: text == text.strip() != "" and not is_list(text) and not text.startswith("\ufeff")
)
texts = st.text(st.characters(exclude_categories=NOT_TEXT), max_size=20)
times = st.integers(-(2**62), 2**29) | st.integers(2**62 - 2**40, 2**62)  # none clearly of a unit


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def write_rows(path, rows):
    """As RFC 4180 has it; Python's own writer leaves a carriage return without quotes."""
    lines = [",".join(map(quoted, row)) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8-sig", newline="")
    return path


def quoted(field):
    text = str(field)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def by_user(sequences):
    """User -> [(item, timestamp), …]."""
    item_ids, ends = sequences.item_ids.to_pylist(), sequences.offsets
    items = [item_ids[item] for item in sequences.items]
    times = [None] * len(items) if sequences.timestamps is None else sequences.timestamps.tolist()
    interactions = list(zip(items, times, strict=True))
    return {user: interactions[ends[row] : ends[row + 1]] for row, user in enumerate(sequences.user_ids.to_pylist())}


# Splits

histories = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=3, max_size=40), min_size=1, max_size=7
)


@pytest.mark.parametrize("strategy", SPLITS)
@given(users=histories, max_seq_len=st.integers(1, 9), start=st.integers(0, 30), length=st.integers(1, 15) | st.none())
def test_nothing_that_is_predicted_is_trained_on(folder, strategy, users, max_seq_len, start, length):
    """`start` and `length` are of the validation period of a temporal split; without length, the default times."""
    rows = [(f"u{user}", f"i{item}", time) for user, interactions in enumerate(users) for item, time in interactions]
    path = write_rows(folder / "X_pair.csv", [("user_id", "item_id", "timestamp"), *rows])
    options = {"max_seq_len": max_seq_len, "min_actions": 3, "split_strategy": strategy}
    if strategy == "temporal" and length is not None:
        options |= {"validation_start": start, "test_start": start + length}
    config = NineRecConfig(name="X", **options)
    try:
        sequences = read_sequences(path, pl.Series([f"i{item}" for item in range(7)]), min_actions=3)
        sequences, splits = SPLITS[strategy](sequences, config)
    except ValueError:  # too few interactions are left, or none is in a period
        assume(False)
    trained = {user: positions_of(splits["train"], row) for row, user in enumerate(splits["train"].users)}
    times = sequences.timestamps
    for name in ("validation", "test"):
        split = splits[name]
        assert split.has_target
        for row, user in enumerate(split.users):
            history, target = positions_of(split, row), split.stop[row]
            assert len(history) and history.max() < target < sequences.offsets[user + 1]
            assert history.min() >= sequences.offsets[user]
            assert target not in trained.get(user, [])
            assert trained.get(user, history).max() < target
    held_out = [{*zip(splits[name].users, splits[name].stop, strict=True)} for name in ("validation", "test")]
    assert not held_out[0] & held_out[1]
    assert not splits["train"].has_target
    if strategy == "temporal":
        first, second = config.validation_start, config.test_start
        assert all((times[positions] < first).all() for positions in trained.values())
        for name, low, high in (("validation", first, second), ("test", second, np.inf)):
            split = splits[name]
            assert ((low <= times[split.stop]) & (times[split.stop] < high)).all()
            assert all((times[positions_of(split, row)] < low).all() for row in range(len(split.users)))


def positions_of(split, row):
    return np.arange(split.start[row], split.stop[row])


# Order


@given(
    st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), times),
        min_size=1,
        unique_by=lambda row: row[2],
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_does_not_count(folder, rows, random):
    expected = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        expected.setdefault(user, []).append((item, time))
    for _ in range(3):
        random.shuffle(rows)
        path = write_rows(folder / "X_pair.csv", [("user_id", "item_id", "timestamp"), *rows])
        assert by_user(read_sequences(path, pl.Series(["a", "b", "c"]), min_actions=1)) == expected


# Writing and reading


@given(st.lists(st.tuples(ids, texts, texts), min_size=1, unique_by=lambda row: row[0]))
def test_items_are_read_as_they_were_written(folder, rows):
    path = write_rows(folder / "X_item.csv", [("item_id", "text_zh", "text_en"), *rows])
    assert read_items(path).rows() == rows


@given(st.lists(st.tuples(ids, ids, times), min_size=1, unique_by=lambda row: row[2]))
def test_pairs_are_read_as_they_were_written(folder, rows):
    path = write_rows(folder / "X_pair.csv", [("user_id", "item_id", "timestamp"), *rows])
    found = by_user(read_sequences(path, pl.Series([row[1] for row in rows]).unique(), min_actions=1))
    assert sorted(
        (user, *interaction) for user, interactions in found.items() for interaction in interactions
    ) == sorted(rows)


@given(st.dictionaries(ids, st.lists(ids.map(lambda text: text.replace(" ", "_")), min_size=1), min_size=1))
def test_behaviour_is_read_as_it_was_written(folder, lines):
    path = folder / "X_behaviour.tsv"
    rows = [f"{user}\t{' '.join(items)}\n" for user, items in lines.items()]
    path.write_text("user_id\titem_ids\n" + "".join(rows), encoding="utf-8", newline="")
    known = pl.Series([item for items in lines.values() for item in items]).unique()
    found = by_user(read_sequences(path, known, min_actions=1))
    assert {user: [item for item, _ in interactions] for user, interactions in found.items()} == lines


@pytest.mark.parametrize(
    "times",
    [
        ("1600000000000000002.0", "1600000000000000001.0"),
        ("16", "0x0f"),
        ("16.0", "1.5e1"),
        ("16", "15.0"),
        ("16", "soon"),
    ],
)
def test_quotes_around_another_field_do_not_change_timestamps(folder, times):
    found = []
    for user in ("u", '"u"'):
        (folder / "X_pair.csv").write_text(f"u,a,{times[0]}\n{user},b,{times[1]}\n")
        try:
            found.append(by_user(read_sequences(folder / "X_pair.csv", pl.Series(["a", "b"]), min_actions=1)))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]


# Malformed files

GOOD = {
    "X_item.csv": "".join(f"i{number},中{number},text {number}\n" for number in range(6)).encode(),
    "X_pair.csv": "".join(f"u{n % 2},i{n % 6},{1_500_000_000 + n}\n" for n in range(12)).encode(),
    "X_behaviour.tsv": b"u0\ti0 i1 i2 i3 i4\nu1\ti1 i2 i3 i4 i5 i1\n",
}
PIECES = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\t",
    b" ",
    b"\0",
    b"\x1f",
    b"\xff",
    b"\xef\xbb\xbf",
    "。".encode(),
    b'""',
    b'"\n',
]
PIECES += [b"", b"\n\n", b"i1", b"7", b"-1", b"1e9", b"1.0", b"9" * 30]
PIECES += [b"item_id,title\n", b"user_id,item_id,timestamp\n"]


@st.composite
def broken_files(draw):
    """The files of a data set: some of them of random bytes, cut, or with pieces put in or exchanged."""
    names = draw(st.sampled_from([("X_item.csv", "X_pair.csv"), ("X_item.csv", "X_behaviour.tsv"), tuple(GOOD)]))
    files = {name: GOOD[name] for name in names}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        content = files[name]
        how = draw(st.sampled_from(["random", "cut", "insert", "insert", "insert", "replace", "replace"]))
        if how == "random":
            files[name] = draw(st.binary(max_size=80))
        elif how == "cut":
            files[name] = content[: draw(st.integers(0, len(content)))]
        else:
            place = draw(st.integers(0, len(content)))
            end = place if how == "insert" else min(place + draw(st.integers(1, 9)), len(content))
            files[name] = content[:place] + draw(st.sampled_from(PIECES)) + content[end:]
    return files


@settings(max_examples=120)
@given(broken_files())
@example({"X_item.csv": GOOD["X_item.csv"], "X_pair.csv": b""})
def test_malformed_files_give_a_sentence_that_names_the_file(folder, files):
    """And `validate` finds an error where, and only where, loading fails."""
    with tempfile.TemporaryDirectory(dir=folder) as data_dir:
        for name, content in files.items():
            Path(data_dir, name).write_bytes(content)
        try:
            found = find_files("X", data_dir)
            read_sequences(found.interactions, read_items(found.items)["item_id"])
            message = None
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
            assert any(name in message for name in GOOD), f"{type(error).__name__}: {message}"
            assert " " in message
        problems = validate("X", data_dir)
        assert (message is not None) == any(problem.severity == "error" for problem in problems), (message, problems)


def picture(image_format):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


PICTURES = {".jpg": picture("JPEG"), ".png": picture("PNG"), ".webp": picture("WEBP")}


@given(
    st.sampled_from(list(PICTURES)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=9)), min_size=1, max_size=3),
)
def test_broken_pictures_are_found_whatever_is_broken(folder, suffix, changes):
    """[`check_picture`] warns where, and only where, Pillow cannot decode the picture."""
    content = PICTURES[suffix]
    for share, length, new in changes:
        place = int(share * len(content))
        content = content[:place] + new + content[place + length :]
    path = folder / f"picture{suffix}"
    path.write_bytes(content)
    warned = any(severity == "warning" for severity, _, _ in check_image(path.name, path))
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:
        assert warned
    else:
        assert not warned
