"""Tables of what a suite has found."""

import re
from dataclasses import replace

import numpy as np
import pytest

from modeling_transrec.benchmark.report import read_rows, write_report
from modeling_transrec.benchmark.suites import Suite


NUM_USERS = 400


@pytest.fixture
def lines(add):
    generator = np.random.default_rng(0)
    base = generator.integers(0, 40, NUM_USERS)
    worse = [add("IDRec", seed, base + generator.integers(0, 20, NUM_USERS)) for seed in (1, 2, 3)]
    same = [add("IDRec", seed, base, scores="own + transitions") for seed in (1, 2, 3)]
    return [add("content-and-transitions", None, base, kind="baseline"), *worse, *same]


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
    tuned[0]["metric"] = "ndcg@10"
    report = write_report(suite, [*lines, *few], tmp_path, tuned).read_text()
    assert "## Amazon_Beauty, 50 users known" in report and "### By the number of known users" in report
    curve = report.partition("### By the number of known users")[2]
    gain = f"{1 / np.log2(5):.4f}"
    assert cells(curve, "IDRec  ")[1] == f"{gain} ± 0.0000 ({gain} to {gain})"
    assert cells(curve, "content-and-transitions")[1] == ""
    found = ["IDRec: 9 settings", "9", "validation ndcg@10", "0.1000", "0.2000", '`{"a": 1}`']
    assert cells(report, "IDRec: 9 settings") == found
    del tuned[0]["metric"]  # as files of older versions
    assert "does not say by what" in cells(write_report(suite, lines, tmp_path, tuned).read_text(), "IDRec: 9")[2]


def test_lines_are_paired_by_their_seeds_in_any_order(add, tmp_path):
    generator = np.random.default_rng(3)
    base = {seed: generator.integers(0, 10 * seed, NUM_USERS) for seed in (1, 2, 3)}
    reference = [add("content-and-transitions", seed, base[seed]) for seed in (3, 1, 2)]
    model = [add("IDRec", seed, base[seed] + 1) for seed in (1, 2, 3)]
    found = [row.seeds for row in read_rows([*reference, *model], tmp_path)]
    assert found == [[1, 2, 3], [1, 2, 3]]
    part = write_report(SUITE, [*reference[:2], *model], tmp_path).read_text()  # seeds 1 and 3 of both
    mean = np.mean([line["metrics"]["ndcg@10"] for line in model if line["seed"] != 2])
    of_base = np.mean([line["metrics"]["ndcg@10"] for line in reference if line["seed"] != 2])
    assert cells(part, "IDRec  ")[3].startswith(f"{mean - of_base:+.4f}")


def test_where_few_users_are_known_each_seed_tests_others(add, tmp_path):
    generator = np.random.default_rng(4)
    rank_of = generator.integers(0, 12, 60)
    lines = []
    for seed in (1, 2, 3):
        users = generator.permutation(60)[:40]
        facts = {"known_users": 20, "users": users, "fingerprint": f"f00{seed}", "tested": users.tolist()}
        lines.append(add("IDRec", seed, rank_of[users], **facts))
        lines.append(add("content-and-transitions", seed, rank_of[users] + 1, **facts))
    rows = {row.name: row for row in read_rows(lines, tmp_path)}
    values, num_tested = rows["IDRec"].values["hr"], len({user for line in lines for user in line.pop("tested")})
    assert values.shape == (3, num_tested) and np.isfinite(values).sum(axis=1).tolist() == [40] * 3
    assert np.nanmax(np.nanstd(values, axis=0)) == 0  # a column is one user
    suite = Suite("x", {"IDRec": {}}, ["Amazon_Beauty"], known_users=[20], metrics=["hr", "ndcg"])
    assert cells(write_report(suite, lines, tmp_path).read_text(), "IDRec  ")[3].endswith("better")


def test_groups_and_curves_have_intervals_over_their_users(add, tmp_path):
    """Of each seed the users whose target it does not know; `every` of another size is the whole data set."""
    generator = np.random.default_rng(5)
    lines, cold = [], []
    for seed in (1, 2, 3):
        users, ranks = generator.permutation(300)[:200], generator.integers(0, 30, 200)
        counts = generator.integers(0, 3, 200)
        cold.append(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)[counts == 0])
        facts = {"known_users": 20, "users": users, "counts": counts, "fingerprint": f"f00{seed}"}
        lines.append(add("IDRec", seed, ranks, groups={"target 0": {"num_users": int((counts == 0).sum())}}, **facts))
    every = np.arange(300)
    counts, ranks = np.full(300, 9), np.zeros(300, dtype=int)
    lines += [add("IDRec", seed, ranks, users=every, counts=counts) for seed in (1, 2, 3)]
    suite = Suite("x", {"IDRec": {}}, ["Amazon_Beauty"], known_users=[20, "all"], metrics=["hr", "ndcg"])
    report = write_report(suite, lines, tmp_path).read_text()
    groups = report.partition("### By group: NDCG@10")[2].partition("\n## ")[0]
    mean = np.concatenate(cold).mean()
    shown = cells(groups, "IDRec")[1]
    found, low, high = (float(one) for one in re.fullmatch(r"(\S+) ± \S+ \((\S+) to (\S+)\)", shown).groups())
    assert found == pytest.approx(mean, abs=1e-4) and low < mean < high
    error = np.concatenate(cold).std() / len(np.concatenate(cold)) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.25)
    curve = report.partition("of items that none of them has")[2].partition("\n### ")[0]
    assert cells(curve, "IDRec")[1:] == [shown, ""]  # where all are known, no target is new


