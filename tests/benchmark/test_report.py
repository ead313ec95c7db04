"""Tables of what a suite has found."""

import numpy as np
import pytest

from modeling_transrec.benchmark.report import read_rows, write_report
from modeling_transrec.benchmark.suites import Suite


NUM_USERS = 400


@pytest.fixture
def add(tmp_path):
    """Adds a line with ranks of users, and returns it."""

    def line(model, seed, ranks, scores="own", known_users=None, fingerprint="f00d", **facts):
        name = f"rankings/{model}-{seed}-{scores}-{known_users}.npz"
        (tmp_path / "rankings").mkdir(exist_ok=True)
        np.savez(tmp_path / name, num_better=ranks, num_tied=np.zeros_like(ranks))
        gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
        metrics = {"hr@10": float((ranks < 10).mean()), "ndcg@10": float(gains.mean()), "coverage@10": 0.5}
        return {
            **{"id": name, "dataset": "Amazon_Beauty", "model": model, "scores": scores, "seed": seed},
            **{"kind": "trained", "known_users": known_users, "rankings": name, "metrics": metrics},
            "groups": {"target 0": {"num_users": 7, "ndcg@10": 0.125}},
            "protocol": {"fingerprint": fingerprint, "ranking": "full", "num_users": len(ranks), "num_candidates": 99},
            "hardware": {"gpu": None, "processor": "A processor", "threads": 1},
            "versions": {"modeling_transrec": "1", "torch": "2", "transformers": "3"},
            "seconds": {"training": 10.0 * seed, "evaluation": 1.0},
            "peak_memory_bytes": 2**30,
            **facts,
        }

    return line


@pytest.fixture
def lines(add):
    generator = np.random.default_rng(0)
    base = generator.integers(0, 40, NUM_USERS)
    worse = [add("IDRec", seed, base + generator.integers(0, 20, NUM_USERS)) for seed in (1, 2, 3)]
    same = [add("IDRec", seed, base, scores="own + transitions") for seed in (1, 2, 3)]
    return [add("content-and-transitions", 1, base, kind="baseline"), *worse, *same]


SUITE = Suite("What it shows", {"IDRec": {}}, ["Amazon_Beauty"], metrics=["hr", "ndcg", "coverage"], seeds=[1, 2, 3])


def cells(report, start):
    row = next(line for line in report.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_rows_are_models_over_their_seeds(lines, tmp_path):
    rows = {row.name: row for row in read_rows(lines, tmp_path)}
    assert [*rows] == ["content-and-transitions", "IDRec", "IDRec + transitions"]
    assert rows["IDRec"].values["ndcg"].shape == (3, NUM_USERS)
    for row in rows.values():
        assert row.values["ndcg"].mean() == pytest.approx(row.mean("ndcg@10"))
    assert rows["IDRec"].seconds() == 21


def test_the_report_says_what_is_shown(lines, tmp_path):
    report = write_report(SUITE, lines, tmp_path).read_text()
    assert report.startswith("# What it shows") and "Seeds 1, 2, 3" in report and "A processor" in report
    assert cells(report, "content-and-transitions")[3] == "reference"
    assert cells(report, "IDRec  ")[3].endswith("worse")
    assert cells(report, "IDRec + transitions")[3] == "+0.0000 (+0.0000 to +0.0000), no difference shown"
    mean = np.mean([line["metrics"]["hr@10"] for line in lines[1:4]])
    assert cells(report, "IDRec  ")[1].startswith(f"{mean:.4f} ± ")
    assert "### Beyond accuracy" in report and "item seen 0 (7)" in report and "0.1250" in report
    assert "BSARec" in report and "0.1008" in report  # published


def test_rows_of_other_histories_are_not_compared(lines, add, tmp_path):
    other = add("Longer histories", 1, np.zeros(NUM_USERS, dtype=int), fingerprint="beef")
    report = write_report(SUITE, [*lines, other], tmp_path).read_text()
    assert cells(report, "Longer histories")[3] == "other histories"


def test_learning_curves_and_tuning(lines, add, tmp_path):
    few = [add("IDRec", seed, np.full(30, 3), known_users=50) for seed in (1, 2, 3)]
    suite = Suite("x", {"IDRec": {}}, ["Amazon_Beauty"], known_users=[50, "all"], metrics=["hr", "ndcg"])
    tuned = [{"title": "IDRec: 9 settings", "num_trials": 9, "untuned": 0.1, "value": 0.2, "options": {"a": 1}}]
    report = write_report(suite, [*lines, *few], tmp_path, tuned).read_text()
    assert "## Amazon_Beauty, 50 users known" in report and "### By the number of known users" in report
    curve = report.partition("### By the number of known users")[2]
    assert cells(curve, "IDRec  ")[1] == f"{1 / np.log2(5):.4f}" and cells(curve, "content-and-transitions")[1] == ""
    assert cells(report, "IDRec: 9 settings") == ["IDRec: 9 settings", "9", "0.1000", "0.2000", '`{"a": 1}`']


def test_nothing_has_been_run(tmp_path):
    assert "Nothing has been run yet." in write_report(SUITE, [], tmp_path).read_text()
