"""Folders of recommenders that are damaged or made to do harm: each is a sentence that names the file."""

import json
import os
import shutil
import struct

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import BertConfig, BertModel

from modeling_transrec import Recommender, TransRecProcessor
from modeling_transrec.serving import catalogue

from ..tiny import make_sequences


PARQUET, SCORING, COUNTS = "train-00000-of-00001.parquet", "scoring.safetensors", "transitions.safetensors"
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def recommender(items, tokenizer, text_processor, tmp_path_factory):
    """Content kNN with counts, and the folder that it is saved in."""
    backbone = tmp_path_factory.mktemp("backbone")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=20, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
    )
    BertModel(config).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    users = make_sequences(items, 13, "test")
    pairs = [(row["user_id"], item_id) for row in users for item_id in row["item_ids"]]
    histories = {"user_id": [user for user, _ in pairs], "item_id": [item_id for _, item_id in pairs]}
    return Recommender.from_backbone(str(backbone), language="en").index(items, histories=histories)


@pytest.fixture(scope="module")
def saved(recommender, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    recommender.save_pretrained(folder)
    assert {path.name for path in (folder / "catalogue").iterdir()} == {PARQUET, SCORING, COUNTS}
    return folder


# Each changes the file of a catalogue's folder; by name, the file and the change.


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def overwrite(path, content):
    path.write_bytes(content)


def columns(path, change):
    """Changes the columns, by name, of the Parquet file; its metadata stay."""
    table = pq.read_table(path)
    changed = {name: table[name].combine_chunks() for name in table.column_names}
    change(changed)
    metadata = {name: value for name, value in table.schema.metadata.items() if name != b"huggingface"}
    pq.write_table(pa.table(changed).replace_schema_metadata(metadata), path)


def column(name, make):
    return lambda path: columns(path, lambda found: found.update({name: make(found[name])}))


def without_column(name):
    return lambda path: columns(path, lambda found: found.pop(name))


def vectors(change):
    def make(column):
        values = np.array(column.to_pylist(), dtype=np.float64)
        return change(values)

    return column("vector", make)


def lists(kind):
    return lambda values: pa.array(values.tolist(), pa.list_(kind))


def changed_at(number):
    def change(values):
        values[3, 2] = number
        return pa.array(values.tolist(), pa.list_(pa.float64()))

    return change


def first_is(vector):
    return lambda values: pa.array([vector, *values.tolist()[1:]], pa.list_(pa.float32()))


def metadata(**values):
    def change(path):
        table = pq.read_table(path)
        added = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in values.items()}
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **added}), path)

    return change


def rows(number):
    return lambda path: pq.write_table(pq.read_table(path).slice(0, number), path)


def tensors(change):
    """Changes the tensors and the metadata of a safetensors file."""

    def apply(path):
        with safe_open(path, "numpy") as opened:
            found, facts = {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata())
        change(found, facts)
        save_file({name: np.ascontiguousarray(value) for name, value in found.items()}, path, metadata=facts)

    return apply


def tensor(name, make):
    return tensors(lambda found, facts: found.update({name: make(found[name])}))


def without(name):
    return tensors(lambda found, facts: (found.pop(name, None), facts.pop(name, None)))


def fact(name, value):
    return tensors(lambda found, facts: facts.update({name: value}))


def scoring_fact(*names, value):
    """Changes one number among the nested facts of the scoring file."""

    def change(found, facts):
        inner = whole = json.loads(facts["facts"])
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value
        facts["facts"] = json.dumps(whole)

    return tensors(change)


def setting(name, value):
    return tensors(lambda _, facts: facts.update(settings=json.dumps({**json.loads(facts["settings"]), name: value})))


def put(make):
    return lambda path: (path.unlink(), make(path))


