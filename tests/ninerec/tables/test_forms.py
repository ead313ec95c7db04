"""Which form a table has: by its name, and what separates its fields by its first rows."""

import pytest

from modeling_transrec.ninerec.tables.forms import Dialect, dialect_of
from modeling_transrec.ninerec.tables.items import read_items
from modeling_transrec.ninerec.tables.options import TableOptions


def found(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return dialect_of(path, TableOptions(**options))


@pytest.mark.parametrize("separator", ["\t", "::", ",", ";", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".TSV", ".txt", ".dat", ".inter"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_any_separator_under_any_suffix(tmp_path, separator, suffix, end):
    rows = [
        ["user_id", "item_id", "note"],
        ["u1", "i1", "Last, First" if separator != "," else "a:b;c"],
        ["2", "3", ""],
    ]
    content = "\r\n".join(map(separator.join, rows)) + end
    assert found(tmp_path, f"X_pairs{suffix}", content).separator == separator
    assert found(tmp_path, f"X_pairs{suffix}", content, separator="|").separator == "|"


@pytest.mark.parametrize(
    ("name", "content", "separator"),
    [
        ("X.csv", "id,title\n1,a|b\n2,c|d\n", ","),
        ("X.csv", "id|tags,more\n1|a,b\n2|c,d\n", ","),  # both fit: that of the suffix
        ("X.csv", 'id,title\n1,"a\n;b"\n2,"c;d"\n', ","),
        ("X.csv", "id,title\n1,a,b\n2,c,d,e\n", ","),  # ragged, but no other fits
        ("X.csv", "id;price\n1;2,50\n2;3,50\n", ";"),
        ("X.csv", "1::Dracula, Dead::A|B\n2::Heat::C\n", "::"),
        ("X.csv", "word\n", ","),
        ("X.csv", "", ","),
        ("X.tsv", "a b\nc d\n", "\t"),
        ("X.txt", "1 2\n1 3\n", " "),
        ("X.txt", "1\tone, two\n2\tthree, four\n", "\t"),
        ("X.txt", "id,title\n1,a\n2,b,c\n3,d\n", ","),  # ragged
        ("X_behaviour.tsv", "u;1\nv;2\n", "\t"),
    ],
)
def test_what_decides(tmp_path, name, content, separator):
    assert found(tmp_path, name, content).separator == separator


def test_two_separators_that_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"X\.txt:1: cannot tell .*',' or ';'; say which: separator=','"):
        found(tmp_path, "X.txt", "a,b;c\nd,e;f\n")
    assert found(tmp_path, "X.txt", "a,b;c\nd,e;f\n", separator=";") == Dialect(";")


def test_headers_of_recbole(tmp_path):
    path = tmp_path / "X.item"
    path.write_text("item_id:token\ttitle:token_seq\tyear:float\n1\tToy Story\t1995\n", encoding="utf-8")
    assert read_items(path).rows() == [("1", "", "Toy Story")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sep=;\nid;title\n1;a\n", r":1: 'sep=;' is a note for spreadsheets; remove this line"),
        ('{"id": 1, "title": "a"}\n', r":1: the rows are JSON objects; let the name of the file end in \.jsonl"),
        ("id^title\n1^a\n", r':1: 1 columns .* separated by commas \(.*separator="…"\)'),
    ],
)
def test_what_is_no_plain_table(tmp_path, content, message):
    path = tmp_path / "X_item.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"X_item\.csv" + message):
        read_items(path)
    if "^" in content:
        assert read_items(path, TableOptions(separator="^"))["text_en"].to_list() == ["a"]


@pytest.mark.parametrize("name", ["X_items.csv", "X_items.TSV", "X_items.txt"])
def test_a_separator_is_found_also_where_quotes_are_wrong(tmp_path, name):
    """So that the error is about the quotes."""
    path = tmp_path / name
    path.write_text('item_id|title\n1|"a" b\n2|c "d"\n3|"e\n4|f\n')
    with pytest.raises(ValueError, match=rf"{name}:2: .*quoting=\"none\""):
        read_items(path)
    assert read_items(path, TableOptions(quoting="none"))["text_en"].to_list() == ['"a" b', 'c "d"', '"e', "f"]
