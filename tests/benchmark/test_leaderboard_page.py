"""The leaderboard in a browser: sorted, filtered, opened; no errors, nothing asked of others."""

import pytest

from modeling_transrec.benchmark.leaderboard import write_leaderboard

from ..browser import requests_of
from .lines import PROTOCOL, result_line


pytestmark = pytest.mark.slow
OTHER = "fedcba9876543210"
HOSTILE = '</script><img src="https://example.org/x.png" onerror="document.title=1">'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's address: two protocols on Amazon_Beauty, one model on KU, published numbers of both."""
    runs = ((0.10, 1, [0.08, 0.12]), (0.12, 2, [0.1, 0.15]))
    lines = [result_line("IDRec", hr, seed, intervals={"hr@10": ends}) for hr, seed, ends in runs]
    lines += [
        result_line("text", 0.09, modality="text", num_trials=20, card="https://huggingface.co/me/text"),
        result_line("popularity", 0.05, None, kind="baseline", modality=None, seconds={"evaluation": 1.0}),
        result_line("zero", 0.02, kind="zero-shot", modality="text", fingerprint=OTHER, sources=["Amazon_Sports"]),
        result_line(HOSTILE, 0.01, kind="external", fingerprint=OTHER),
        result_line("at KU", 0.3, dataset="KU", fingerprint="a" * 16),
        result_line("few", 0.3, known_users=50, fingerprint="b" * 16),
    ]
    return write_leaderboard(lines, tmp_path_factory.mktemp("space")).as_uri()


@pytest.fixture
def board(browser, page):
    """The browser with the page newly opened."""
    browser.get(page)
    return browser


