"""The paper's Table 1, computed from the files that are there, next to the paper's figures.

    python -m modeling_transrec.ninerec.describe --data_dir FOLDER
    python -m modeling_transrec.ninerec.describe Bili_Food KU --data_dir FOLDER --json
    python -m modeling_transrec.ninerec.describe ML100K --data_dir FOLDER --leakage

Users and items are those with an interaction; an interaction counts if its item is in the items table. The length of
Chinese texts is in characters, as the paper does not say how it finds their words. `top 1 %` is the share of the
interactions with the most popular 1 % of the items. `≠` marks what differs from the paper. `--leakage` adds what
leave-one-out and a random split let a model see of the time after its targets.
"""

import argparse
import contextlib
import json
import math
import os
import statistics as stats
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from ..files import DERIVED, data_folder, find_files, find_names
from ..leakage import leakage
from ..sequences import Sequences, filter_interactions
from ..tables.archives import UNREADABLE, Member
from ..tables.media import IMAGE, find_media
from ..tables.options import TableOptions
from ..tables.problems import without_warnings
from .check_media import READ_FORMATS
from .options import add_table_options, table_options


FIGURES = ("users", "items", "interactions", "sparsity", "resolution", "text_zh_length", "text_en_length")
_TABLE_1 = """
Bili_500K    500000  138033  7845805   99.99 1920x1080 21.91 19.28
Bili_2M      2000000 144146  24497157  99.99 1920x1080 21.90 19.27
Bili_Food    6549    1579    39740     99.62 1920x1080 24.91 22.15
Bili_Dance   10715   2307    83392     99.66 1920x1080 19.62 18.00
Bili_Movie   16525   3509    115576    99.80 1920x1080 24.93 21.99
Bili_Cartoon 30300   4724    215443    99.85 1920x1080 19.26 16.20
Bili_Music   50664   6038    360177    99.88 1920x1080 21.60 19.70
KU           2034    5370    18519     99.83 360x640   25.00 19.13
QB           17722   6121    133664    99.88 496x280   25.26 20.74
TN           20211   3334    122576    99.82 496x280   26.76 22.12
DY           20398   8299    139834    99.92 300x400   34.46 26.92
"""
PAPER: dict[str, dict[str, float | str]] = {
    name: dict(zip(FIGURES, (int(u), int(i), int(a), float(s), r, float(zh), float(en)), strict=True))
    for name, u, i, a, s, r, zh, en in map(str.split, _TABLE_1.strip().splitlines())
}
# Table 15, which rounds to hundreds and to tenths of a million.
PAPER["Bili_warm20"] = {"users": 359_900, "items": 59_900, "interactions": 5_900_000}
PAPER["Bili_warm50"] = {"users": 169_700, "items": 22_400, "interactions": 1_700_000}
ROUNDING = {"Bili_warm20": {"users": 100, "items": 100, "interactions": 100_000}}
ROUNDING["Bili_warm50"] = ROUNDING["Bili_warm20"]


def statistics(
    name: str,
    data_dir: str | Path | None = None,
    min_actions: int | None = None,
    with_leakage: bool = False,
    **options,
) -> dict:
    """Returns what is known of a data set: numbers, strings, and `None` where there is nothing to count.

    Args:
        name: of the data set.
        data_dir: the folder, as for `load_dataset`.
        min_actions: fewest interactions of a user that counts.
        with_leakage: whether to add `leakage`, see [`~leakage.leakage`], of users with at least `min_actions`
            interactions, by default those of `load_dataset`; `None` where there are no timestamps.
        options: those of [`TableOptions`], as for `load_dataset`.

    Returns:
        `name`; the paper's `users`, `items`, `interactions`, `sparsity` (per cent), `text_zh_length` (mean number of
        characters of the items that have a text, spaces aside), `text_en_length` (of words), `resolution` (the most
        frequent); `items_in_table`, `covers`, `unreadable_covers`, `resolution_share` (of the covers that have it);
        `interactions_per_user` (`min`, `median`, `mean`, `max`), `timestamps` (`first`, `last`, or `None`),
        `share_of_top` (of the interactions: those with the most popular `1%` and `20%` of the items); `paper`, its
        figures, or `None`; `differs`, the names of figures that are not the paper's.
    """
    source, own = DERIVED.get(name, (name, {}))
    filters = {"min_actions": 1, **own}
    if min_actions is not None:
        filters["min_actions"] = min_actions
    files = find_files(source, data_folder(source, data_dir))
    with tempfile.TemporaryDirectory() as scratch:
        table, sequences = files.read(Path(scratch), TableOptions(**options), **filters)
    items = table.filter(sequences.item_counts() > 0)
    found = {
        "name": name,
        **_counts(sequences),
        "text_zh_length": _mean_length(items["text_zh"].str.count_matches(r"\S")),
        "text_en_length": _mean_length(items["text_en"].str.count_matches(r"\S+")),
        **_image_sizes(find_media(IMAGE, files.images, items["item_id"])),
        "items_in_table": table.height,
        "paper": PAPER.get(name),
    }
    if with_leakage:
        trained_on = filter_interactions(sequences, min_actions or own.get("min_actions", 5))
        found["leakage"] = None if sequences.timestamps is None else leakage(trained_on)
    found["differs"] = [figure for figure in found["paper"] or () if not _agrees(name, figure, found[figure])]
    return found


