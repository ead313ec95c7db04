"""Recommendations for all users in Parquet files, by one process and by two."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modeling_transrec import Recommender, load_items, load_sequences
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.recommend import main
from modeling_transrec.serving.batch import index_in_shares, recommended_table, write_recommendations


ROOT = Path(__file__).parents[2]


@pytest.fixture
def recommender(make_model, text_processor, items):
    return Recommender(make_model("text"), text_processor).index(items)


@pytest.fixture
def users(validation_split):
    return validation_split  # 13 of them


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(recommender, users, folder, **options):
    return write_recommendations(recommender, users, folder, **{"k": 3, "users_per_file": 5, **options})


def test_it_writes_what_recommend_returns(recommender, users, tmp_path):
    assert write(recommender, users, tmp_path, batch_size=2) == 0
    assert sorted(contents(tmp_path)) == [f"recommendations-0000{number}-of-00003.parquet" for number in range(3)]
    rows = pq.read_table(tmp_path).to_pylist()
    assert [row["user_id"] for row in rows] == users["user_id"][:]
    for user, row in zip(users, rows, strict=True):
        expected = recommender.recommend([*user["item_ids"], user["target"]], k=3)
        assert row["item_ids"] == [item["item_id"] for item in expected]
        assert row["scores"] == pytest.approx([item["score"] for item in expected], abs=1e-5)


def test_shares_of_processes_are_the_files_of_one(recommender, users, tmp_path):
    write(recommender, users, tmp_path / "one")
    for index in (1, 0):
        write(recommender, users, tmp_path / "two", process_index=index, num_processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_it_goes_on_where_it_was_stopped(recommender, users, tmp_path, monkeypatch):
    write(recommender, users, tmp_path / "whole")
    recommend, calls = recommender.recommend, []

    def stopped(histories, *args, **options):
        calls.append(histories)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return recommend(histories, *args, **options)

    monkeypatch.setattr(recommender, "recommend", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(recommender, users, tmp_path / "stopped")
    assert len(contents(tmp_path / "stopped")) == 1
    assert write(recommender, users, tmp_path / "stopped") == 1
    assert len(calls) == 4  # the file that was there was not made again
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_files_of_other_runs_are_refused(recommender, users, items, tmp_path, make_model, text_processor):
    write(recommender, users, tmp_path)
    for options, name in (({"k": 4}, "k"), ({"exclude_seen": False}, "exclude_seen")):
        with pytest.raises(ValueError, match=f"00000-of-00003.parquet was written with other {name}: run with"):
            write(recommender, users, tmp_path, **options)
    with pytest.raises(ValueError, match="files of another run, such as .*-of-00003.parquet"):
        write(recommender, users, tmp_path, users_per_file=4)
    with pytest.raises(ValueError, match="with other users"):
        write(recommender, users.select([*range(1, 13), 0]), tmp_path)
    other = items.map(lambda row: {"text_en": f"another {row['text_en']}"})
    with pytest.raises(ValueError, match="with other items"):
        write(Recommender(make_model("text"), text_processor).index(other), users, tmp_path)
    path = tmp_path / "recommendations-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="00001-of-00003.parquet is no file of recommendations: remove it"):
        write(recommender, users, tmp_path)


def test_a_share_of_one_is_the_whole_catalogue(recommender, make_model, text_processor, items, validation_split):
    other = index_in_shares(Recommender(make_model("text"), text_processor), items)
    history = validation_split["item_ids"][0]
    assert other.recommend(history) == recommender.recommend(history)


@pytest.mark.slow
def test_two_processes_equal_one(make_model, text_processor, tmp_path, capsys):
    for part in (make_model("text"), text_processor):
        part.save_pretrained(tmp_path / "model")
    options = ["--model_name_or_path", str(tmp_path / "model"), "--users_per_file", "150", "--use_cpu", "true"]
    main([*options, "--output_dir", str(tmp_path / "one")])
    assert capsys.readouterr().out == f"800 users written to {tmp_path / 'one'}\n"
    (tmp_path / "two").mkdir()
    kept = "recommendations-00002-of-00006.parquet"
    shutil.copy(tmp_path / "one" / kept, tmp_path / "two" / kept)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "examples/recommend.py"]
    command += [*options, "--output_dir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"800 users written to {tmp_path / 'two'}, 1 of its files by an earlier run" in done.stdout
    assert len(contents(tmp_path / "one")) == 6
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    row = pq.read_table(tmp_path / "two").to_pylist()[7]
    user = load_sequences("ninerec", "Sample_Target", "test")[7]
    recommender = Recommender.from_pretrained(tmp_path / "model").index(load_items("ninerec", "Sample_Target"))
    expected = recommender.recommend([*user["item_ids"], user["target"]])
    assert row["user_id"] == user["user_id"] and row["item_ids"] == [item["item_id"] for item in expected]


def test_ray_adds_no_files_to_those_of_another_run(script, tmp_path):
    (tmp_path / "0_000000.parquet").touch()
    with pytest.raises(OptionError, match="has files of another run: give another --output_dir"):
        script("recommend_ray").main(["--model_name_or_path", "checkpoint", "--output_dir", str(tmp_path)])


@pytest.mark.slow
def test_a_ray_cluster_equals_one_process(make_model, text_processor, tmp_path):
    """Two nodes on this machine, each with processes of its own."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install ".[ray]"')
    for part in (make_model("text"), text_processor):
        part.save_pretrained(tmp_path / "model")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "examples/recommend_ray.py", "--model_name_or_path", str(tmp_path / "model")]
        command += ["--output_dir", str(tmp_path / "found"), "--k", "5", "--batch_size", "90"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    recommender = Recommender.from_pretrained(tmp_path / "model").index(load_items("ninerec", "Sample_Target"))
    expected = recommended_table(recommender, load_sequences("ninerec", "Sample_Target", "test"), k=5).to_pylist()
    found = {row["user_id"]: row for row in pq.read_table(tmp_path / "found").to_pylist()}
    assert len(found) == len(expected) == 800
    for row in expected:
        assert found[row["user_id"]]["scores"] == pytest.approx(row["scores"], abs=1e-4)
    assert sum(found[row["user_id"]]["item_ids"] == row["item_ids"] for row in expected) >= 790  # a near tie may turn
