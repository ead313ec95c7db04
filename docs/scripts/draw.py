"""Draws the pictures of README and of the documentation as SVG files, each for a light and for a dark page.

    python docs/scripts/draw.py [FOLDER]

Nothing but the standard library is needed. The numbers of the speed picture come from
`benchmarks/results/speed_cpu.json`.
"""

import json
import math
import sys
from html import escape
from pathlib import Path


ROOT = Path(__file__).parents[2]
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
# Of each colour the fill, the border and the text on it.
THEMES = {
    "light": {
        "ink": "#1f2937",
        "faint": "#64748b",
        "line": "#94a3b8",
        "panel": ("#f8fafc", "#e2e8f0", "#475569"),
        "data": ("#eef2f7", "#94a3b8", "#1f2937"),
        "item": ("#dbeafe", "#3b82f6", "#1e3a8a"),
        "user": ("#ffedd5", "#f97316", "#7c2d12"),
        "score": ("#dcfce7", "#22c55e", "#14532d"),
        "loss": ("#fce7f3", "#ec4899", "#831843"),
    },
    "dark": {
        "ink": "#e5e7eb",
        "faint": "#9ca3af",
        "line": "#6b7280",
        "panel": ("#161b26", "#2d3748", "#cbd5e1"),
        "data": ("#273142", "#64748b", "#e5e7eb"),
        "item": ("#172b52", "#60a5fa", "#dbeafe"),
        "user": ("#46260f", "#fb923c", "#ffedd5"),
        "score": ("#10351f", "#4ade80", "#dcfce7"),
        "loss": ("#471530", "#f472b6", "#fce7f3"),
    },
}


class Drawing:
    """An SVG picture that grows by boxes, arrows and texts; coordinates are pixels from the upper left."""

    def __init__(self, width: int, height: int, theme: str, title: str):
        self.width, self.height, self.title = width, height, title
        self.colours = THEMES[theme]
        self.parts: list[str] = []

    def text(self, x, y, words, size=13, colour="ink", anchor="middle", weight="normal", family=FONT) -> None:
        """Writes one line; `y` is its base line."""
        colour = self.colours.get(colour, colour)
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{family}" font-size="{size:g}" font-weight="{weight}" '
            f'text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
        )

    def box(self, x, y, width, height, title, *lines, kind="data", size=14) -> None:
        """Draws a rounded box with a title and smaller lines below it, all centred."""
        fill, border, ink = self.colours[kind]
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9" fill="{fill}" '
            f'stroke="{border}" stroke-width="1.4"/>'
        )
        top = y + height / 2 - (len(lines) * 16) / 2 + size * 0.36
        self.text(x + width / 2, top, title, size, ink, weight="600")
        for number, line in enumerate(lines, start=1):
            self.text(x + width / 2, top + 17 * number, line, 12, ink)

    def panel(self, x, y, width, height, title) -> None:
        """Draws a frame behind other boxes, its title in the upper left corner."""
        fill, border, ink = self.colours["panel"]
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="12" fill="{fill}" '
            f'stroke="{border}"/>'
        )
        self.text(x + 14, y + 22, title, 12.5, ink, anchor="start", weight="600")

    def arrow(self, *points, label=None, dx=0, dy=-7) -> None:
        """Draws a line through the points with a head at the last one, and a label at the middle of its first part."""
        path = " L ".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(
            f'<path d="M {path}" fill="none" stroke="{self.colours["line"]}" stroke-width="1.7" '
            'stroke-linejoin="round" marker-end="url(#head)"/>'
        )
        if label:
            (x, y), (x2, y2) = points[:2]
            self.text((x + x2) / 2 + dx, (y + y2) / 2 + dy, label, 12, "faint")

    def bar(self, x, y, width, height, kind) -> None:
        """Draws a filled bar."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{self.colours[kind][1]}"/>'
        )

    def render(self) -> str:
        """Returns the file's text."""
        line = self.colours["line"]
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img"><title>{escape(self.title)}</title><defs><marker id="head" '
            'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M 0 0.6 L 8 4 L 0 7.4 z" fill="{line}"/></marker></defs>'
        )
        return "\n".join([head, *self.parts, "</svg>\n"])