def find_all(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def models(browser, fingerprint: str = "0123456789abcdef") -> list[str]:
    return [one.text for one in find_all(browser, f'section[data-fingerprint="{fingerprint}"] .row .open strong')]


def choose(browser, name: str, value: str) -> None:
    find(browser, f'#{name} option[value="{value}"]').click()


def test_it_opens_without_errors_and_without_asking_anybody(board, page):
    assert board.title == "Transferable sequential recommendation: leaderboard"
    assert find_all(board, "tbody tr.row")
    board.execute_script(
        "for (let i = 0; i < document.querySelectorAll('.open').length; i++) "
        "document.querySelectorAll('.open')[i].click()"
    )
    assert len(find_all(board, "tr.detail")) == len(find_all(board, "tbody tr.row"))
    assert not board.get_log("browser")
    assert {url for url in requests_of(board) if not url.startswith("data:")} == {page}


def test_two_protocols_are_two_tables(board):
    sections = find_all(board, "section[data-fingerprint]")
    found = [one.get_attribute("data-fingerprint") for one in sections]
    assert found == ["0123456789abcdef", OTHER, "a" * 16, "b" * 16]
    assert models(board) == ["IDRec", "text", "popularity"]
    assert models(board, OTHER) == ["zero", HOSTILE]  # as text
    assert not find_all(board, "main img")
    same, unknown, other, of_ku = find_all(board, "section.elsewhere")
    assert "published, same users and targets" in same.text and "BSARec" in same.text
    assert "Histories of up to 50 items" in same.text
    assert "published, cut not compared" in unknown.text and "OneRec-Foundation" in unknown.text
    assert "published, another cut" in other.text and "LIGER" in other.text
    assert "published, cut not compared" in of_ku.text and "HasPT, E2E, Bili_500K" in of_ku.text
    assert not any("best published" in one.text for one in sections)  # the tables are of a part of these data


def test_the_best_published_number_is_marked_where_the_data_are_the_same(browser, tmp_path):
    whole = {**PROTOCOL, "num_users": 22_363, "num_candidates": 12_101}
    lines = [result_line("IDRec", 0.05, protocol=whole), result_line("few", 0.05, known_users=50, fingerprint=OTHER)]
    browser.get(write_leaderboard(lines, tmp_path).as_uri())
    marked = find(browser, f'section[data-fingerprint="{PROTOCOL["fingerprint"]}"]')
    assert "best published NDCG@10 on the same users, items and targets, 0.0611 (BSARec)" in marked.text
    assert find_all(browser, f'section[data-fingerprint="{PROTOCOL["fingerprint"]}"] .track u')
    assert not find_all(browser, f'section[data-fingerprint="{OTHER}"] .track u')


def test_it_sorts_by_any_column(board):
    def sort(column: str) -> str:
        header = next(one for one in find_all(board, "section thead button") if one.text.strip(" ↓↑") == column)
        header.click()
        now = next(one for one in find_all(board, "section thead th[aria-sort]"))
        return now.get_attribute("aria-sort")

    assert sort("time") == "ascending"
    assert models(board) == ["popularity", "IDRec", "text"] or models(board) == ["popularity", "text", "IDRec"]
    assert sort("HR@10") == "descending"
    assert models(board) == ["IDRec", "text", "popularity"]
    assert find(board, "#metric").get_attribute("value") == "hr@10"
    assert sort("HR@10") == "ascending"
    assert models(board) == ["popularity", "text", "IDRec"]
    assert sort("trials") == "descending"
    assert models(board)[0] == "text"
    choose(board, "metric", "hr@5")
    assert find(board, "th[aria-sort]").text.startswith("HR@5")


@pytest.mark.parametrize(
    ("name", "value", "left", "other"),
    [
        ("dataset", "KU", [], []),
        ("modality", "text", ["text"], ["zero"]),
        ("budget", "tuned", ["text"], []),
        ("budget", "untuned", ["IDRec", "popularity"], ["zero", HOSTILE]),
        ("protocol", OTHER, [], ["zero", HOSTILE]),
    ],
)
def test_it_filters(board, name, value, left, other):
    choose(board, name, value)
    assert (models(board), models(board, OTHER)) == (left, other)
    assert (models(board, "a" * 16) == ["at KU"]) == (value in ("KU", "untuned"))
    shown = len(find_all(board, "tbody tr.row"))
    assert find(board, "#count").text.startswith(f"{shown} of ")


def test_it_filters_by_kind_and_name(board):
    chips = {chip.text: chip for chip in find_all(board, ".chip")}
    assert set(chips) == {"needs no training", "trained", "zero-shot", "other systems", "published"}
    for name in ("published", "trained"):
        chips[name].click()
        assert chips[name].get_attribute("aria-pressed") == "false"
    assert models(board) == ["popularity"] and not find_all(board, "section.elsewhere")
    find(board, "#search").send_keys("nothing has this name")
    assert "No row fits these filters." in find(board, "main").text


def test_a_row_opens_with_its_runs(board, page):
    find(board, ".row .open").send_keys("\n")  # by the keyboard
    opened = find(board, ".row .open")
    assert opened.get_attribute("aria-expanded") == "true" and opened == board.switch_to.active_element
    detail = find(board, "tr.detail").text
    for words in ("transrec finetune --dataset_config_name Amazon_Beauty", "torch 2.9.0", "a processor", "2.0 GiB"):
        assert words in detail
    assert "0.1100 ± 0.0141\n0.0900 to 0.1350" in find(board, ".row").text
    assert "0.1000 (0.0800 to 0.1200)" in detail and "0.1200 (0.1000 to 0.1500)" in detail
    assert len(find_all(board, "tr.detail .runs tbody tr")) == 2
    opened.click()
    assert not find_all(board, "tr.detail")

    choose(board, "modality", "text")
    find(board, ".row .open").click()
    assert find(board, "tr.detail .runs a[href^=https]").get_attribute("href") == "https://huggingface.co/me/text"
    run = find(board, 'tr.detail .runs a[href^="#run-"]').get_attribute("href")
    board.get("about:blank")
    board.get(run)  # a link to a run opens its row
    assert [one.text for one in find_all(board, '.open[aria-expanded="true"] strong')] == ["text"]


def test_tables_of_fewer_users_are_folded_away(board):
    table = find(board, f'section[data-fingerprint="{"b" * 16}"]')
    assert not table.is_displayed()
    find(board, ".curves summary").click()
    assert table.is_displayed() and "50 known users" in table.text
    find(board, "#all").click()  # which makes the tables anew
    assert find(board, f'section[data-fingerprint="{"b" * 16}"]').is_displayed()


def test_all_metrics_are_shown_on_request(board):
    before = len(find_all(board, "main > section:first-of-type thead th"))
    find(board, "#all").click()
    assert len(find_all(board, "main > section:first-of-type thead th")) == before + 2  # hr@5 and ndcg@5


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_window(board, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    board.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        find(board, ".row .open").click()
        assert board.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        board.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
