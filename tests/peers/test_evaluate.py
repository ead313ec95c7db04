"""What evaluate's tests/test_metric_common.py checks of its metrics, of ours; its source distribution has no tests."""

import doctest
import inspect
import pickle
from pathlib import Path

import evaluate
import pytest
from evaluate.loading import evaluation_module_factory, import_main_class


FOLDER = Path(__file__).parents[2] / "metrics"
pytestmark = pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDER.glob("*/README.md")))


def test_load_metric(name, monkeypatch):
    """The examples of the description give what is shown, and nothing takes any keyword."""
    monkeypatch.chdir(FOLDER.parent)
    module = evaluation_module_factory(str(FOLDER / name)).module_path
    metric_class = import_main_class(module)
    parameters = inspect.signature(metric_class._compute).parameters.values()
    assert all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters)
    examples = doctest.DocTestParser().get_doctest(
        evaluate.load(str(FOLDER / name)).inputs_description, {}, name, None, 0
    )
    assert examples.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(examples)
    assert result.failed == 0


def test_info(name):
    metric = evaluate.load(str(FOLDER / name))
    assert metric.name == name and metric.description and metric.features
    assert metric.inputs_description.count("Args:") == metric.inputs_description.count("Returns:") == 1
    pickle.dumps(metric.info)
