"""The page of a Gradio Space: choose items, see what is recommended and why; and the same on a catalogue of one's own.

Needs `pip install "modeling_transrec[space]"`; `transrec space` writes the folder of a Space that shows it.
"""

import base64
import colorsys
import copy
import csv
import html
import io
import os
import random
import tempfile
import textwrap
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from .recommender import Recommender
from .space import check_shown


SHOWN, K, MOST_HISTORY = 20, 10, 50  # items that are found, recommended, and chosen at most
MOST_BYTES, MOST_ITEMS, MOST_LETTERS = 2_000_000, 2_000, 2_000  # of an uploaded table, and of one text in it
SIDE = 192  # of a picture, in pixels
_GALLERY: dict = {"show_label": False, "height": 560, "object_fit": "cover", "allow_preview": False, "buttons": []}
_GALLERY |= {"interactive": False}
CSS = """
.gradio-container {width: 100% !important; max-width: 1180px !important; margin: auto}
.cards {display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem}
.card {display: flex; flex-direction: column; border: 1px solid var(--border-color-primary); border-radius: .7rem;
  overflow: hidden; background: var(--background-fill-primary)}
.card > img {width: 100%; aspect-ratio: 4/3; object-fit: cover}
.card .words {padding: .6rem .7rem; display: flex; flex-direction: column; gap: .35rem; flex: 1}
.card .title {font-weight: 600; line-height: 1.25; color: var(--body-text-color); overflow-wrap: anywhere}
.card .why {display: flex; gap: .45rem; align-items: center; margin-top: auto; padding-top: .4rem;
  border-top: 1px solid var(--border-color-primary)}
.card .why img {width: 2.2rem; height: 2.2rem; object-fit: cover; border-radius: .35rem; flex: none}
.card small, .hint {color: var(--body-text-color-subdued); overflow-wrap: anywhere}
.hint {padding: 1.2rem 0}
.gradio-gallery .caption-label, .grid-wrap .caption-label {inset: auto 0 0 0 !important; max-width: 100% !important;
  margin: 0 !important; border-radius: 0 !important; padding: .2rem .35rem 0 !important; font-size: .7rem !important;
  line-height: 1.2 !important; white-space: normal !important; text-align: left !important; overflow: hidden;
  display: -webkit-box !important; -webkit-box-orient: vertical; -webkit-line-clamp: 2; height: 2.75em}
.grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important}
"""


