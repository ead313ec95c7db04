"""`eval.yaml` and `.eval_results`, as the Hub reads them."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from modeling_transrec.hub.benchmark_files import (
    check_eval_results,
    check_eval_yaml,
    eval_yaml,
    write_benchmark_files,
)


BENCHMARK = eval_yaml("Shops", "Next item.", [("Beauty", "Beauty", "test", one) for one in ("hr@10", "ndcg@10")])
PROTOCOL = {"fingerprint": "0123456789abcdef", "ranking": "full", "seen_items": "excluded"}


def result(**changes) -> dict:
    line = {
        "suite": "amazon",
        "dataset": "Beauty",
        "split": "test",
        "scores": "own",
        "metrics": {"hr@10": 0.1, "ndcg@10": 0.0512345678},
        "protocol": PROTOCOL,
        "started": "2026-11-29T10:00:00+00:00",
        "card": "https://huggingface.co/me/model",
    }
    return {**line, **changes}


def test_the_benchmark_has_a_task_for_each_metric():
    content = yaml.safe_load(BENCHMARK)
    assert check_eval_yaml(BENCHMARK) == []
    assert content["tasks"][1] == {"id": "Beauty_test_ndcg@10", "config": "Beauty", "split": "test"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "must be an object"),
        ("name: [", "must be an object"),
        ("{name: a, description: b}", "tasks must be a list with at least one task"),
        ("{name: a, description: b, tasks: []}", "tasks must be a list with at least one task"),
        ("{name: a, description: b, tasks: [x]}", "task 1 must be an object"),
        ("{name: a, description: b, tasks: [{id: x, config: c, split: 3}]}", "task 1 (x): split is missing"),
        (BENCHMARK.replace("ndcg", "hr"), "task Beauty_test_hr@10 is there twice"),
        (BENCHMARK.replace("name: Shops", "name: ''"), "name is missing"),
    ],
)
def test_a_wrong_benchmark_is_refused(text, problem):
    assert any(problem in one for one in check_eval_yaml(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ("[{value: 0.1}]", "result 1: dataset must be an object"),
        ("[{dataset: {id: me/other, task_id: Beauty_test_hr@10}, value: 0.1}]", "me/other is not one of"),
        ("[{dataset: {id: me/shops, task_id: x}, value: 0.1}]", "me/shops has no task x"),
        ("[{dataset: {id: me/shops, task_id: Beauty_test_hr@10}, value: .nan}]", "value must be a number"),
        ("[{dataset: {id: me/shops, task_id: Beauty_test_hr@10}, value: '0.1'}]", "value must be a number"),
        (
            "[{dataset: {id: me/shops, task_id: Beauty_test_hr@10}, value: 0.1, source: {name: x}}]",
            "source needs a url",
        ),
    ],
)
def test_wrong_results_are_refused(text, problem):
    assert any(problem in one for one in check_eval_results(text, {"me/shops": BENCHMARK}))


def test_a_table_with_a_name_of_its_own_is_of_the_configuration_that_there_is(tmp_path):
    protocol = {**PROTOCOL, "dataset": "ninerec/Beauty"}
    lines = [result(protocol=protocol), result(dataset="Beauty by time", protocol=protocol, card=None)]
    benchmark, results = write_benchmark_files(lines, "me/shops", tmp_path)
    tasks = yaml.safe_load(benchmark.read_text())["tasks"]
    assert {task["config"] for task in tasks} == {"Beauty"} and len({task["id"] for task in tasks}) == 4
    assert "Beauty_test_hr@10" in results.read_text()


def test_results_of_models_with_a_card_are_written_for_the_hub(tmp_path):
    lines = [result(), result(scores="own + transitions"), result(card=None), result(known_users=50)]
    lines.append(result(card="https://elsewhere.org/me/other"))
    benchmark, results = write_benchmark_files(lines, "me/shops", tmp_path)
    assert results == tmp_path / "me" / "model" / ".eval_results" / "me--shops.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(results.read_text()))
    assert [entry.value for entry in entries] == [0.1, 0.051235]
    assert {entry.dataset_id for entry in entries} == {"me/shops"}
    assert {entry.task_id for entry in entries} == {
        task["id"] for task in yaml.safe_load(benchmark.read_text())["tasks"]
    }
    assert all("protocol 0123456789abcdef" in entry.notes for entry in entries)


@pytest.mark.parametrize(
    ("lines", "name", "problem"),
    [
        ([result()], "shops", "not a valid Hub id"),
        ([result()], "../shops", "not a valid Hub id"),
        ([result(card="https://huggingface.co/../..")], "me/shops", "not a valid Hub id"),
        ([result(card="https://huggingface.co/.git/hooks")], "me/shops", "not a valid Hub id"),
        ([result(), result(card=None, protocol={**PROTOCOL, "fingerprint": "f" * 16})], "me/shops", "two protocols"),
        ([result(), result()], "me/shops", "the card of several runs"),
        ([result(known_users=50)], "me/shops", "no results of a whole data set"),
    ],
)
def test_what_the_hub_would_get_wrong_is_refused(tmp_path, lines, name, problem):
    with pytest.raises(ValueError, match=problem):
        write_benchmark_files(lines, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