def test_what_is_measured_of_lists_has_intervals_over_users(add, tmp_path):
    """Two users more with the second seed, and one who has no list: they count where they are tested."""
    suite = replace(SUITE, metrics=["hr", "ndcg", "coverage", "novelty", "diversity"])
    generator, lines, parts = np.random.default_rng(6), [], []
    for seed, num_users in ((1, 200), (2, 202)):
        above, below = generator.random(num_users) * 3, np.full(num_users, 5.0)
        above[7] = below[7] = 0
        line = add("IDRec", seed, np.arange(num_users), users=np.arange(num_users))
        kept = dict(np.load(tmp_path / line["rankings"]))
        np.savez(tmp_path / line["rankings"], **kept, **{"novelty@10": np.stack([above, below]).astype(np.float32)})
        measured = {"novelty@10": above.sum() / below.sum(), "diversity@10": 0.25, "coverage@10": 0.5 + seed / 10}
        lines.append({**line, "metrics": {**line["metrics"], **measured}})
        parts.append((above, below))
    report = write_report(suite, lines, tmp_path).read_text().partition("### Beyond accuracy")[2]
    assert cells(report, "IDRec")[1] == "0.6500 ± 0.0707"  # coverage is of all lists together
    assert "Coverage has no interval over users" in report
    assert cells(report, "IDRec")[3] == "0.2500 ± 0.0000"
    assert "Others without intervals are of a version that did not keep each user's values" in report
    mean, spread, low, high = map(
        float, re.fullmatch(r"(\S+) ± (\S+) \((\S+) to (\S+)\)", cells(report, "IDRec")[2]).groups()
    )
    of_seeds = [line["metrics"]["novelty@10"] for line in lines]
    assert (mean, spread) == (
        pytest.approx(np.mean(of_seeds), abs=6e-5),
        pytest.approx(np.std(of_seeds, ddof=1), abs=6e-5),
    )
    of_users = (parts[0][0] + parts[1][0][:200])[np.arange(200) != 7] / 10  # of both seeds; each has 5 items
    assert high - low == pytest.approx(2 * 1.96 * of_users.std() / len(of_users) ** 0.5, rel=0.1)


def test_failures_and_lines_of_several_versions_are_named(lines, tmp_path):
    lines[0]["git_commit"], lines[1]["versions"] = "fedcba9876543210+", {"modeling_transrec": "2", "torch": "2"}
    failures = [{"id": "1", "title": "IDRec, seed 7", "problem": ["Traceback", "ValueError: `bad`"]}]
    report = write_report(SUITE, lines, tmp_path, failures=failures, num_others=2).read_text()
    assert "- IDRec, seed 7: `ValueError: bad`" in report.partition("## Failed")[2]
    assert "several versions" in report and "1 lines with modeling_transrec 2, torch 2" in report
    assert "2 more lines of `results.jsonl` are not shown" in report
    assert "commit fedcba987654" in report and "commit 0123456789ab" in report


def test_the_budget_of_each_row_and_what_is_left_out(lines, add, tmp_path):
    ranks = np.arange(NUM_USERS)
    more = [add(name, None, ranks, kind="baseline") for name in ("popularity", "ease")]
    searched = [add("IDRec", seed, ranks, num_trials=9) for seed in (1, 2)]
    report = write_report(SUITE, [*lines, *more, *searched], tmp_path).read_text()
    budgets = {name: cells(report, name)[4] for name in ("popularity", "ease", "content-and-tran", "IDRec + trans")}
    assert budgets == {"popularity": "1", "ease": "5", "content-and-tran": "6 + 43", "IDRec + trans": "1 + 43"}
    assert cells(report, "IDRec, 9 settings")[4] == "9" and cells(report, "IDRec, 1 settings")[4] == "1"
    assert "Without slim: it takes long above 1,000" in report
    assert "Without recent-popularity: the times of the interactions are not known" in report
    failures = [{"id": "1", "title": "x", "problem": ["RuntimeError: slim failed: no memory"]}]
    assert "Without slim" not in write_report(SUITE, [*lines, *more], tmp_path, failures=failures).read_text()


