"""The leaderboard's folder: what is compared with what, what is shown, and what strangers cannot do to it."""

import base64
import hashlib
import html
import json
import re
import statistics

import pytest
import yaml

from modeling_transrec.benchmark.leaderboard import leaderboard_data, write_leaderboard
from modeling_transrec.benchmark.published import published_results
from modeling_transrec.cli.main import main

from .lines import PROTOCOL, result_line, write_lines


OTHER = "fedcba9876543210"


def rows_of(lines) -> dict:
    (table,) = leaderboard_data(lines)["tables"]
    return {row["model"]: row for row in table["rows"]}


def test_seeds_are_one_row_with_their_spread():
    hits = [0.10, 0.12, 0.17]
    lines = [result_line(hr=hr, seed=seed) for hr, seed in zip(hits, (3, 1, 2), strict=True)]
    row = rows_of([*lines, result_line("popularity", 0.05, None, kind="baseline")])
    assert row["IDRec"]["metrics"]["hr@10"] == {"mean": statistics.fmean(hits), "spread": statistics.stdev(hits)}
    assert [run["seed"] for run in row["IDRec"]["runs"]] == [1, 2, 3]
    assert row["popularity"]["metrics"]["hr@10"] == {"mean": 0.05, "spread": None}


def test_a_row_has_an_interval_where_all_its_runs_have():
    ends = {1: {"hr@10": [0.08, 0.12], "mrr": [0.02, 0.03]}, 2: {"hr@10": [0.1, 0.15]}}
    metrics = rows_of([result_line(seed=seed, intervals=of_seed) for seed, of_seed in ends.items()])["IDRec"][
        "metrics"
    ]
    assert metrics["hr@10"]["interval"] == pytest.approx([0.09, 0.135])
    assert "interval" not in metrics["mrr"] and "interval" not in metrics["ndcg@10"]
    mixed = rows_of([result_line(seed=1, intervals=ends[1]), result_line(seed=2)])["IDRec"]
    assert "interval" not in mixed["metrics"]["hr@10"] and mixed["runs"][0]["intervals"] == ends[1]


@pytest.mark.parametrize(
    "change",
    [
        {"scores": "own + transitions"},
        {"num_trials": 20},
        {"options": {"learning_rate": 0.01}},
        {"modality": "text"},
        {"sources": ["Amazon_Sports"]},
        {"suite": "mine"},
        {"protocol": {**PROTOCOL, "max_seq_len": 50}},
    ],
)
def test_runs_of_different_models_are_never_averaged(change):
    (table,) = leaderboard_data([result_line(seed=1), result_line(seed=2, **change)])["tables"]
    assert [len(row["runs"]) for row in table["rows"]] == [1, 1]


@pytest.mark.parametrize(
    "change", [{"fingerprint": OTHER}, {"dataset": "KU"}, {"split": "validation"}, {"known_users": 50}]
)
def test_what_is_not_comparable_has_a_table_of_its_own(change):
    tables = leaderboard_data([result_line(seed=1), result_line(seed=2, **change)])["tables"]
    assert [len(table["rows"]) for table in tables] == [1, 1]
    assert all(table["protocol_words"].startswith("1,000 users, 500 candidates; ranking: full") for table in tables)


def test_only_metrics_of_all_seeds_are_averaged():
    more = result_line(seed=2)
    more["metrics"]["coverage@10"] = 0.4
    assert "coverage@10" not in rows_of([result_line(seed=1), more])["IDRec"]["metrics"]


def test_a_run_that_is_sent_twice_counts_once_and_must_not_change():
    line = result_line()
    assert len(rows_of([line, dict(line)])["IDRec"]["runs"]) == 1
    with pytest.raises(ValueError, match="has two results"):
        leaderboard_data([line, {**line, "metrics": {"hr@10": 0.9}}])


def test_a_fingerprint_cannot_be_borrowed():
    protocol = {**PROTOCOL, "num_candidates": 100}
    with pytest.raises(ValueError, match="its num_candidates is 100 where another run's is 500"):
        leaderboard_data([result_line("IDRec"), result_line("mine", 0.9, protocol=protocol)])


