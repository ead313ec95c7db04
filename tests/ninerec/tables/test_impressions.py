"""Tables with a row an impression: what was clicked, after what had been clicked before."""

import polars as pl
import pytest

from modeling_transrec.ninerec.tables.impressions import impression_chunks
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tables.problems import Problems


IDS = pl.Series([f"N{number}" for number in range(1, 10)])
COLUMNS = {"user_id": "who", "timestamp": "when", "history": "before", "impressions": "shown"}


def write(tmp_path, rows, name="X_interactions.tsv"):
    path = tmp_path / name
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def read(path, **options):
    sequences = read_sequences(path, IDS, min_actions=1, options=TableOptions(**options))
    items = [sequences.item_ids[int(item)].as_py() for item in sequences.items]
    bounds = zip(sequences.offsets, sequences.offsets[1:], strict=False)
    return dict(zip(sequences.user_ids.to_pylist(), [items[a:b] for a, b in bounds], strict=True)), sequences


def day(number, hour="9:05:58 AM"):
    return f"11/{number}/2019 {hour}"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # a later impression stands first; its history is that of the user's first row
        (
            [("1", "U1", day(14), "N1 N2", "N4-1"), ("2", "U1", day(13), "N1 N2", "N5-0 N3-1")],
            {"U1": ["N1", "N2", "N3", "N4"]},
        ),
        # nothing before, nothing clicked, several clicks
        (
            [("1", "U1", day(13), "", "N4-1 N2-0 N3-1"), ("2", "U2", day(14), "N1", "N2-0")],
            {"U1": ["N4", "N3"], "U2": ["N1"]},
        ),
        # a history with an item twice; a history whose items are clicked again
        ([("1", "U1", day(13), "N1 N2 N1", "N2-1")], {"U1": ["N1", "N2", "N1", "N2"]}),
        # before noon and after it, by the clock of twelve hours
        (
            [("1", "U1", day(13, "1:00:00 PM"), "", "N2-1"), ("2", "U1", day(13, "12:30:00 AM"), "", "N1-1")],
            {"U1": ["N1", "N2"]},
        ),
        # what was shown in a test set says nothing of clicks
        ([("1", "U1", day(13), "N1 N2 N3", "N4 N5")], {"U1": ["N1", "N2", "N3"]}),
        # an early impression of another user comes after the history of this one
        (
            [("1", "U1", day(20), "N1", "N2-1"), ("2", "U2", day(1), "N3", "N4-1")],
            {"U1": ["N1", "N2"], "U2": ["N3", "N4"]},
        ),
    ],
)
def test_clicks_come_after_what_was_before(tmp_path, rows, expected):
    found, sequences = read(write(tmp_path, rows))
    assert found == expected
    assert all(sequences.timestamps >= 1_570_000_000)


def test_columns_of_ones_own(tmp_path):
    rows = [("when", "who", "before", "shown", "x"), ("2021-05-07", "u", "N1 N2", "N3-1 N4-0", "?")]
    assert read(write(tmp_path, rows), columns=COLUMNS)[0] == {"u": ["N1", "N2", "N3"]}


def test_what_is_missing_is_named(tmp_path):
    path = write(tmp_path, [("who", "before", "shown"), ("u", "N1", "N2-1")])
    with pytest.raises(
        ValueError, match=r'X_interactions\.tsv:1: .*needs a column timestamp; .*columns={"timestamp": "…"}'
    ):
        read(path, columns={name: column for name, column in COLUMNS.items() if name != "timestamp"})
    with pytest.raises(ValueError, match="min_rating needs a column rating"):
        read(path, columns=COLUMNS, min_rating=3)
    pl.DataFrame({"who": ["u"], "when": [1], "before": ["N1"], "shown": ["N2-1"]}).write_parquet(
        tmp_path / "X.parquet"
    )
    with pytest.raises(ValueError, match="must be a text"):
        read(tmp_path / "X.parquet", columns=COLUMNS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("2", "U2", day(14), "N1"), "4 columns where 5 are expected"),
        (("2", "U2", "soon", "N1", "N2-1"), "no user, or a time that is no date"),
        (("2", " ", day(14), "N1", "N2-1"), "no user, or a time"),
    ],
)
def test_wrong_rows_name_the_line_and_are_collected(tmp_path, row, message):
    path = write(tmp_path, [("1", "U1", day(13), "N1", "N2-1"), row])
    with pytest.raises(ValueError, match=rf"X_interactions\.tsv:2: .*{message}"):
        read(path)
    problems = Problems()
    options = TableOptions(columns={name: f"column {place}" for place, name in enumerate(COLUMNS, 2)})
    chunks, _ = impression_chunks(path, options, problems)
    assert pl.concat(chunks())["item_id"].to_list() == ["N1", "N2"]
    [problem] = problems.found()
    assert (problem.severity, problem.count) == ("error", 1) and "X_interactions.tsv:2" in problem.examples[0]
