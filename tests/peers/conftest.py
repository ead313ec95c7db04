"""Runs only where the suites of the others have been fetched: `make test-peers`. Says at the end what came of them."""

import collections
import os
import re
from pathlib import Path

import pytest


collect_ignore_glob = [] if os.environ.get("PEERS") else ["test_*.py"]
# What fails, by a pattern of its name, and why it is not ours to change.
EXPECTED = {
    r"can_load_ignoring_mismatched_shapes": "it sets every field that ends in _std to a number; image_std is a list",
    r"weights_reload_no_missing_tied_weights": "a checkpoint without its weights is refused, unless it is asked for",
    r"Test_(text_)?image_sasrec.*reverse_loading_mapping": "saved weights keep their names of memory: for resuming",
    r"retain_grad_hidden_states": "its gradient is of the first output, here the item embeddings: before the states",
    r"bert4rec.*(attention_outputs|hidden_states_output)": "a mask is appended to each history, one position more",
    r"_(dnn|dssm|mlp|nextitnet)::test_hidden_states_output": "the number of layers is not num_hidden_layers",
    r"Test_id_dssm.*gradient_checkpointing": "its only layer is a dropout, off in the test: nothing to compute again",
    r"Test_image_.*model_get_set_embeddings": "the input embeddings of an image backbone are no table",
    r"test_modeling.*Test_(id|image)_.*resize_tokens_embeddings": "there are no tokens, which is said in an error",
    r"test_processing.*call_arguments_not_in_attributes": "item_ids are an argument and an attribute, by design",
    r"test_processing.*init_arguments_not_in_class_attributes": "parts that a processor lacks are None in the class",
    r"test_processing.*Images::test_subprocessor_defaults_1": "images stay bytes, which the model normalises",
    r"test_processing.*Both::test_subprocessor_defaults_preserved_by_kwargs_0": "likewise, where nothing is asked for",
    r"test_datasets.*formats.*items.polars": "datasets' polars format calls a dict where there are images",
    r"test_fsdp.*clip-sasrec": "FSDP2 takes no parameter without a dimension, as CLIP's logit_scale is",
    r"test_peft.*test_disable_adapters.HRA": "HRA's reflections cancel to 1e-4 at the start; its tolerance is 1e-5",
    r"test_processing.*(Images|Both)::.*nested_dict": "images are prepared by Pillow's processor, another name",
}

# A test of which only subtests fail: pytest counts it itself as passed.
BY_SUBTESTS = r"reverse_loading_mapping|Test_id_dssm.*gradient_checkpointing"


def pytest_configure(config):
    """Registers the markers of the others' tests, which are strict here."""
    folder = Path(os.environ.get("PEERS") or os.devnull)
    files = folder.glob("*_tests/**/*.py")
    found = {name for file in files for name in re.findall(r"\bmark\.(\w+)", file.read_text(encoding="utf-8"))}
    for name in sorted(found):
        config.addinivalue_line("markers", f"{name}: of another library")


def pytest_collection_modifyitems(items):
    """Marks what is expected to fail, with its reason."""
    for item in items:
        for pattern, reason in EXPECTED.items():
            if "tests/peers/" in item.nodeid and re.search(pattern, item.nodeid):
                strict = re.search(BY_SUBTESTS, item.nodeid) is None
                item.add_marker(pytest.mark.xfail(reason=reason, strict=strict))


def pytest_terminal_summary(terminalreporter):
    """Prints how many passed, failed and were left out, and why."""
    stats = {name: terminalreporter.stats.get(name, []) for name in ("passed", "failed", "skipped", "xfailed")}
    reports = {name: [one for one in found if "tests/peers/" in one.nodeid] for name, found in stats.items()}
    if not any(reports.values()):
        return
    suites = sorted({report.nodeid.split("::")[0] for found in reports.values() for report in found})
    terminalreporter.write_line(f"| suite | {' | '.join(reports)} |")
    for suite in suites:
        counts = [sum(report.nodeid.startswith(suite) for report in found) for found in reports.values()]
        terminalreporter.write_line(f"| {Path(suite).stem} | {' | '.join(map(str, counts))} |")
    reasons = collections.Counter(report.wasxfail for report in reports["xfailed"])
    reasons.update(_reason(report) for report in reports["skipped"])
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:6d}  {reason}")


def _reason(report) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return f"skipped: {reason.removeprefix('Skipped: ').splitlines()[0][:100]}"