def model(theme: str) -> Drawing:
    """Draws the model: content to item embeddings, a history of them to a user embedding, both to scores."""
    d = Drawing(960, 372, theme, "A TransRec model: item encoder, user encoder and scores")
    d.panel(14, 14, 402, 344, "Item encoder: each distinct item once")
    for y, title, line in (
        (50, "text", "“noodles with curry”"),
        (120, "image", "the item's image"),
        (190, "audio", "the item's sound"),
        (260, "id", "row of a table"),
    ):
        d.box(28, y, 134, 54, title, line)
    for y in (50, 120, 190):
        d.arrow((162, y + 27), (182, y + 27))
    d.box(184, 50, 112, 194, "backbone", "any AutoModel,", "timm's, CLIP,", "frozen or not", kind="item")
    d.arrow((162, 287), (356, 287), (356, 246))
    d.arrow((296, 147), (310, 147))
    d.box(312, 50, 90, 194, "projection", "and fusion", "to width D", kind="item", size=13)
    d.text(213, 340, "knows items by content: it transfers", 12.5, "faint")

    d.box(430, 106, 142, 82, "item embeddings", "(U, D)", kind="item", size=13)
    d.arrow((402, 147), (428, 147))

    d.panel(604, 14, 342, 168, "User encoder: SASRec, LiGR, GRU4Rec, …")
    for number in range(4):
        d.box(622 + 48 * number, 56, 40, 40, "?" if number == 3 else f"{number + 1}", kind="item")
    d.text(708, 118, "history, gathered (B, L, D)", 12, "faint")
    d.arrow((501, 106), (501, 76), (620, 76))
    d.text(552, 68, "gather", 12, "faint")
    d.arrow((806, 76), (830, 76))
    d.box(832, 48, 98, 56, "states", "(B, L, D)", kind="user")
    d.arrow((881, 104), (881, 126))
    d.box(800, 128, 130, 42, "user embedding", kind="user", size=13)

    d.panel(604, 198, 342, 160, "Scores")
    d.box(622, 236, 146, 62, "catalogue", "encoded once (V, D)", kind="item")
    d.arrow((501, 188), (501, 267), (620, 267))
    d.text(552, 259, "keep", 12, "faint")
    d.arrow((768, 267), (806, 267))
    d.box(808, 236, 122, 62, "dot product", "or cosine (B, V)", kind="score")
    d.arrow((869, 170), (869, 234))
    d.text(775, 340, "training: loss · use: ranks, recommendations", 12.5, "faint")
    return d


def data_flow(theme: str) -> Drawing:
    """Draws the way of the data from raw files to a batch."""
    d = Drawing(960, 318, theme, "From raw files to a batch")
    d.box(14, 40, 184, 66, "raw files", "interactions, items, covers", kind="data")
    d.box(232, 40, 164, 66, "builder", "load_dataset(“ninerec”)", kind="data")
    d.arrow((198, 73), (230, 73))
    d.box(440, 14, 214, 56, "items table", "item_id, texts, image", kind="item")
    d.box(440, 88, 214, 56, "histories", "train, validation, test", kind="user")
    d.arrow((396, 62), (438, 42))
    d.arrow((396, 84), (438, 116))
    d.text(314, 128, "Arrow files, memory-mapped", 12, "faint")
    d.box(724, 14, 222, 56, "processor", "tokens, pixels: once per item", kind="item")
    d.arrow((654, 42), (722, 42))

    d.panel(232, 184, 714, 120, "Collator: a batch of B users")
    d.box(254, 218, 206, 68, "distinct items", "history, targets, negatives: U", kind="item")
    d.box(492, 218, 206, 68, "item tensors", "padded to the longest text", kind="item")
    d.box(730, 218, 198, 68, "index tensors", "item_index, labels (B, L)", kind="user")
    d.arrow((547, 144), (547, 164), (450, 164), (450, 216))
    d.arrow((460, 252), (490, 252))
    d.arrow((835, 70), (835, 164), (595, 164), (595, 216))
    d.arrow((357, 286), (357, 296), (829, 296), (829, 288))
    d.text(114, 240, "Each distinct item is", 12.5, "faint")
    d.text(114, 258, "there once; histories", 12.5, "faint")
    d.text(114, 276, "are indices into them.", 12.5, "faint")
    return d


def training_step(theme: str) -> Drawing:
    """Draws one training step."""
    d = Drawing(960, 262, theme, "One training step")
    d.box(14, 30, 150, 74, "item tensors", "of U distinct items", "(padding: none)")
    d.box(202, 30, 150, 74, "item encoder", "backbone, projection", kind="item")
    d.box(390, 30, 162, 74, "item embeddings", "(U, D)", kind="item")
    d.box(610, 30, 142, 74, "user encoder", "on items only", kind="user")
    d.box(790, 30, 156, 74, "states", "(B, L, D)", kind="user")
    d.arrow((164, 67), (200, 67))
    d.arrow((352, 67), (388, 67))
    d.arrow((552, 67), (608, 67), label="gather")
    d.arrow((752, 67), (788, 67))
    d.box(14, 168, 150, 74, "index tensors", "item_index, labels", "negative_index")
    d.arrow((164, 205), (580, 205), (580, 74))
    d.box(610, 168, 142, 74, "candidates", "batch, sampled, all", kind="loss")
    d.arrow((471, 104), (471, 146), (681, 146), (681, 166))
    d.box(790, 168, 156, 74, "loss", "at the M targets only", kind="loss")
    d.arrow((752, 205), (788, 205))
    d.arrow((868, 104), (868, 166), label="at targets (M, D)", dx=-54, dy=4)
    d.arrow((790, 232), (770, 232), (770, 254), (277, 254), (277, 106))
    d.text(424, 246, "gradients: through gather, to the backbone", 12, "faint")
    return d