NAN, INF = float("nan"), float("inf")
ANY_FILE = {
    "empty": lambda path: overwrite(path, b""),
    "half": lambda path: cut(path, 0.5),
    "without its end": lambda path: cut(path, 0.98),
    "a text": lambda path: overwrite(path, b"item_id,vector\na,1\n"),
    "a pickle": lambda path: overwrite(path, b"\x80\x04cposix\nsystem\n(S'true'\ntR."),
    "a gigantic header": lambda path: overwrite(path, struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    "zeros": lambda path: overwrite(path, bytes(path.stat().st_size)),
    "a pipe": put(os.mkfifo),
    "a link to itself": put(lambda path: path.symlink_to(path)),
    "a device": put(lambda path: path.symlink_to("/dev/zero")),
}
CHANGES = {
    PARQUET: {
        **{f"without {name}": without_column(name) for name in ("item_id", "vector", "checkpoint")},
        "no rows": rows(0),
        "ids that are numbers": column("item_id", lambda ids: pa.array(range(len(ids)))),
        "an id that is missing": column("item_id", lambda ids: pa.array([None, *ids.to_pylist()[1:]], pa.string())),
        "an id twice": column("item_id", lambda ids: pa.array([ids[1].as_py(), *ids.to_pylist()[1:]])),
        "ids that are lists": column("item_id", lambda ids: pa.array([[one] for one in ids.to_pylist()])),
        "ids that are bytes": column("item_id", lambda ids: pa.array([b"\xff%d" % one for one in range(len(ids))])),
        "vectors with a NaN": vectors(changed_at(NAN)),
        "vectors with an infinity": vectors(changed_at(-INF)),
        "vectors beyond float32": vectors(changed_at(1e300)),
        "a vector that is missing": vectors(first_is(None)),
        "numbers that are missing": vectors(first_is([None] * 20)),
        "a longer vector": vectors(first_is([0.0] * 21)),
        "vectors of another width": vectors(lambda values: lists(pa.float32())(values[:, :7])),
        "vectors of whole numbers": vectors(lambda values: lists(pa.int64())(values.astype(int))),
        "vectors of texts": vectors(lambda values: lists(pa.string())(values.astype(str))),
        "vectors of vectors": vectors(lambda values: pa.array([[one] for one in values.tolist()])),
        "vectors that are numbers": vectors(lambda values: pa.array(values[:, 0])),
        "two checkpoints": column("checkpoint", lambda made_by: pa.array(["0" * 64, *made_by.to_pylist()[1:]])),
        "another checkpoint": column("checkpoint", lambda made_by: pa.array(["0" * 64] * len(made_by))),
        "no checkpoint": column("checkpoint", lambda made_by: pa.nulls(len(made_by), pa.string())),
        "checkpoints that are numbers": column("checkpoint", lambda made_by: pa.array([7] * len(made_by))),
        "means that are no numbers": metadata(user_mean="nothing", item_mean="nothing"),
        "means of another width": metadata(user_mean="00000000", item_mean="00000000"),
        "means of half a number": metadata(user_mean="0000", item_mean="0000"),
        "means with a NaN": metadata(user_mean="0000c07f" * 20, item_mean="0000c07f" * 20),
        "one mean": metadata(item_mean="00000000" * 20),
        "features that are no JSON": metadata(huggingface="{"),
        "features that are deep": metadata(huggingface=DEEP),
        "features that are a list": metadata(huggingface="[1, 2]"),
        "features of another kind": metadata(huggingface='{"info": {"features": {"item_id": {"_type": "Nonsense"}}}}'),
        "metadata of no text": metadata(other_dtypes=b"\xff\xfe"),
    },
    SCORING: {
        "no facts": without("facts"),
        "facts that are no JSON": fact("facts", "{"),
        "facts that are a list": fact("facts", "[1]"),
        "facts that are deep": fact("facts", DEEP),
        "no weight": scoring_fact("transition_weight", value=None),
        "a weight that is a text": scoring_fact("transition_weight", value="1"),
        "a weight that is no number": scoring_fact("transition_weight", value=NAN),
        "a gigantic weight": scoring_fact("transition_weight", value=10**400),
        "content that is a list": scoring_fact("content", value=[1]),
        "content without all": scoring_fact("content", value={}),
        "weights that are a list": scoring_fact("content", "weights", value=[1]),
        "weights of another modality": scoring_fact("content", "weights", value={"smell": 1.0}),
        "a weight below 0": scoring_fact("content", "weights", value={"text": -1.0}),
        "powers of another modality": scoring_fact("content", "powers", value={"smell": 0.5}),
        "a power beyond 1": scoring_fact("content", "powers", "text", value=7),
        "a decay beyond 1": scoring_fact("content", "history_decay", value=2.0),
        "a decay that is a text": scoring_fact("content", "history_decay", value="0.5"),
        "a gigantic history": scoring_fact("content", "max_seq_len", value=10**12),
        "scores of other items": tensors(lambda found, _: found.update(item_scores=np.zeros(3, np.float32))),
        "scores with a NaN": tensors(lambda found, _: found.update(item_scores=np.full(37, NAN, np.float32))),
        "scores of whole numbers": tensors(lambda found, _: found.update(item_scores=np.zeros(37, np.int64))),
        "a mean of another width": tensor("text.mean", lambda mean: mean[:5]),
        "a matrix with a NaN": tensor("text.matrix", lambda matrix: matrix * NAN),
        "no matrix": without("text.matrix"),
    },
    COUNTS: {
        **{f"without {name}": without(name) for name in ("offsets", "columns", "counts", "item_counts")},
        **{f"without {name}": without(name) for name in ("item_id_bytes", "settings", "times", "stamp")},
        "columns beyond the items": tensor("columns", lambda values: values + 1000),
        "columns below 0": tensor("columns", lambda values: values - 1000),
        "offsets that go down": tensor("offsets", lambda values: values[::-1]),
        "offsets beyond the counts": tensor("offsets", lambda values: values * 1000),
        "offsets of fewer items": tensor("offsets", lambda values: values[:-1]),
        "fractions for offsets": tensor("offsets", lambda values: values + 0.5),
        "counts with a NaN": tensor("counts", lambda values: values * NAN),
        "item counts of fewer items": tensor("item_counts", lambda values: values[:-1]),
        "item counts with an infinity": tensor("item_counts", lambda values: values + INF),
        "ids longer than all bytes": tensor("item_id_lengths", lambda values: values + 1),
        "ids of lengths below 0": tensor("item_id_lengths", lambda values: values - 9),
        "ids that are no text": tensor("item_id_bytes", lambda values: values | 128),
        "the same id for all": tensor("item_id_bytes", lambda values: np.full_like(values, 65)),
        "settings that are a list": fact("settings", "[1]"),
        "settings that are deep": fact("settings", DEEP),
        "an unknown setting": setting("nonsense", 1),
        "a gigantic window": setting("window", 10**12),
        "a window of a fraction": setting("window", 2.5),
        "a decay that is no number": setting("decay", NAN),
        "a power that is a text": setting("power", "0.3"),
        "a half-life without end": setting("half_life", INF),
        "times that are texts": fact("times", '["a", "b"]'),
        "three times": fact("times", "[1, 2, 3]"),
        "a stamp that is a list": fact("stamp", "[1]"),
        "users that are a text": fact("stamp", '{"num_users": "many"}'),
    },
}


@pytest.mark.parametrize("name", [PARQUET, SCORING, COUNTS])
def test_a_damaged_or_hostile_file_is_a_sentence_that_names_it(name, recommender, saved, tmp_path):
    """Every change on a folder of its own; one recommender loads them all, and keeps what it has."""
    before, escaped = recommender.recommend(["i003", "i010"], k=5), {}
    for number, (what, change) in enumerate({**ANY_FILE, **CHANGES[name]}.items()):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        path = folder / "catalogue" / name
        change(path)
        try:
            recommender.load_catalogue(folder)
            escaped[what] = "was loaded"
        except (ValueError, OSError) as error:
            is_plain = type(error) in (ValueError, OSError)
            if not is_plain or not str(error).startswith(str(folder / "catalogue")) or "training has" in str(error):
                escaped[what] = repr(error)
        except Exception as error:
            escaped[what] = repr(error)
        shutil.rmtree(folder)
    assert not escaped
    assert recommender.recommend(["i003", "i010"], k=5) == before


def test_counts_without_their_weight(recommender, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "saved")
    (tmp_path / "saved" / "catalogue" / SCORING).unlink()
    with pytest.raises(ValueError, match="scoring.safetensors is missing beside it"):
        recommender.load_catalogue(tmp_path / "saved")


@pytest.mark.parametrize("ids", [[1, 2, 3], ["a", None, "c"], ["a", "a", "b"]])
def test_ids_of_a_data_set_are_checked_too(ids, recommender):
    others = recommender.catalogue.select(range(3)).remove_columns("item_id")
    added = datasets.Dataset.from_dict({"item_id": ids})
    with pytest.raises(ValueError, match="item_id"):
        recommender.use_catalogue(datasets.concatenate_datasets([others, added], axis=1))


def test_rows_that_are_far_more_than_the_file_are_not_read(recommender, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_MOST_BYTES", 2**20)
    shutil.copytree(saved, tmp_path / "saved")
    path = tmp_path / "saved" / "catalogue" / PARQUET
    table = pq.read_table(path).slice(0, 1).append_column("note", [["x" * 10_000]])
    pq.write_table(table.take(pa.array([0] * 10_000)), path)  # a hundred megabytes, in some kilobytes
    with pytest.raises(ValueError, match="its rows take more than"):
        recommender.load_catalogue(tmp_path / "saved")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path)], ids=["pipe", "link"])