def look() -> dict:
    """Returns the arguments of the page's `launch` that make it look as it should, with fonts of the system."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"css": CSS, "theme": gr.themes.Soft(primary_hue="indigo", **fonts)}


class Shop:
    """
    A recommender whose items have titles and pictures.

    Args:
        recommender: with its catalogue.
        images: a Parquet file with columns `item_id` and `image`, JPEG files; items without one get a tile with their
            title.
    """

    def __init__(self, recommender: Recommender, images: str | os.PathLike | None = None):
        check_shown(recommender)
        self.recommender = recommender
        self.item_ids = recommender.item_ids
        self._titles = dict(zip(self.item_ids, _titles(recommender), strict=True))
        self._search_in = {item_id: f"{title} {item_id}".lower() for item_id, title in self._titles.items()}
        self._row_of: dict[str, int] = {}
        if images is not None:
            table = pq.read_table(images, memory_map=True)
            self._row_of = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
            self._images = table["image"]
        self._number_of = {item_id: number for number, item_id in enumerate(self.item_ids)}
        self._folder = tempfile.TemporaryDirectory(prefix="transrec-page-")

    def title(self, item_id: str) -> str:
        """Returns the first words of an item's text, or its id where there is none."""
        return textwrap.shorten(self._titles[item_id] or item_id, 90, placeholder=" …") or item_id[:90]

    def picture(self, item_id: str) -> Path:
        """Returns the file of an item's picture."""
        path = Path(self._folder.name, f"{self._number_of[item_id]}.jpg")
        if not path.exists():
            row = self._row_of.get(item_id)
            found = None if row is None else self._images[row].as_py()
            unfinished = path.with_suffix(f".{threading.get_ident()}")
            unfinished.write_bytes(found or tile(self.title(item_id)))
            unfinished.replace(path)
        return path

    def find(self, query: str) -> list[str]:
        """Returns ids of the first items whose title or id has every word of a query."""
        words = (query or "").lower()[:200].split()
        found = (item_id for item_id in self.item_ids if all(word in self._search_in[item_id] for word in words))
        return [item_id for item_id, _ in zip(found, range(SHOWN), strict=False)]

    def gallery(self, item_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Returns pictures and titles."""
        return [(str(self.picture(item_id)), self.title(item_id)) for item_id in item_ids]

    def recommendations(self, history: Sequence[str]) -> str:
        """Returns the best items after a history, each with its reason, as HTML."""
        if not history:
            return '<p class="hint">Choose some items above: what you may like comes here, and why.</p>'
        found: list = self.recommender.recommend(history, K, explain=True)
        return f'<div class="cards">{"".join(map(self._card, found))}</div>'

    def _card(self, item: dict) -> str:
        words = f'<span class="title">{html.escape(self.title(item["item_id"]))}</span>'
        parts = [(name, item[name]) for name in ("model", "transitions", "popularity", "reranking") if item.get(name)]
        score = " + ".join(f"{name} {value:.2f}" for name, value in parts) if len(parts) > 1 else ""
        words += f"<small>score {item['score']:.2f}{f' = {score}' if score else ''}</small>"
        if item["because_of"] is None:
            why = "<small>because many take it</small>"
        else:
            reason = html.escape(self.title(item["because_of"]))
            why = f'<img src="{self._inline(item["because_of"])}" alt=""><small>because of {reason}</small>'
        image = f'<img src="{self._inline(item["item_id"])}" alt="">'
        return f'<div class="card">{image}<div class="words">{words}<div class="why">{why}</div></div></div>'

    def _inline(self, item_id: str) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(self.picture(item_id).read_bytes()).decode()


def _titles(recommender: Recommender) -> list[str]:
    items = recommender.indexed().items
    names = [f"text_{recommender.processor.language}", "text_en", "text_zh"]
    name = next((name for name in names if name in items.column_names), None)
    return [""] * len(items) if name is None else [text or "" for text in items[name]]


def tile(title: str) -> bytes:
    """Returns a picture of a title, as a JPEG file; its colour is a function of the title."""
    hue = zlib.crc32(title.encode()) % 360 / 360
    colour = tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.42, 0.35))
    image = Image.new("RGB", (SIDE, SIDE * 3 // 4), colour)
    lines = textwrap.wrap(title, 16)[:4]
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(19)
    for number, line in enumerate(lines):
        height = SIDE * 3 / 8 + 26 * (number - (len(lines) - 1) / 2)
        draw.text((SIDE / 2, height), line, fill="white", font=font, anchor="mm")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def read_table(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads a CSV or TSV file of two columns, ids and texts, in UTF-8.

    Raises:
        ValueError: if it is too large, has other columns, or an id is empty or there twice; it says which.
    """
    if os.path.getsize(path) > MOST_BYTES:
        raise ValueError(f"the file must have at most {MOST_BYTES:,} bytes")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file is not in UTF-8 (byte {error.start}); save it as such") from error
    header = text.partition("\n")[0]
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t" if "\t" in header else ",") if row]
    except csv.Error as error:
        raise ValueError(f"the file is no table of CSV ({error}); is a quotation mark not closed?") from error
    if rows and [name.strip().lower() for name in rows[0]] in (["id", "text"], ["item_id", "text"], ["id", "title"]):
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(f"item {number} has {len(row)} columns; there must be two, id and text")
    items = [{"item_id": item_id.strip(), "text": text.strip()[:MOST_LETTERS]} for item_id, text in rows]
    if not 2 <= len(items) <= MOST_ITEMS:
        raise ValueError(f"there must be 2 to {MOST_ITEMS:,} items, and there are {len(items):,}")
    seen: set[str] = set()
    for number, item in enumerate(items, start=1):
        if not item["item_id"] or item["item_id"] in seen:
            raise ValueError(f"the id of item {number}, {item['item_id'][:50]!r}, is empty or there twice")
        seen.add(item["item_id"])
    return items


class ZeroShot:
    """Makes recommenders of uploaded tables, by a copy of the model: a catalogue may change what a model keeps of it.

    Args:
        recommender: of a model that reads texts.
    """

    def __init__(self, recommender: Recommender):
        self._recommender, self._lock = recommender, threading.Lock()
        self._copy: Recommender | None = None

    def shop(self, path: str | os.PathLike) -> Shop:
        """Returns a shop of the items in a file, see [`read_table`]."""
        items = read_table(path)
        with self._lock:  # one at a time
            if self._copy is None:
                model, processor = copy.deepcopy((self._recommender.model, self._recommender.processor))
                self._copy = Recommender(model, processor)
            recommender = Recommender(self._copy.model, self._copy.processor)
            columns: dict[str, list] = {name: [None] * len(items) for name in recommender.processor.item_columns}
            columns |= {"item_id": [item["item_id"] for item in items]}
            columns[f"text_{recommender.processor.language}"] = [item["text"] for item in items]
            recommender.index(columns)
            self._copy.processor = recommender.processor  # without ids that are foreign here
        return Shop(recommender)


def create_page(
    recommender: Recommender, images: str | os.PathLike | None = None, title: str = "Recommendations"
) -> gr.Blocks:
    """Makes the page.

    Args:
        recommender: with its catalogue; of content, for tables that are uploaded.
        images: as of [`Shop`].
        title: of the page.

    Example:

    ```python
    create_page(Recommender.from_pretrained("me/my-shop"), title="My shop").launch(**look())
    ```
    """
    shop = Shop(recommender, images)
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {_plain(title)}\nChoose items, and see what is recommended after them, and why.")
        with gr.Tab("The catalogue"):
            page.load(*_chooser(gr.State(lambda: shop)), show_progress="hidden")
        if "text" in recommender.processor.modalities and not recommender.reads_features:
            zero_shot = ZeroShot(recommender)
            with gr.Tab("Your own catalogue"):
                gr.Markdown(
                    "The model reads what items say, so that it knows yours, too, without training. Upload a CSV file "
                    f"of two columns, id and text: 2 to {MOST_ITEMS:,} items. It is kept while this page is open."
                )
                upload = gr.UploadButton("Upload a CSV file", file_types=[".csv", ".tsv", ".txt"], type="filepath")
                problem = gr.Markdown(visible=False, elem_id="problem")
                own = gr.State(None, time_to_live=3600)
                with gr.Column(visible=False) as body:
                    refresh = _chooser(own)

                def read(path):
                    try:
                        found = zero_shot.shop(path)
                    except ValueError as error:
                        return None, gr.Markdown(f"**{_plain(str(error))}**", visible=True), gr.Column(visible=False)
                    return found, gr.Markdown(visible=False), gr.Column(visible=True)

                upload.upload(read, upload, [own, problem, body], show_progress="full").then(*refresh)
    return page


def _plain(text: str) -> str:
    """Returns text that means nothing in Markdown or HTML."""
    return html.escape("".join(f"\\{letter}" if letter in "\\`*_[]#|$" else letter for letter in text))


def _chooser(shop: gr.State) -> tuple:
    """Adds items to choose and recommendations to a page; returns a listener that begins anew."""
    history = gr.State([])
    with gr.Row():
        with gr.Column(scale=3):
            query = gr.Textbox(
                show_label=False, container=False, placeholder="Search: words of a title, or an id", max_length=200
            )
            gr.Markdown("**Items** · click on one to choose it")
            found = gr.Gallery(columns=5, **_GALLERY)
        with gr.Column(scale=2):
            gr.Markdown("**Chosen**, oldest first · click on one to take it out")
            chosen = gr.Gallery(columns=3, **_GALLERY)
            with gr.Row():
                example = gr.Button("An example")
                clear = gr.Button("Begin anew")
    gr.Markdown("### Recommended")
    best = gr.HTML()
    shown = gr.State([])

    def search(shop: Shop | None, query: str):
        item_ids = [] if shop is None else shop.find(query)
        return item_ids, gr.Gallery([] if shop is None else shop.gallery(item_ids), selected_index=None)

    def use(shop: Shop | None, history: list[str]):
        if shop is None:
            return [], gr.Gallery([]), ""
        return history, gr.Gallery(shop.gallery(history), selected_index=None), shop.recommendations(history)

    def add(shop: Shop, history: list[str], shown: list[str], event: gr.SelectData):
        return use(shop, [*history, shown[event.index]][-MOST_HISTORY:])

    def remove(shop: Shop, history: list[str], event: gr.SelectData):
        return use(shop, [item_id for number, item_id in enumerate(history) if number != event.index])

    def some(shop: Shop):
        first = random.choice(shop.item_ids)
        similar: list = shop.recommender.similar_items(first, k=2)
        return use(shop, [first, *(item["item_id"] for item in similar)])

    def anew(shop: Shop | None):
        return *search(shop, ""), *use(shop, []), ""

    results, everything = [history, chosen, best], [shown, found, history, chosen, best, query]
    quiet = {"show_progress": "hidden"}
    query.input(search, [shop, query], [shown, found], trigger_mode="always_last", **quiet)
    found.select(add, [shop, history, shown], results, **quiet)
    chosen.select(remove, [shop, history], results, **quiet)
    example.click(some, shop, results, **quiet)
    clear.click(anew, shop, everything, **quiet)
    return anew, shop, everything