def evaluation(theme: str) -> Drawing:
    """Draws the evaluation, and what a service does with the same parts."""
    d = Drawing(960, 258, theme, "Evaluation and recommendation")
    d.box(14, 26, 150, 66, "catalogue", "V items, content")
    d.box(206, 26, 150, 66, "item encoder", "each item once", kind="item")
    d.box(398, 26, 160, 66, "item embeddings", "(V, D), kept", kind="item")
    d.arrow((164, 59), (204, 59))
    d.arrow((356, 59), (396, 59))
    d.box(14, 160, 150, 66, "histories", "without the target")
    d.box(206, 160, 150, 66, "user encoder", "one query a user", kind="user")
    d.box(398, 160, 160, 66, "user embeddings", "(B, D)", kind="user")
    d.arrow((164, 193), (204, 193))
    d.arrow((356, 193), (396, 193))
    d.arrow((478, 92), (478, 126), (281, 126), (281, 158))
    d.box(600, 92, 140, 70, "scores", "(B, V) in blocks", "seen items out", kind="score")
    d.arrow((558, 59), (670, 59), (670, 90))
    d.arrow((558, 193), (670, 193), (670, 164))
    d.box(786, 26, 160, 66, "ranks", "HR@K, NDCG@K, MRR", kind="score")
    d.box(786, 160, 160, 66, "top K", "recommendations", kind="score")
    d.arrow((740, 116), (762, 116), (762, 59), (784, 59))
    d.arrow((740, 138), (762, 138), (762, 193), (784, 193))
    return d


def speed(theme: str) -> Drawing:
    """Draws how long a training step takes beside a naive one, on a logarithmic axis."""
    record = json.loads((ROOT / "benchmarks" / "results" / "speed_cpu.json").read_text(encoding="utf-8"))
    rows = [row for row in record["results"]["training"] if row["data"] == "Amazon_Beauty"]
    rows.sort(key=lambda row: row["naive ÷ ours"])
    d = Drawing(960, 96 + 46 * len(rows), theme, "Seconds of a training step")
    left, right, low, high, ticks = 236, 800, 0.03, 200, (0.1, 1, 10, 100)

    def place(seconds: float) -> float:
        return left + (right - left) * math.log(seconds / low) / math.log(high / low)

    def beside(seconds: float) -> float:
        """Where the number of a bar starts: behind its end, and behind a grid line that would cross it."""
        start = place(seconds) + 7
        return max([start, *(place(tick) + 6 for tick in ticks if start - 4 < place(tick) < start + 26)])

    d.text(14, 24, "Seconds of a training step of 64 users, 2 CPU cores", 14, anchor="start", weight="600")
    d.bar(636, 13, 14, 12, "data")
    d.text(656, 24, "every position encoded", 12.5, "faint", anchor="start")
    d.bar(812, 13, 14, 12, "item")
    d.text(832, 24, "modeling_transrec", 12.5, "faint", anchor="start")
    bottom = 50 + 46 * len(rows)
    for tick in ticks:
        x = place(tick)
        d.parts.append(f'<path d="M {x:g} 42 V {bottom}" stroke="{d.colours["panel"][1]}" stroke-width="1.2"/>')
        d.text(x, bottom + 18, f"{tick:g} s", 12, "faint")
    for number, row in enumerate(rows):
        y = 50 + 46 * number
        naive, ours = row["seconds"]["naive"], row["seconds"]["ours"]
        d.text(left - 12, y + 23, row["backbone"].removesuffix(", 64 px"), 13, anchor="end")
        d.bar(left, y + 2, place(naive) - left, 14, "data")
        d.text(beside(naive), y + 14, f"{naive:.2g}", 12, "faint", anchor="start")
        d.bar(left, y + 19, place(ours) - left, 14, "item")
        d.text(beside(ours), y + 31, f"{ours:.2g}", 12, "faint", anchor="start")
        d.text(946, y + 23, f"{row['naive ÷ ours']:.1f} × as fast", 13, anchor="end", weight="600")
    return d


PICTURES = {
    "model": model,
    "data_flow": data_flow,
    "training_step": training_step,
    "evaluation": evaluation,
    "speed": speed,
}


def main(folder: Path) -> None:
    """Writes every picture for every theme into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        for theme in THEMES:
            (folder / f"{name}_{theme}.svg").write_text(draw(theme).render(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