def test_no_file_of_the_checkpoint_is_passed_over(name, make, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "saved")
    (tmp_path / "saved" / name).unlink()
    make(tmp_path / "saved" / name)
    with pytest.raises(ValueError, match=f"{name} is no file"):
        Recommender.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=f"{name} is no file"):
        TransRecProcessor.from_pretrained(tmp_path / "saved")


# More by hand: FUZZ_EXAMPLES=10000 python -m pytest tests/serving/test_hostile_catalogues.py -k bytes
@pytest.mark.parametrize("name", [PARQUET, SCORING, COUNTS])
def test_changed_bytes_are_loaded_or_told(name, recommender, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "changed")
    file = folder / "catalogue" / name
    content = file.read_bytes()
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))

    @settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")), deadline=None, derandomize=True, database=None)
    @given(st.lists(places, min_size=1, max_size=4), st.integers(0, len(content) - 1) | st.none())
    def load(changes, length):
        changed = bytearray(content)
        for place, value in changes:
            changed[place] = value
        file.write_bytes(bytes(changed[:length]))
        loaded = Recommender(recommender.model, recommender.processor)
        try:
            loaded.load_catalogue(folder)
            loaded.recommend(loaded.item_ids[:2], k=3)
        except (ValueError, OSError) as error:
            assert len(str(error)) > 20 and "Error" not in str(error).split(":")[0]

    load()