def _counts(sequences: Sequences) -> dict:
    """Returns what only the interactions tell."""
    counts, lengths, times = np.sort(sequences.item_counts())[::-1], sequences.lengths, sequences.timestamps
    num_items, total = int((counts > 0).sum()), len(sequences.items)
    spread = {"min": lengths.min(), "median": np.median(lengths), "mean": lengths.mean(), "max": lengths.max()}
    return {
        "users": len(sequences),
        "items": num_items,
        "interactions": total,
        "sparsity": 100 * (1 - total / (len(sequences) * num_items)),
        "interactions_per_user": {name: value.item() for name, value in spread.items()},
        "timestamps": None if times is None else {"first": int(times.min()), "last": int(times.max())},
        "share_of_top": {
            f"{percent}%": float(counts[: math.ceil(num_items * percent / 100)].sum() / total) for percent in (1, 20)
        },
    }


def _mean_length(lengths: pl.Series) -> float | None:
    return lengths.filter(lengths > 0).to_frame().select(pl.all().mean()).item()


def _image_sizes(covers: list[str | Member | None]) -> dict:
    """Returns number and sizes of covers; only the head of each file is read."""
    sizes: Counter[tuple[int, int]] = Counter()
    num_unreadable = 0
    with contextlib.ExitStack() as stack:
        archives = {cover.archive for cover in covers if isinstance(cover, Member)}
        opened = {archive: stack.enter_context(zipfile.ZipFile(archive)) for archive in archives}
        for cover in (one for one in covers if one):
            try:
                with (
                    opened[cover.archive].open(cover.name) if isinstance(cover, Member) else open(cover, "rb") as file,
                    Image.open(file, formats=READ_FORMATS) as image,
                ):
                    sizes[image.size] += 1
            except (*UNREADABLE, SyntaxError, ValueError, Image.DecompressionBombError):
                num_unreadable += 1
    size, count = sizes.most_common(1)[0] if sizes else (None, 0)
    return {
        "covers": sizes.total(),
        "unreadable_covers": num_unreadable,
        "resolution": f"{size[0]}x{size[1]}" if size else None,
        "resolution_share": count / sizes.total() if sizes else None,
        "median_resolution": _median_size(sizes),
    }


def _median_size(sizes: Counter) -> str | None:
    if not sizes:
        return None
    width, height = (stats.median_high([size[side] for size in sizes.elements()]) for side in (0, 1))
    return f"{width}x{height}"


def _agrees(name: str, figure: str, value: float | str | None) -> bool:
    """Returns whether a value is the paper's, as far as the paper rounds it."""
    paper = PAPER[name][figure]
    if value is None or isinstance(value, str) or isinstance(paper, str):
        return value == paper
    rounding = ROUNDING.get(name, {}).get(figure, 1 if isinstance(paper, int) else 0.01)
    return abs(value - paper) <= rounding / 2 + 1e-9


# Output

