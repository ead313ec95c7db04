"""The README's short snippets run when they are pasted."""

import re
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *(path for name in ("benchmarks", "dataset_scripts", "model_cards") for path in (ROOT / name).rglob("*.md")),
]
SECTION = README.partition("## In five lines\n")[2].partition("\n## ")[0]
SNIPPETS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture
def workplace(make_model, text_processor, items, tmp_path, monkeypatch):
    """A folder with a checkpoint and two tables, as the snippets name them."""
    monkeypatch.chdir(tmp_path)
    make_model("text").save_pretrained("outputs/sample/pretrained")
    text_processor.save_pretrained("outputs/sample/pretrained")
    Path("DATA").mkdir()
    rows = ["item_id,text_en", *(f"{row['item_id']},{row['text_en']}" for row in items)]
    Path("DATA/MyShop_items.csv").write_text("\n".join(rows), encoding="utf-8")
    rng = np.random.default_rng(0)
    pairs = [f"u{user},i{item:03d},{time}" for user in range(12) for time, item in enumerate(rng.permutation(37)[:8])]
    Path("DATA/MyShop_interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *pairs]), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["zero-shot", "fine-tune", "vectors"])
def test_five_lines(snippet, workplace, capsys):
    lines = [line for line in snippet.splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("from ", "import "))]) <= 5
    found = {}
    exec(snippet, found)
    if "Recommender" in snippet:
        assert "'item_id': 'b'" in capsys.readouterr().out
    elif "train(" in snippet:
        assert {"model.safetensors", "README.md"} <= {path.name for path in Path("outputs/my_shop").iterdir()}
    else:
        assert found["scores"].shape == (1, 2) and found["user"].shape == (1, 16)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_the_pages_link_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
