"""Cards of the modules of `evaluate`, and Spaces from which they are loaded."""

from pathlib import Path

import evaluate
import huggingface_hub
import pytest

from modeling_transrec.hub.metric_spaces import main, metric_card


FOLDER = Path(__file__).parents[2] / "metrics"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_that_of_the_docstring(name, tmp_path):
    """`python -m modeling_transrec.hub.metric_spaces metrics/*/` writes them."""
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert card == metric_card(FOLDER / name)
    data = huggingface_hub.RepoCard(card, ignore_metadata_errors=False).data
    assert data.tags == ["evaluate", "metric"] and data.sdk == "static" and data.title
    assert f'evaluate.load("metrics/{name}"' in card and ">>>" not in card.partition("## Inputs")[2]


def test_a_published_module_is_loaded_from_the_hub(hub, capsys):
    main([str(FOLDER / "ndcg_at_k"), "--namespace", "somebody"])
    files = hub.files("somebody/ndcg_at_k", "spaces")
    assert {"ndcg_at_k.py", "requirements.txt", "README.md", "index.html"} <= set(files)
    assert b'evaluate.load("somebody/ndcg_at_k")' in files["README.md"]
    assert b"<title>NDCG@K</title>" in files["index.html"] and b"evaluate.load(&quot;somebody" in files["index.html"]
    assert capsys.readouterr().out.startswith(hub.url)
    main([str(FOLDER / "ndcg_at_k"), "--namespace", "somebody"])  # a new version of it
    loaded = evaluate.load("somebody/ndcg_at_k", k=1)
    assert loaded.compute(predictions=[["a", "b"]], references=["a"]) == {"ndcg@1": 1.0}
