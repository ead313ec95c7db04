"""The page of a Space in a browser: items chosen and taken out, found, explained; a catalogue uploaded."""

import csv
import sys

import pytest

from modeling_transrec import Recommender, load_items, load_sequences
from modeling_transrec.serving.space import write_space

from ..browser import SpacePage, served_space, wait_for


pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason='needs pip install ".[space]"')

from modeling_transrec.serving.page import read_table  # noqa: E402


HOSTILE = '<img src=x onerror="document.title=1"> ${1+1} {{7*7}}'


@pytest.fixture(scope="module")
def recommender(make_model, text_processor):
    items = load_items("ninerec", "Sample_Target")
    items = items.map(lambda row: {"text_en": HOSTILE} if row["item_id"] == "t0003" else {})
    histories = load_sequences("ninerec", "Sample_Target", "train").select_columns(["user_id", "item_ids"])
    return Recommender(make_model("text"), text_processor).index(items, histories=histories)


@pytest.fixture(scope="module")
def address(recommender, tmp_path_factory):
    """The page's address, served by the program that is in the folder."""
    app = write_space(recommender, tmp_path_factory.mktemp("space"), "A shop", load_items("ninerec", "Sample_Target"))
    with served_space(app, sys.executable) as found:
        yield found


@pytest.fixture
def page(browser, address):
    return SpacePage(browser, address)


def test_items_are_chosen_and_taken_out(page, recommender):
    assert len(page.pictures(0)) == 20 and not page.cards()
    first, second = recommender.item_ids[:2]
    page.choose(0, 1)
    titles = dict(zip(recommender.item_ids, recommender.items["text_en"], strict=True))
    expected = [titles[one["item_id"]] for one in recommender.recommend([first, second])]
    wait_for(lambda: page.cards() == expected, f"{page.cards()} in place of {expected}")
    assert page.reasons() <= {titles[first], titles[second]}
    page.pictures(1)[0].click()
    expected = [titles[one["item_id"]] for one in recommender.recommend([second])]
    wait_for(lambda: page.cards() == expected, "still the old ones")
    page.button("Begin anew").click()
    wait_for(lambda: not page.cards() and not page.pictures(1), "not cleared")
    page.button("An example").click()
    wait_for(lambda: len(page.cards()) == 10 and len(page.pictures(1)) == 3, "no example")


def test_what_items_say_is_text(page):
    page.all("textarea, input[type=text]")[0].send_keys("onerror")
    wait_for(lambda: len(page.pictures(0)) == 1, "not found")
    page.pictures(0)[0].click()
    wait_for(page.cards, "no recommendations")
    assert any(HOSTILE in reason for reason in page.texts(".card .why"))
    assert page.browser.title == "A shop"


def test_a_catalogue_of_ones_own(page, tmp_path):
    rows = [
        f"mine{number},{colour} {thing}"
        for number, (colour, thing) in enumerate(
            (colour, thing) for colour in ("red", "blue", "green") for thing in ("rope", "shoe", "lamp", "tent")
        )
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["id,text", *rows]))
    (tmp_path / "wrong.csv").write_text("a,b,c\nd,e,f\n")
    next(one for one in page.all("button[role=tab]") if one.text.strip() == "Your own catalogue").click()
    upload = page.browser.find_element("css selector", "input[type=file]")
    upload.send_keys(str(tmp_path / "wrong.csv"))
    wait_for(lambda: "item 1 has 3 columns" in page.browser.page_source, "no problem is told")
    upload.send_keys(str(tmp_path / "mine.csv"))
    wait_for(lambda: len(page.pictures(0)) == 12, "not uploaded")
    page.pictures(0)[2].click()
    wait_for(lambda: len(page.cards()) == 10, "no recommendations")
    assert "green lamp" in page.cards() or "blue lamp" in page.cards()
    assert "red lamp" not in page.cards()  # it is chosen
    assert page.reasons() == {"red lamp"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"id,text\n1,a,b\n2,b\n", "item 1 has 3 columns"),
        (b"1,a\n1,b\n", "the id of item 2, '1', is empty or there twice"),
        (b"1,a\n", "there must be 2 to 2,000 items, and there are 1"),
        (b"1,a\n2,\xff\n", r"not in UTF-8 \(byte 6\)"),
        (b"1," + b"a" * 3_000_000, "at most 2,000,000 bytes"),
    ],
)
def test_tables_that_are_refused(content, problem, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_table(tmp_path / "table.csv")


def test_a_quotation_mark_that_is_not_closed(tmp_path):
    (tmp_path / "table.csv").write_text('1,"a\n' + "2,b\n" * 40_000)
    before = csv.field_size_limit(131_072)  # Python's own, which others may have raised
    try:
        with pytest.raises(ValueError, match="no table of CSV .*; is a quotation mark not closed"):
            read_table(tmp_path / "table.csv")
    finally:
        csv.field_size_limit(before)


def test_tables_that_are_read(tmp_path):
    (tmp_path / "table.tsv").write_bytes("\ufeffitem_id\ttext\n7\tred, large\n8\tблок\n".encode())
    assert read_table(tmp_path / "table.tsv") == [
        {"item_id": "7", "text": "red, large"},
        {"item_id": "8", "text": "блок"},
    ]