def test_a_row_that_needs_times_is_said_to_lack_them(lines, add, tmp_path):
    suite = replace(SUITE, baselines=["popularity", "recent-popularity"])
    named = [add("popularity", None, np.arange(NUM_USERS), kind="baseline")]
    sentence = "Without recent-popularity: the times of the interactions are not known."
    assert sentence in write_report(suite, [*lines, *named], tmp_path).read_text()
    named.append(add("recent-popularity", None, np.arange(NUM_USERS), kind="baseline"))
    assert sentence not in write_report(suite, [*lines, *named], tmp_path).read_text()


def test_what_needs_no_training_is_searched_as_models_are(lines, add, tmp_path):
    """A tuned row stands beside the one of the grid; the reference is that with more settings."""
    better = np.zeros(NUM_USERS, dtype=int)
    facts = {"kind": "baseline", "num_trials": 20, "options": {"num_settings": 20}}
    report = write_report(SUITE, [*lines, add("content-and-transitions", None, better, **facts)], tmp_path).read_text()
    tuned, grid = (cells(report, f"content-and-transitions, {count} settings") for count in (20, 6))
    assert tuned[3:5] == ["reference", "20 + 43"] and grid[3].endswith("worse") and grid[4] == "6 + 43"


def on_the_whole(lines):
    """The lines as if they were of the users and items on which others have published numbers."""
    sizes = {"num_users": 22_363, "num_candidates": 12_101}
    return [{**line, "protocol": {**line["protocol"], **sizes}} for line in lines]


def test_published_numbers_stand_beside_models_that_are_not_run_yet(lines, tmp_path):
    of_sasrec = {"model": "SASRec", "setting": "IDRec"}
    models = {"IDRec": {"published": of_sasrec, "datasets": ["KU"]}, "text": {}}
    suite = Suite("x", models, ["Amazon_Beauty", "KU"], metrics=["hr", "ndcg"])
    report = write_report(suite, on_the_whole(lines), tmp_path).read_text()
    of_beauty = report.partition("### Amazon_Beauty: beside")[2].partition("###")[0]
    mean = f"{np.mean([line['metrics']['ndcg@10'] for line in lines[1:4]]):.4f}"
    own = cells(of_beauty, "IDRec  ")
    assert own[1:3] == cells(report, "IDRec  ")[1:3] and own[2].startswith(f"{mean} ± ")  # with their intervals
    assert own[3:6] == ["", "", "this suite"]
    assert cells(of_beauty, "text ")[1:6] == ["", "", "", "", "this suite, not run yet"]
    assert cells(of_beauty, "BSARec, IDRec")[1:5] == ["", "", "0.1008", "0.0611"]
    of_ku = report.partition("## KU")[2]
    assert "Nothing has been run yet." in of_ku
    assert cells(of_ku, "IDRec ")[1:5] == ["", "", "0.2836", "0.2479"]  # the paper's beside the suite's own
    assert "have not been compared" in cells(of_ku, "IDRec ")[-1] and "SASRec, IDRec" not in of_ku
    assert "HasPT" not in of_ku.partition("### KU: published on other cuts")[0]
    differences = cells(of_beauty, "BSARec")[-1]
    assert differences.endswith(".") and ".." not in differences and " The " not in differences.replace(". The", "")


def test_numbers_of_another_cut_stand_apart(lines, tmp_path):
    """Those that others have published on another cut, and all of them where the suite's own cut is another one."""
    report = write_report(SUITE, on_the_whole(lines), tmp_path).read_text()
    beside, _, apart = report.partition("### Amazon_Beauty: published on other cuts")
    assert "these numbers are not to be compared with those above" in apart
    assert cells(beside, "BSARec, IDRec") and "| BSARec" not in apart
    assert cells(apart, "OneRec-Foundation × Qwen3, HasPT")[1:3] == ["0.0924", ""] and "OneRec" not in beside
    assert cells(apart, "OneRec-Foundation")[4] == "not compared" and cells(apart, "LIGER")[4] == "no"
    assert cells(apart, "RecFormer")[3] == "source not recorded, quoted"
    report = write_report(SUITE, lines, tmp_path).read_text()  # of 400 users and 99 items
    assert "beside what others have published" not in report
    assert cells(report, "BSARec, IDRec")[1:3] == ["0.1008", "0.0611"] and cells(report, "BSARec, IDRec")[4] == "no"


def test_nothing_has_been_run(tmp_path):
    assert "Nothing has been run yet." in write_report(SUITE, [], tmp_path).read_text()
