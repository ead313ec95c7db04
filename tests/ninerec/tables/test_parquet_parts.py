"""Parquet tables in parts."""

import polars as pl
import pytest

from modeling_transrec.ninerec.files import find_files, find_names
from modeling_transrec.ninerec.tables.options import EVERYTHING
from modeling_transrec.ninerec.tools.validate import validate


ITEMS = pl.DataFrame({"item_id": [f"i{n}" for n in range(9)], "title": [f"title {n}" for n in range(9)]})
PAIRS = pl.DataFrame(
    [(n % 3, f"i{n * n % 9}", n // 5) for n in range(60)], schema=["user_id", "item_id", "time"], orient="row"
)


def read(folder):
    items, sequences = find_files("X", folder).read(folder / "unpacked", EVERYTHING)
    return items.rows(), sequences.items.tolist(), sequences.timestamps.tolist()


@pytest.fixture
def expected(tmp_path):
    ITEMS.write_parquet(tmp_path / "X_items.parquet")
    PAIRS.write_parquet(tmp_path / "X_interactions.parquet")
    found = read(tmp_path)
    (tmp_path / "X_interactions.parquet").unlink()
    return found


def in_parts(folder, frame, count=12, name="part-{}.parquet"):
    folder.mkdir()
    size = -(-frame.height // count)
    for number in range(count):
        frame.slice(number * size, size).write_parquet(folder / name.format(number))
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").touch()


def test_parts_are_one_table_in_the_order_of_their_numbers(tmp_path, expected):
    in_parts(tmp_path / "X_interactions.parquet", PAIRS)
    assert find_names(tmp_path) == ["X"]
    assert read(tmp_path) == expected
    assert [problem for problem in validate("X", tmp_path) if problem.severity == "error"] == []
    before = find_files("X", tmp_path).state_hash(with_media=False)
    (tmp_path / "X_interactions.parquet" / "part-7.parquet").unlink()
    assert find_files("X", tmp_path).state_hash(with_media=False) != before


def test_columns_in_the_names_of_folders(tmp_path, expected):
    for user in range(3):
        part = tmp_path / "X_interactions.parquet" / f"user_id={user}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        PAIRS.filter(pl.col("user_id") == user).drop("user_id").write_parquet(part)
    assert read(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("part-9.parquet", PAIRS.drop("time"), "part-9.parquet: column 'time' is absent, and integer in .*part-0"),
        (
            "part-9.parquet",
            PAIRS.cast({"time": pl.Datetime}),
            "part-9.parquet: column 'time' is datetime, and integer in",
        ),
        ("notes.csv", None, "notes.csv is no Parquet file among the parts"),
        ("part-9.parquet", None, "part-9.parquet is no whole Parquet file"),
    ],
)
def test_parts_of_another_table_are_refused(tmp_path, expected, name, frame, message):
    in_parts(tmp_path / "X_interactions.parquet", PAIRS, 3)
    path = tmp_path / "X_interactions.parquet" / name
    path.write_text("a,b\n") if frame is None else frame.write_parquet(path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    assert any(problem.severity == "error" for problem in validate("X", tmp_path))


def test_times_of_day_are_not_lost_between_parts(tmp_path, expected):
    folder = tmp_path / "X_interactions.parquet"
    in_parts(folder, PAIRS.cast({"time": pl.Datetime}), 2)
    PAIRS.slice(30).cast({"time": pl.Date}).write_parquet(folder / "part-1.parquet")
    with pytest.raises(ValueError, match="part-1.parquet: column 'time' is date, and datetime in .*part-0.parquet"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "log"), [("Delta", "_delta_log/0.json"), ("Iceberg", "metadata/v1.metadata.json"), ("Hudi", ".hoodie/x")]
)
def test_tables_whose_files_are_told_by_a_log_are_refused(tmp_path, expected, kind, log):
    """Their folders hold rows that were deleted, too."""
    folder = tmp_path / "X_interactions.parquet"
    in_parts(folder, PAIRS, 2)
    (folder / log).parent.mkdir()
    (folder / log).touch()
    with pytest.raises(ValueError, match=f'X_interactions.parquet is a {kind} table.* export .*"{kind.lower()}"'):
        read(tmp_path)


def test_a_folder_without_parts(tmp_path, expected):
    (tmp_path / "X_interactions.parquet").mkdir()
    with pytest.raises(ValueError, match="X_interactions.parquet is a folder without Parquet files"):
        read(tmp_path)


def test_parts_may_differ_in_width(tmp_path, expected):
    folder = tmp_path / "X_interactions.parquet"
    in_parts(folder, PAIRS, 2)
    PAIRS.slice(30).cast({"user_id": pl.Int16, "item_id": pl.Categorical}).write_parquet(folder / "part-1.parquet")
    (tmp_path / "X_items.parquet").unlink()
    in_parts(tmp_path / "X_items.parquet", ITEMS.cast({"title": pl.Categorical}), 2)
    ITEMS.slice(5).write_parquet(tmp_path / "X_items.parquet" / "part-1.parquet")
    assert read(tmp_path) == expected
