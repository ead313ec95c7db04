"""The handler of Inference Endpoints beside a checkpoint."""

import pytest
from huggingface_hub.utils import filter_repo_objects

from modeling_transrec.hub.safety import upload_patterns
from modeling_transrec.hub.with_handler import write_handler
from modeling_transrec.version import __version__


@pytest.mark.parametrize("kind, extras", [("text", ""), ("text+image+audio", "[audio]"), ("id", "")])
def test_requirements_name_what_the_model_needs(kind, extras, make_model, tmp_path):
    write_handler(tmp_path, make_model(kind).model)
    assert (tmp_path / "requirements.txt").read_text() == f"modeling_transrec{extras}=={__version__}\n"
    assert "class EndpointHandler" in (tmp_path / "handler.py").read_text()


def test_the_handler_leaves_only_where_it_is_asked_for():
    files = ["handler.py", "other.py", "requirements.txt", "config.json"]
    for with_handler, left in ((True, ["handler.py", "requirements.txt", "config.json"]), (False, files[2:])):
        assert [*filter_repo_objects(files, **upload_patterns(False, with_handler))] == left
