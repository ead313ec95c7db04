"""The folder of a Space: what is in it, and what is published."""

import ast
import io
import re

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from modeling_transrec import Recommender
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.space import main
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