COLUMNS = {  # header: figure of the paper, or None; text of a value
    "users": ("users", "{:,}"),
    "items": ("items", "{:,}"),
    "interactions": ("interactions", "{:,}"),
    "sparsity": ("sparsity", "{:.2f} %"),
    "zh characters": ("text_zh_length", "{:.2f}"),
    "en words": ("text_en_length", "{:.2f}"),
    "resolution": ("resolution", "{}"),
}


def as_table(found: list[dict]) -> str:
    """Returns one line a data set, and one below with the paper's figures."""
    header = ["data set", *COLUMNS, "covers", "per user: min", "median", "mean", "max", "top 1 %", "top 20 %"]
    rows = [header]
    for one in found:
        lengths, top = one["interactions_per_user"], one["share_of_top"]
        cells = [
            _shown(one[figure], form) + (" ≠" if figure in one["differs"] else "") for figure, form in COLUMNS.values()
        ]
        rows.append(
            [one["name"], *cells, f"{one['covers']:,}", f"{lengths['min']:,}", f"{lengths['median']:g}"]
            + [f"{lengths['mean']:.2f}", f"{lengths['max']:,}", *(f"{100 * share:.1f} %" for share in top.values())]
        )
        if one["paper"]:
            cells = [_shown(one["paper"].get(figure), form) for figure, form in COLUMNS.values()]
            rows.append(["  paper", *cells, *[""] * (len(header) - len(cells) - 1)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    notes = [note for one in found for note in [*_notes(one), *_leaks(one)]]
    return "\n".join([line.rstrip() for line in lines] + ([""] if notes else []) + notes)


def _shown(value: float | str | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _leaks(one: dict) -> list[str]:
    """Returns what splits let a model see of the future, a line a split, where that was asked for."""
    if "leakage" not in one:
        return []
    if one["leakage"] is None:
        return [f"{one['name']}: leakage is not known, as the interactions have no timestamps"]
    lines = []
    for split, row in one["leakage"].items():
        of = {name: f"{100 * share:.1f} %" for name, share in row.items()}
        lines.append(
            f"{one['name']}, {split.replace('_', '-')}: {of['before_training']} of {row['targets']:,} targets are "
            f"earlier than training interactions of other users, on average than {of['later_training']} of these; "
            f"{of['before_history']} are earlier than the last item of their own history, and {of['with_history']} "
            "have its time"
        )
    return lines


def _notes(one: dict) -> list[str]:
    name, notes = one["name"], []
    if one["items_in_table"] > one["items"]:
        notes.append(f"{name}: items of the table without an interaction: {one['items_in_table'] - one['items']:,}")
    if one["covers"] and one["covers"] < one["items"]:
        notes.append(f"{name}: items without a readable cover: {one['items'] - one['covers']:,}")
    if one["covers"] and one["resolution_share"] < 1:
        notes.append(
            f"{name}: {100 * one['resolution_share']:.0f} % of the covers are of {one['resolution']}; "
            f"median width x height {one['median_resolution']}"
        )
    for figure in one["differs"]:
        ours, paper = one[figure], one["paper"][figure]
        if isinstance(ours, int | float) and isinstance(paper, int | float):
            notes.append(
                f"{name}: {figure} is {ours:,.6g}, {100 * (ours / paper - 1):+.2f} % from the paper's {paper:,}"
            )
        else:
            notes.append(f"{name}: {figure} is {ours}, in the paper {paper}")
    return notes


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets; default: all in the folder")
    add_table_options(parser)
    parser.add_argument(
        "--leakage", action="store_true", help="say what splits let a model see of the time after its targets"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, for machines")
    args = parser.parse_args(arguments)
    folder = data_folder(None, args.data_dir)
    names = args.names
    if not names:
        if folder is None:
            parser.error("name the folder of the raw files with --data_dir, or set NINEREC_DATA_DIR")
        names = find_names(folder)
        if not names:
            parser.error(f"no data set under {os.path.abspath(folder)!r}: NAME_item.csv and NAME_pair.csv are needed")
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # where it is a TextIOWrapper
    try:
        with without_warnings():  # `validate` is for what is left out
            options = vars(table_options(parser, args))
            found = [statistics(name, args.data_dir, args.min_actions, args.leakage, **options) for name in names]
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else as_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
