"""What lies in a checkpoint's folder in place of its files, and whether the error says so."""

import os

import pytest

from modeling_transrec import TransRecModel, TransRecProcessor


@pytest.fixture
def checkpoint(make_model, text_processor, tmp_path):
    make_model("text").save_pretrained(tmp_path / "shop")
    text_processor.save_pretrained(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), "itself", "nowhere"])
def test_what_is_no_file_is_never_opened(put, checkpoint):
    """Opening a pipe that nobody writes into waits forever; a device never ends."""
    weights = checkpoint / "model.safetensors"
    weights.unlink()
    put(weights) if callable(put) else weights.symlink_to(weights.name if put == "itself" else put)
    with pytest.raises(ValueError, match=r"model\.safetensors is no file"):
        TransRecModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"7", b"\xff\xfe", b"[" * 100_000, b'{"modality": 7}'])
@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "config.json"])
def test_damaged_files_are_said_to_be_those_of_the_checkpoint(name, content, checkpoint):
    (checkpoint / name).write_bytes(content)
    load = TransRecModel if name == "config.json" else TransRecProcessor
    with pytest.raises((ValueError, OSError)) as caught:
        load.from_pretrained(checkpoint)
    assert str(checkpoint) in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