def test_published_numbers_stand_apart_by_whether_the_data_are_the_same():
    data = leaderboard_data([result_line(), result_line(dataset="my_shop")])
    assert [(one["dataset"], one["same_targets"]) for one in data["published"]] == [
        ("Amazon_Beauty", same) for same in (True, None, False)
    ]
    models = [{row["model"] for row in one["rows"]} for one in data["published"]]
    assert "BSARec" in models[0] and "OneRec-Foundation × Qwen3" in models[1] and models[2] == {"LIGER"}
    rows = [row for one in data["published"] for row in one["rows"]]
    assert len(rows) == len(published_results("Amazon_Beauty")) > 30
    assert all(row["kind"] == "published" and row["differences"] and row["source"] for row in rows)
    assert {row["model"] for row in rows if row["url"] is None} == {"LC-Rec", "UniSRec", "RecFormer"}
    assert all(row["source"].startswith("source not recorded") for row in rows if row["url"] is None)
    assert not any(row["kind"] == "published" for table in data["tables"] for row in table["rows"])


WHOLE = {**PROTOCOL, "num_users": 22_363, "num_candidates": 12_101}


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": {**WHOLE, "num_users": 22_362}},
        {"protocol": {**WHOLE, "num_candidates": 12_100}},
        {"protocol": {**WHOLE, "ranking": "100 candidates: the target and 99 sampled ones"}},
        {"known_users": 1000},
        {"split": "validation"},
        {"dataset": "Amazon_Toys"},
    ],
)
def test_the_best_published_number_is_shown_beside_the_same_data_only(change):
    (table,) = leaderboard_data([result_line(protocol=WHOLE)])["tables"]
    assert table["best_published"]["ndcg@10"] == {"value": 0.0611, "model": "BSARec"}
    assert table["best_published"]["hr@10"] == {"value": 0.1008, "model": "BSARec"}
    (table,) = leaderboard_data([result_line(**{"protocol": WHOLE, **change})])["tables"]
    assert table["best_published"] == {}


@pytest.fixture
def page(tmp_path):
    """The page of a hostile and of an ordinary line, and its text."""
    hostile = result_line(
        "</script><img src=x onerror=alert(1)>", 0.2, private="do not show", rankings="rankings/x.npz"
    )
    path = write_leaderboard([hostile, result_line()], tmp_path / "space", "Shops & <b>others</b>")
    return path, path.read_text(encoding="utf-8")


def embedded(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_has_the_data_and_no_html_of_others(page):
    path, text = page
    data = embedded(text)
    assert data == json.loads((path.parent / "results.json").read_text(encoding="utf-8"))
    assert data["tables"][0]["rows"][0]["model"].startswith("</script><img")
    assert "<img" not in text and "<b>others" not in text
    assert "do not show" not in text and "rankings/x.npz" not in text and "target 0" not in text
    assert data["title"] == "Shops & <b>others</b>"


def test_the_page_asks_nothing_of_others_and_runs_only_its_own_script(page):
    _, text = page
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "http:" not in content and "@import" not in content and "url(" not in content
        assert "innerHTML" not in content and "eval(" not in content
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=\"(?!data:)", text)


def test_the_folder_is_a_static_space_that_checks_what_is_sent(page):
    path, _ = page
    front, _, body = (path.parent / "README.md").read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_file"], card["title"]) == ("static", "index.html", "Shops & <b>others</b>")
    assert "transrec leaderboard results.jsonl --check" in body
    workflow = yaml.safe_load((path.parent / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True] == {"pull_request": {"paths": ["submissions/**"]}}  # `on` is true in YAML 1.1
    (steps,) = [job["steps"] for job in workflow["jobs"].values()]
    assert steps[-1]["run"] == "transrec leaderboard submissions/*.jsonl --check"
    assert (path.parent / "submissions").is_dir()


def test_the_command_writes_the_page_and_refuses_bad_files(tmp_path, capsys):
    good = write_lines(tmp_path / "good.jsonl", [result_line(seed=seed) for seed in (1, 2)])
    options = ["--output_dir", str(tmp_path / "out"), "--title", "Ours"]
    assert main(["leaderboard", str(good), *options]) == 0
    written = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert len(embedded(written)["tables"][0]["rows"][0]["runs"]) == 2 and "<h1>Ours</h1>" in written
    bad = write_lines(tmp_path / "bad.jsonl", [result_line(kind="best")])
    assert main(["leaderboard", str(bad), "--output_dir", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other").exists() and "kind must be one of" in capsys.readouterr().out


def test_the_command_writes_the_files_of_the_hub(tmp_path):
    card = "https://huggingface.co/me/model"
    lines = [result_line(card=card), result_line("text", seed=1, card=None)]
    good = write_lines(tmp_path / "good.jsonl", lines)
    assert main(["leaderboard", str(good), "--output_dir", str(tmp_path), "--benchmark_id", "me/shops"]) == 0
    found = {str(path.relative_to(tmp_path / "hub")) for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert found == {"eval.yaml", "me/model/.eval_results/me--shops.yaml"}
