"""Data sets of others: what their cards may name, and what is said of damaged files."""

import json

import pytest

from modeling_transrec import load_items, load_sequences
from modeling_transrec.ninerec.protocol import PROTOCOL_FILE
from modeling_transrec.ninerec.tools.export import export, push


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export("Sample_Target", tmp_path_factory.mktemp("prepared") / "shop")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy whose files may be changed."""
    for path in exported.rglob("*"):
        if path.is_file():
            copy = tmp_path / "shop" / path.relative_to(exported)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path / "shop"


FORMS = ["{place}", [{"split": "train", "path": "{place}"}], ["a.parquet", "{place}"], {"train": ["{place}"]}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "place",
    ["../private/*.csv", "{root}/private.csv", "file://{root}/private.csv", "zip://x::{root}/x.zip", "a/../../x.csv"],
)
def test_a_card_names_only_files_of_its_own(place, form, folder, tmp_path):
    (tmp_path / "private.csv").write_text("item_id,text_en\ni1,a secret\n")
    files = json.dumps(form).replace("{place}", place.replace("{root}", str(tmp_path)))
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: Sample_Target_items\n  data_files: {files}\n---\n"
    )
    with pytest.raises(ValueError, match=r"README\.md names '.*': a data set's files must be its own"):
        load_items(str(folder), "Sample_Target")


def test_a_card_of_the_hub_names_no_file_of_this_machine(hub, tmp_path):
    (tmp_path / "private.csv").write_text("item_id,text_en\ni1,a secret\n")
    files = f"{tmp_path}/private.csv"
    card = f"---\nconfigs:\n- config_name: shop_items\n  data_files: {files}\n---\n"
    hub.add("someone/shop", {"README.md": card.encode(), "shop.csv": b"item_id\ni1\n"}, kind="datasets")
    with pytest.raises(ValueError, match="someone/shop: README.md names '/.*private.csv'"):
        load_items("someone/shop", "shop")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x80\x04N."])
def test_damaged_files_are_said_to_be_those_of_the_data_set(content, folder):
    for path in folder.rglob("ninerec-*.parquet"):
        path.write_bytes(content)
    for load in (load_items, lambda *names: load_sequences(*names, "train")):
        with pytest.raises(ValueError, match="shop cannot be read: its files are damaged"):
            load(str(folder), "Sample_Target")


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"[" * 100_000, b"\xff\xfe"])
def test_a_protocol_that_is_none(content, folder):
    (folder / PROTOCOL_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"protocol\.json is no protocol of a prepared data set"):
        load_items(str(folder), "Sample_Target")


def test_only_the_data_set_is_published(hub, folder):
    for name in (".env", "_options.json", "model.bin", "notes.txt"):
        (folder / name).write_text("not to leave 7f31")
    push(folder, "someone/shop")
    published = hub.files("someone/shop", "datasets")
    assert not any(b"not to leave 7f31" in content for content in published.values())
    assert {"README.md", PROTOCOL_FILE} < set(published)
    assert sum(name.endswith(".parquet") for name in published) == 4
    (folder / "more.parquet").symlink_to(folder / "README.md")
    with pytest.raises(ValueError, match=r"more\.parquet is a link to .*, which is not published"):
        push(folder, "someone/shop")
