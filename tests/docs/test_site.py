"""The documentation builds strictly and loads nothing from elsewhere; its pictures are those that the script draws."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
# Pages of the repository; links of the site's own pages are checked when it is built.
PAGES = [
    *ROOT.glob("*.md"),
    *(path for name in ("benchmarks", "dataset_scripts", "model_cards") for path in (ROOT / name).rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_the_pages_link_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)|(?:src|srcset)=\"([^\"]+)\"", text)
    assert [link for link in map("".join, links) if not (page.parent / link).exists()] == []


def test_pictures_are_those_that_the_script_draws(tmp_path):
    runpy.run_path(str(ROOT / "docs" / "scripts" / "draw.py"))["main"](tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in PICTURES.glob("*.svg")}
    assert drawn == kept, "draw them again: python docs/scripts/draw.py"


def test_readme_is_a_first_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_folder_of_the_package_is_in_the_reference():
    pytest.importorskip("mkdocs", reason='needs pip install ".[docs]"')
    pages = runpy.run_path(str(ROOT / "docs" / "scripts" / "reference_pages.py"))["modules"]()
    folders = {path.parent.name for path in (ROOT / "modeling_transrec").glob("*/__init__.py")}
    assert set(pages) == folders | {"ninerec"}
    assert all(pages.values())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason='needs pip install ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_site_builds_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)\"", page.read_text())
        assert loaded == [], page


@pytest.mark.slow
def test_references_of_docstrings_are_links(site):
    page = (site / "api" / "models" / "configuration_transrec.html").read_text(encoding="utf-8")
    assert 'href="modeling_transrec.html#modeling_transrec.models.modeling_transrec.TransRecModel"' in page
