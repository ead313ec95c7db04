"""Every notebook runs from its first cell to its last."""

from pathlib import Path

import pytest


nbformat = pytest.importorskip("nbformat", reason='needs pip install ".[docs]"')
nbclient = pytest.importorskip("nbclient", reason='needs pip install ".[docs]"')

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]
    assert len(pictures) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_is_kept_with_its_pictures(path):
    """A reader sees them without running anything; a megabyte is enough for them."""
    assert path.stat().st_size < 1_000_000
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
