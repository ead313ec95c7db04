"""The folder of a Space: what is in it, and what is published."""

import ast
import copy
import io
import re

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from modeling_transrec import Recommender
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.space import main
from modeling_transrec.export.folders import towers_in
from modeling_transrec.serving.catalogue import CATALOGUE_FILE
from modeling_transrec.serving.space import push_space, write_space


HOSTILE = 'A "shop"""\nimport os; os.abort()  # \\'


@pytest.fixture
def recommender(make_model, text_processor, items):
    return Recommender(make_model("text"), text_processor).index(items)


def card_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_folder(recommender, items, tmp_path):
    app = write_space(recommender, tmp_path, HOSTILE, items, image_size=8).read_text()
    tree = ast.parse(app)  # a program, whatever the title is
    assert {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)} == set()
    assert HOSTILE in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    card = card_of((tmp_path / "README.md").read_text())
    assert (card["title"], card["sdk"], card["app_file"]) == (HOSTILE, "gradio", "app.py")
    assert "models" not in card and re.fullmatch(r"\d+\.\d+\.\d+", card["sdk_version"])
    assert (tmp_path / "requirements.txt").read_text().startswith("modeling_transrec==")
    images = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert [row["item_id"] for row in images] == items["item_id"][:]
    for row, item in zip(images, items, strict=True):
        assert (row["image"] is None) == (item["image"] is None)
    assert max(Image.open(io.BytesIO(images[0]["image"])).size) == 8
    again = Recommender.from_pretrained(tmp_path / "checkpoint")
    assert again.recommend(["i001"]) == recommender.recommend(["i001"])

    write_space(recommender, tmp_path)
    assert not (tmp_path / "images.parquet").exists()


def test_what_is_published(hub, recommender, items, tmp_path):
    write_space(recommender, tmp_path, "Shop", items)
    (tmp_path / "secret.txt").touch()
    (tmp_path / "checkpoint" / "training.bin").touch()
    push_space(tmp_path, "me/page")
    files = hub.files("me/page", "spaces")
    assert {"README.md", "app.py", "requirements.txt", "images.parquet", "checkpoint/config.json"} <= files.keys()
    assert "checkpoint/catalogue/train-00000-of-00001.parquet" in files and "checkpoint/model.safetensors" in files
    assert not {name for name in files if name.endswith((".bin", "secret.txt"))}


def test_a_checkpoint_of_the_hub_is_named_and_not_copied(hub, recommender, tmp_path):
    recommender.push_to_hub("me/shop")
    main(["me/shop", "--output_dir", str(tmp_path), "--push_to_hub", "true", "--hub_space_id", "me/page"])
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "app.py", "requirements.txt"}
    assert "Recommender.from_pretrained('me/shop', revision='main')" in (tmp_path / "app.py").read_text()
    assert card_of(hub.files("me/page", "spaces")["README.md"].decode())["models"] == ["me/shop"]


@pytest.mark.slow
@pytest.mark.parametrize("is_whitened", [False, True])
def test_an_export_is_shown_by_its_graphs(is_whitened, make_model, text_processor, items, hub, tmp_path):
    pytest.importorskip("onnxscript", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    whitened = {"item_projection": "whitened", "hidden_size": 12, "history_decay": 0.8, "user_hidden_size": 8}
    recommender = Recommender(make_model("text", **whitened if is_whitened else {}), text_processor).index(items)
    recommender.export(tmp_path / "onnx")
    options = ["--backend", "onnx", "--output_dir", str(tmp_path / "space")]
    main([str(tmp_path / "onnx"), *options, "--push_to_hub", "true", "--hub_space_id", "me/page"])
    app = (tmp_path / "space" / "app.py").read_text()
    assert 'recommender = Recommender.from_pretrained(HERE / "checkpoint", backend="onnx")' in app.splitlines()
    assert (tmp_path / "space" / "requirements.txt").read_text().startswith("modeling_transrec[export]==")
    shown = Recommender.from_pretrained(tmp_path / "space" / "checkpoint", backend="onnx")
    assert_same_items(shown.recommend(["i001"]), recommender.recommend(["i001"]))
    published = {name.removeprefix("checkpoint/") for name in hub.files("me/page", "spaces") if "checkpoint/" in name}
    assert {*towers_in(shown.model.manifest), "export.json", CATALOGUE_FILE} <= published

    # A page copies the model for tables that are uploaded: that a copy encodes another catalogue changes nothing here.
    other = Recommender(*copy.deepcopy((shown.model, shown.processor))).index(items.select(range(5, 30)))
    assert_same_items(shown.recommend(["i001"]), recommender.recommend(["i001"]))
    # Another catalogue is saved with the statistics by which it was encoded, under a stamp of its own.
    write_space(other, tmp_path / "space")
    again = Recommender.from_pretrained(tmp_path / "space" / "checkpoint", backend="onnx")
    assert (again.catalogue["checkpoint"][0] == shown.catalogue["checkpoint"][0]) != is_whitened
    assert again.recommend(["i007"]) == other.recommend(["i007"])
    again.index(items.select(range(5, 30)))
    torch.testing.assert_close(again.item_embeddings, other.item_embeddings)

    with pytest.raises(ValueError, match="has an export: name another folder"):
        write_space(recommender, tmp_path / "space")
    with pytest.raises(ValueError, match="without code, without a handler"):
        again.save_pretrained(tmp_path / "other", with_handler=True)
    with pytest.raises(ValueError, match="publish the checkpoint itself"):
        again.push_to_hub("me/shop")


def assert_same_items(found: list[dict], expected: list[dict]):
    assert [one["item_id"] for one in found] == [one["item_id"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-4)


def test_what_cannot_be_meant(make_model, text_processor, tmp_path):
    for part in (make_model("text"), text_processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(OptionError, match="has no catalogue to show: name a data set by --dataset_config_name"):
        main([str(tmp_path)])
    with pytest.raises(OptionError, match="--push_to_hub needs the Space to publish to"):
        main([str(tmp_path), "--push_to_hub", "true"])
    with pytest.raises(ValueError, match=r"there is no catalogue to show: call index\(items\)"):
        write_space(Recommender.from_pretrained(tmp_path), tmp_path)


def test_models_that_read_more_than_items_are_refused(make_model, text_processor, processor_of, items, tmp_path):
    users = type(processor_of["id"])(item_ids=items["item_id"][:], user_ids=[f"u{n}" for n in range(13)])
    for model, processor, sentence in (
        (make_model("text", user_encoder_type="hstu"), text_processor, r"reads the times of interactions \(HSTU\)"),
        (make_model("id", user_encoder_type="dssm"), users, r"knows users by id \(DSSM\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            write_space(Recommender(model, processor).index(items), tmp_path / "space")
    assert not (tmp_path / "space").exists()
