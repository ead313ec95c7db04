"""What is refused of results that strangers send, and that nothing else is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_transrec.benchmark.submissions import MAX_FILE_BYTES, check_files, check_result, read_results
from modeling_transrec.cli.main import main

from .lines import PROTOCOL, result_line, write_lines


def test_a_line_of_a_benchmark_holds():
    assert check_result(result_line()) == []
    plain = {
        "seed": None,
        "modality": None,
        "git_commit": None,
        "peak_memory_bytes": None,
        "seconds": {},
        "options": {},
    }
    assert check_result(result_line("popularity", kind="baseline", **plain)) == []
    assert (
        check_result(result_line(card="https://huggingface.co/me/model", git_commit="0123456+", known_users=50)) == []
    )
    assert check_result(result_line(intervals={"hr@10": [0.08, 0.12], "ndcg@10": [0, 0.1]})) == []
    assert check_result(result_line("名前 × BERT (γ=0.1)", a_field_of_later={"nested": [1, 2.5, None, True]})) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 2}, "schema must be one of 1, not 2"),
        ({"schema": True}, "schema must be one of 1"),
        ({"id": "../../x"}, "id must be 8 to 64 hexadecimal digits"),
        ({"kind": "best"}, "kind must be one of baseline, trained"),
        ({"split": "train"}, "split must be one of test, validation"),
        ({"model": ""}, "model must be a text"),
        ({"model": "a" * 101}, "model has 101 characters"),
        ({"model": "good\u202emodel"}, "model: has characters that cannot be seen"),
        ({"model": "a\x1b[31m"}, "characters that cannot be seen"),
        ({"model": None}, "model must be a text"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": -1}, "seed is -1, not between"),
        ({"num_trials": True}, "num_trials must be a whole number"),
        ({"peak_memory_bytes": 10**400}, "a very large number"),
        ({"metrics": {}}, "metrics has 0 entries"),
        ({"metrics": {"hr@10": 1.7}}, "metrics hr@10 is 1.7, not between 0 and 1"),
        ({"metrics": {"hr@10": "0.1"}}, "metrics hr@10 must be a number"),
        ({"metrics": {"hr@10": float("inf")}}, "hr@10 is inf"),
        ({"metrics": {"hr@10": float("nan")}}, "hr@10 is nan"),
        ({"metrics": {"novelty@10": 1e300}}, "novelty@10 is 1e+300"),
        ({"metrics": {"<b>": 0.1}}, "must be a metric such as hr@10"),
        ({"metrics": {"hr@10": 0.1, "ndcg@10": 0.2}}, "ndcg@10 is higher than hr@10"),
        ({"metrics": {"hr@10": 0.1, "hr@5": 0.2}}, "hr@k falls with k"),
        ({"intervals": {"hr@10": [0.2, 0.1]}}, "intervals hr@10 ends at 0.1 before it begins, at 0.2"),
        ({"intervals": {"hr@10": [0.2, 1.1]}}, "intervals hr@10 is 0.2 to 1.1, not between 0 and 1"),
        ({"intervals": {"hr@10": [0.1]}}, "intervals hr@10 has 1 entries, not 2 to 2"),
        ({"intervals": {"hr@10": 0.1}}, "intervals hr@10 must be a list"),
        ({"intervals": {"hr@7": [0.1, 0.2]}}, "intervals hr@7 is of no metric of the line"),
        ({"protocol": {**PROTOCOL, "fingerprint": "0123"}}, "protocol.fingerprint must be 16 hexadecimal digits"),
        ({"protocol": {**PROTOCOL, "num_users": 0}}, "protocol.num_users is 0"),
        ({"protocol": {"fingerprint": "0123456789abcdef"}}, "protocol.ties is missing"),
        ({"started": "yesterday"}, "started must be a time"),
        ({"seconds": {"training": -1}}, "seconds training is -1"),
        ({"card": "javascript:alert(1)"}, "card must be an address that starts with https://"),
        ({"card": 'https://x.org/"><script>'}, "card must be an address"),
        ({"git_commit": "main; rm"}, "git_commit must be a commit's hash"),
        ({"command": "transrec evaluate --data_dir /data"}, "command: names a folder or file of a machine"),
        ({"options": {"a": {"b": ["x", "~/models/x"]}}}, "options.a.b.1: names a folder or file of a machine"),
        ({"protocol": {**PROTOCOL, "model": "/home/me/run"}}, "protocol.model: names a folder"),
        ({"hardware": {"note": "C:\\Users\\me"}}, "hardware.note: names a folder"),
        ({"options": {"/home/me": 1}}, "options./home/me: names a folder"),
        ({"note": "x" * 5_000}, "note: has 5000 characters"),
        ({"deep": json.loads("[" * 20 + "]" * 20)}, "lies deeper than 8 levels"),
    ],
)
def test_what_cannot_be_shown_is_refused(changes, problem):
    problems = check_result(result_line(**changes))
    assert any(problem in one for one in problems), problems


@pytest.mark.parametrize(
    "text",
    ["a/b", "text/id", "https://hub.co/me/x", "1 / 2", "--model me/model", "a: b", "~5 %", "../shared", "C: yes"],
)
def test_what_is_no_path_of_a_machine_is_not_taken_for_one(text):
    assert check_result(result_line(command=text)) == []


def test_every_missing_field_is_named():
    for name in result_line():
        if name != "groups":
            line = result_line()
            del line[name]
            assert f"{name} is missing" in check_result(line)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(result_line())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=10), inside, max_size=3),
        max_leaves=8,
    ),
)
def test_no_value_breaks_the_check(name, value):
    assert all(
        isinstance(problem, str) and problem.isascii() for problem in check_result({**result_line(), name: value})
    )
    assert check_result(value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no results"),
        (b"[1]\n", ":1: must be an object, not [1]"),
        (b"{\n", ":1: is not JSON"),
        (b'{"a": 1, "a": 2}\n', "a name stands twice in one object"),
        (b'{"a": NaN}\n', "NaN is no number of JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}\n", ":1: is not JSON: Exceeds the limit"),
        (b"[" * 50_000 + b"\n", ":1: is not JSON"),
        (b'{"a": "' + b"x" * 70_000 + b'"}\n', "more than 64,000"),
        (b"\xff\xfe\n", "is not UTF-8"),
        (b"\n" * 10_002, "more than 10,000 lines"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_place(tmp_path, content, problem):
    file = tmp_path / "sent.jsonl"
    file.write_bytes(content)
    results, problems = read_results(file)
    assert results == [] and any(problem in one for one in problems), problems
    assert all("sent.jsonl" in one for one in problems)


def test_a_large_file_is_not_read(tmp_path):
    file = tmp_path / "large.jsonl"
    with file.open("wb") as large:
        large.truncate(MAX_FILE_BYTES + 1)
    assert "send it in parts" in read_results(file)[1][0]


def test_the_command_checks_and_says_every_problem(tmp_path, capsys):
    good = write_lines(tmp_path / "good.jsonl", [result_line(seed=seed) for seed in (1, 2)])
    bad = write_lines(tmp_path / "bad.jsonl", [result_line(), result_line(kind="best", split="train")])
    assert main(["leaderboard", str(good), "--check"]) == 0
    assert "2 results, no problem found" in capsys.readouterr().out
    assert main(["leaderboard", str(good), str(bad), "--check"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count(f"{bad}:2: ") == 2 and "problems found in files of results: 2" in shown.err
    assert main(["leaderboard", str(good)]) == 2
    assert "--output_dir" in capsys.readouterr().err


def test_of_many_problems_the_first_are_said(tmp_path):
    said = []
    file = write_lines(tmp_path / "bad.jsonl", [{"schema": 1}] * 40)
    with pytest.raises(ValueError, match="files of results: 1,040"):
        check_files([file], said.append)
    assert len(said) == 51 and said[-1] == "… and 990 more"
