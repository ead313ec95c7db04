"""How much a split flatters, told of made ranks."""

import numpy as np
import pytest

from modeling_transrec.benchmark.report import write_report
from modeling_transrec.benchmark.suites import Suite


DATASETS = {
    "shop at random": {"dataset_config_name": "shop", "split_strategy": "random"},
    "shop": {},
    "shop by time": {"dataset_config_name": "shop", "split_strategy": "temporal", "test_start": 9},
    "other": {"split_strategy": "temporal"},
    "shop of five": {"dataset_config_name": "shop", "min_actions": 5},
}
SUITE = Suite("Splits", {"IDRec": {}}, DATASETS, metrics=["hr", "ndcg"], seeds=[1, 2])


@pytest.fixture
def lines(add):
    """Users 0 to 299 test leave-one-out and at random, in other orders; 40 of them, and others, test by time."""
    generator = np.random.default_rng(0)
    rank_of = generator.integers(0, 30, 400)
    found = []
    for dataset, users, change in (
        ("shop", generator.permutation(300), 0),
        ("shop at random", generator.permutation(300), -6),
        ("shop by time", np.arange(260, 400), 9),
        ("other", np.arange(300), -9),
        ("shop of five", np.arange(300), -9),
    ):
        named = {"dataset": dataset, "users": [f"u{user}" for user in users], "name": dataset}
        found.append(add("popularity", None, rank_of[users], kind="baseline", **named))
        for seed in (1, 2):
            ranks = np.clip(rank_of[users] + change, 0, None)
            found.append(add("IDRec", seed, ranks, **named))
    return found


def cells(text, start):
    row = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def gain(ranks):
    return np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()


def test_splits_are_compared_on_the_users_that_both_test(lines, tmp_path):
    report = write_report(SUITE, lines, tmp_path).read_text().partition("## How much a split flatters")[2]
    sections = {part.partition("\n")[0]: part for part in report.split("### ")[1:]}
    assert [*sections] == [
        "shop beside shop by time",
        "shop at random beside shop by time",
        "shop at random beside shop",
    ]
    rank_of = np.random.default_rng(0).integers(0, 30, 400)
    first, last = sections["shop beside shop by time"], sections["shop at random beside shop"]
    assert "On the 40 users that both test: " in first and "On the 300 users that both test: " in last
    before, after = gain(rank_of[260:300] + 9), gain(rank_of[260:300])
    found = cells(first, "IDRec")
    assert found[1].startswith(f"{before:.4f} ± 0.0000 (") and found[2].startswith(f"{after:.4f} ± 0.0000 (")
    assert found[3].startswith(f"{after - before:+.4f} (") and found[4] == "flatters"
    assert f"shop flatters IDRec ({after / before - 1:+.0%}); no difference is shown for popularity." in first
    assert cells(last, "popularity")[3:] == ["+0.0000 (+0.0000 to +0.0000)", "no difference shown"]
    assert cells(last, "IDRec")[2].startswith(f"{gain(np.clip(rank_of[:300] - 6, 0, None)):.4f}")


def test_lines_without_users_are_not_compared(lines, add, tmp_path):
    old = [add("IDRec", seed, np.arange(9), dataset="shop", name="old") for seed in (1, 2)]
    report = write_report(SUITE, [*lines[3:6], *old], tmp_path).read_text()
    assert "a version that kept no users" in report.partition("### shop at random beside shop\n")[2]


def test_one_split_is_compared_with_nothing(lines, tmp_path):
    assert "flatters" not in write_report(SUITE, lines[:3] + lines[9:], tmp_path).read_text()
