"""Exports: what comes back from each format is what the checkpoint itself computes."""

import json
from collections import Counter
from typing import Any

import datasets
import pytest
import torch

from modeling_transrec import Recommender
from modeling_transrec.cli.main import main
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.export import graphs
from modeling_transrec.export.folders import MANIFEST_FILE, read_manifest
from modeling_transrec.export.onnx_model import OnnxModel
from modeling_transrec.hub.facts import checkpoint_hash
from modeling_transrec.models.modalities import MODALITIES

from ..checks import perturb


HISTORIES = [["i001", "i002", "i007"], ["i010"], [f"i{number:03d}" for number in range(12)]]


def without_media(items: datasets.Dataset) -> datasets.Dataset:
    return items.select_columns(["item_id", "text_en"])


@pytest.fixture
def recommender(make_model, processor_of):
    def make(kind: str, **fields) -> Recommender:
        return Recommender(perturb(make_model(kind, **fields)).model.eval(), processor_of[kind])

    return make


def assert_same_answers(found: Recommender, expected: Recommender, atol: float = 1e-4):
    torch.testing.assert_close(found.item_embeddings, expected.item_embeddings, atol=atol, rtol=0)
    users = [each.scorer.encode_users(each.snapshot.histories_as_indices(HISTORIES)) for each in (found, expected)]
    torch.testing.assert_close(*users, atol=atol, rtol=0)
    for one, other in zip(found.recommend(HISTORIES, k=5), expected.recommend(HISTORIES, k=5), strict=True):
        assert [item["item_id"] for item in one] == [item["item_id"] for item in other]
        scores = torch.tensor([[item["score"] for item in answer] for answer in (one, other)])
        torch.testing.assert_close(scores[0], scores[1], atol=10 * atol, rtol=1e-4)
    assert [one["item_id"] for one in found.similar_items("i003")] == [
        one["item_id"] for one in expected.similar_items("i003")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, fields",
    [
        ("text", {"item_projection": "whitened", "hidden_size": 12, "history_decay": 0.8, "user_hidden_size": 8}),
        ("id", {"normalize_scores": True, "temperature": 0.1, "user_encoder_type": "gru4rec"}),
        ("image", {}),
        ("text+image", {"learn_temperature": True, "user_encoder_type": "bert4rec"}),
        ("text+id", {"user_encoder_type": "nextitnet"}),
    ],
)
def test_onnx_recommends_as_torch(kind, fields, recommender, items, tmp_path):
    pytest.importorskip("onnxscript", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    expected = recommender(kind, **fields).index(items)
    expected.export(tmp_path / "onnx")
    loaded = Recommender.from_pretrained(tmp_path / "onnx", backend="onnx")
    assert_same_answers(loaded, expected)  # from the catalogue that went along
    assert_same_answers(loaded.index(items), expected)
    assert not list((tmp_path / "onnx").glob("*.safetensors")) and not [*loaded.model.parameters()]
    if kind in ("image", "text+image"):  # no item of a batch with an image
        blank = [{"item_id": "new", "text_en": "red lamp", "text_zh": None, "image": None}]
        names = [name for name in ("item_id", *expected.processor.item_columns) if name in blank[0]]
        blank = [{name: blank[0][name] for name in names}]
        one, other = (each.add_items(blank).item_embeddings[-1] for each in (loaded, expected))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_catalogue_is_whitened_by_its_own_statistics(recommender, items, tmp_path):
    pytest.importorskip("onnxscript", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    fields = {"item_projection": "whitened", "hidden_size": 12, "history_decay": 0.8, "user_hidden_size": 8}
    expected = recommender("text+image", **fields).index(items)
    expected.export(tmp_path / "onnx")
    loaded = Recommender.from_pretrained(tmp_path / "onnx", backend="onnx")
    of_first = loaded.model.checkpoint_hash(loaded.processor)
    assert of_first == checkpoint_hash(expected.model, expected.processor)
    other = items.select(range(5, len(items)))
    before = loaded.item_embeddings[5:]
    for one in (loaded, expected):
        one.index(other)
    torch.testing.assert_close(loaded.item_embeddings, expected.item_embeddings, atol=1e-4, rtol=0)
    assert (loaded.item_embeddings - before).abs().max() > 1e-2  # else the first statistics would do
    assert loaded.model.checkpoint_hash(loaded.processor) != of_first


@pytest.mark.parametrize("kind", ["id", "text"])
def test_a_catalogue_is_encoded_by_the_parts_that_an_export_has(kind, recommender, items, tmp_path):
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    expected = recommender(kind).index(items)
    exported: Any = OnnxModel(tmp_path, expected.model.config, {})
    exported._run = lambda graph, **given: {"item_embeddings": expected.model.get_item_features(**given)}  # its graphs
    prepared = prepare_items(items, expected.processor)
    found = encode_catalogue(exported, prepared, expected.processor)
    torch.testing.assert_close(found, expected.item_embeddings)


@pytest.mark.slow
def test_a_model_of_users_needs_their_ids(recommender, items, processor_of, tmp_path):
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    dssm = recommender("id", user_encoder_type="dssm").index(items)
    dssm.processor = type(dssm.processor)(item_ids=dssm.processor.item_ids, user_ids=[f"u{n}" for n in range(13)])
    dssm.index(items).export(tmp_path / "onnx")
    loaded = Recommender.from_pretrained(tmp_path / "onnx", backend="onnx")
    one, other = (each.recommend(["i001"], user_id="u7", k=3) for each in (loaded, dssm))
    assert [item["item_id"] for item in one] == [item["item_id"] for item in other]


@pytest.mark.slow
def test_int8_is_near_and_known_as_another(recommender, items, processor_of, monkeypatch, tmp_path):
    onnx = pytest.importorskip("onnx", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    monkeypatch.setattr(graphs, "_LARGE_TABLE", 1000)
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    vocabulary = {"vocab_size": max(100, len(processor_of["text"].tokenizer)), "max_position_embeddings": 40}
    expected = recommender("text", text_config={"model_type": "bert", **size, **vocabulary}).index(items)
    for quantize in (None, "int8"):
        expected.export(tmp_path / str(quantize), quantize=quantize)
    whole = Recommender.from_pretrained(tmp_path / "None", backend="onnx")
    small = Recommender.from_pretrained(tmp_path / "int8", backend="onnx")
    sizes = [(tmp_path / name / "onnx" / "item_tower.onnx").stat().st_size for name in ("None", "int8")]
    assert sizes[1] < 0.9 * sizes[0]
    graph = onnx.load(tmp_path / "int8" / "onnx" / "item_tower.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds["GatherBlockQuantized"], kinds["MatMulNBits"]) == (1, 12)  # two blocks
    assert sum(one.data_type == onnx.TensorProto.FLOAT16 for one in graph.initializer) == 12  # the other two
    assert small.items is None  # vectors of float32 stay with float32
    small.index(items)
    cosines = torch.cosine_similarity(small.item_embeddings, expected.item_embeddings)
    assert 0.999 < cosines.min() and not torch.equal(small.item_embeddings, expected.item_embeddings)
    best = [
        [{item["item_id"] for item in one} for one in each.recommend(HISTORIES, k=10)] for each in (small, expected)
    ]
    assert sum(len(one & other) for one, other in zip(*best, strict=True)) >= 28  # of 30
    with pytest.raises(ValueError, match="made by another checkpoint"):
        small.use_catalogue(expected.catalogue)
    assert_same_answers(whole.use_catalogue(expected.catalogue), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, fields",
    [
        ("text+image", {"normalize_scores": True}),
        ("text", {"item_projection": "whitened", "hidden_size": 12, "history_decay": 0.8, "user_hidden_size": 8}),
        ("id", {"user_encoder_type": "gru4rec"}),
        ("audio", {"user_encoder_type": "bert4rec"}),
    ],
)
def test_torch_export_is_loaded_by_torch(kind, fields, recommender, items, tmp_path):
    expected = recommender(kind, **fields).index(items)
    expected.export(tmp_path / "graphs", format="torch-export")
    manifest = read_manifest(tmp_path / "graphs" / MANIFEST_FILE)
    assert manifest["checkpoint"] == checkpoint_hash(expected.model, expected.processor)
    graphs = {
        name: torch.export.load(tmp_path / "graphs" / "torch-export" / f"{name}.pt2").module()
        for name in ("item_tower", "user_tower", "scoring_space")
    }
    model, processor = expected.model, expected.processor
    for count in (2, 7):
        columns = {"text": "text_en", "image": "image", "audio": "audio", "id": "item_id"}
        given = {MODALITIES[part].argument: items[columns[part]][:count] for part in kind.split("+")}
        inputs = dict(processor(**given))
        embeddings = graphs["item_tower"](inputs)
        torch.testing.assert_close(embeddings, model.get_item_features(**inputs), atol=1e-5, rtol=0)
        history = {"item_embeddings": embeddings.expand(2, -1, -1), "mask": torch.ones(2, count, dtype=torch.bool)}
        users = graphs["user_tower"](history)
        torch.testing.assert_close(users, model.get_user_features(**history), atol=1e-5, rtol=0)
        vectors = graphs["scoring_space"]({"embeddings": users})
        torch.testing.assert_close(vectors, model.to_scoring_space(users), atol=1e-5, rtol=0)


def test_what_cannot_be_exported_is_a_sentence(recommender, items, tmp_path):
    one = recommender("id")
    with pytest.raises(ValueError, match="format must be onnx, torch-export or sentence-transformers, got 'tflite'"):
        one.export(tmp_path / "a", format="tflite")
    with pytest.raises(ValueError, match="quantize='int8' is for format='onnx'"):
        one.export(tmp_path / "a", format="torch-export", quantize="int8")
    with pytest.raises(ValueError, match="a model of id cannot be one of sentence-transformers"):
        one.export(tmp_path / "a", format="sentence-transformers")
    with pytest.raises(ValueError, match="ViltModel computes other things"):
        recommender("vilt").export(tmp_path / "a", format="torch-export")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has files that are no export; name a new or an empty folder"):
        one.export(tmp_path / "b")
    assert not (tmp_path / "a" / MANIFEST_FILE).exists()


def test_a_backend_that_does_not_fit_is_a_sentence(recommender, tmp_path, capsys):
    one = recommender("id")
    one.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match='backend must be "torch" or "onnx", got \'tf\''):
        Recommender.from_pretrained(tmp_path / "whole", backend="tf")
    with pytest.raises(ValueError, match="is no export: run transrec export"):
        Recommender.from_pretrained(tmp_path / "whole", backend="onnx")
    options = ["--output_dir", str(tmp_path / "c"), "--format", "torch-export", "--quantize", "int8"]
    assert main(["export", str(tmp_path / "whole"), *options]) == 2
    assert "transrec export: quantize='int8' is for format='onnx'" in capsys.readouterr().err
    (tmp_path / "graphs").mkdir()
    manifest = {"format": "torch-export", "checkpoint": "0", "processor": "0", "files": []}
    (tmp_path / "graphs" / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"is an export of format torch-export, which torch.export.load loads"):
        Recommender.from_pretrained(tmp_path / "graphs", backend="onnx")
    (tmp_path / "graphs" / MANIFEST_FILE).write_text(json.dumps({"format": "onnx"}))
    with pytest.raises(ValueError, match="is no manifest of an export"):
        Recommender.from_pretrained(tmp_path / "graphs", backend="onnx")
