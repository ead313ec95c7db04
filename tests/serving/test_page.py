"""The page of a Space in a browser: items chosen and taken out, found, explained; a catalogue uploaded."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from modeling_transrec import Recommender, load_items, load_sequences
from modeling_transrec.serving.space import write_space


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen([sys.executable, str(app)], env=environment, stderr=subprocess.PIPE, text=True)
    until, found = time.monotonic() + 240, f"http://127.0.0.1:{port}/"
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(found, timeout=30).close()
                break
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()
            time.sleep(0.5)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install .[test]")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1500"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        yield found


def wait_for(found, what: str):
    """What a function finds, as soon as it is something."""
    until = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < until, what
        time.sleep(0.2)
    return value


class Page:
    """What a person sees and clicks on, in the tab that is open."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        wait_for(lambda: self.pictures(0), "no items")

    def all(self, selector: str) -> list:
        return [one for one in self.browser.find_elements("css selector", selector) if one.is_displayed()]

    def pictures(self, gallery: int) -> list:
        galleries = self.all(".gradio-gallery, .grid-wrap")
        return galleries[gallery].find_elements("css selector", "button") if len(galleries) > gallery else []

    def texts(self, selector: str) -> list[str]:
        """All at once: the page may change in between."""
        find = f"[...document.querySelectorAll('{selector}')].filter(one => one.offsetParent)"
        return self.browser.execute_script(f"return {find}.map(one => one.textContent)")

    def cards(self) -> list[str]:
        return self.texts(".card .title")

    def button(self, text: str):
        return next(one for one in self.all("button") if one.text.strip() == text)


@pytest.fixture
def page(browser, address):
    return Page(browser, address)


def test_items_are_chosen_and_taken_out(page, recommender):
    assert len(page.pictures(0)) == 20 and not page.cards()
    first, second = recommender.item_ids[:2]
    for number, count in ((0, 1), (1, 2)):
        page.pictures(0)[number].click()
        wait_for(lambda count=count: len(page.pictures(1)) == count, "not chosen")
    titles = dict(zip(recommender.item_ids, recommender.items["text_en"], strict=True))
    expected = [titles[one["item_id"]] for one in recommender.recommend([first, second])]
    wait_for(lambda: page.cards() == expected, f"{page.cards()} in place of {expected}")
    assert {reason.removeprefix("because of ") for reason in page.texts(".card .why")} <= {
        titles[first],
        titles[second],
    }
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
    assert set(page.texts(".card .why")) == {"because of red lamp"}


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


def test_tables_that_are_read(tmp_path):
    (tmp_path / "table.tsv").write_bytes("\ufeffitem_id\ttext\n7\tred, large\n8\tблок\n".encode())
    assert read_table(tmp_path / "table.tsv") == [
        {"item_id": "7", "text": "red, large"},
        {"item_id": "8", "text": "блок"},
    ]
