"""Ids that differ only in how they are written: accents composed or apart, invisible characters, `12` and `12.0`."""

from collections.abc import Callable

import polars as pl


def canonical(ids: pl.Series) -> pl.Series:
    """Returns ids in one spelling.

    >>> canonical(pl.Series(["12.0", "a\\u200b", "e\\u0301 ", "\\uff11"])).to_list()
    ['12', 'a', 'é', '1']
    """
    return (
        ids.str.normalize("NFKC")
        .str.replace_all(r"[\p{Cf}\p{Cc}]", "")
        .str.strip_chars()
        .str.replace(r"^(\d+)\.0+$", "$1")
    )


_WAYS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "they differ in invisible characters, how accents are composed, or .0 behind a number": canonical,
    "one of them has zeros before the number": lambda ids: canonical(ids).str.replace(r"^0+(\d+)$", "$1"),
    "they differ in capitals": lambda ids: canonical(ids).str.to_lowercase(),
}


def advice_on_unknown(ids: pl.Series, known: pl.Series) -> str:
    """Returns why no id may be known: as one of them would be, were it written otherwise."""
    for why, way in _WAYS.items():
        table = pl.DataFrame({"key": way(known), "known": known}).unique("key", keep="first", maintain_order=True)
        same = pl.DataFrame({"key": way(ids), "id": ids}).join(table, on="key", how="inner", maintain_order="left")
        if same.height:
            _, one, other = same.row(0)
            return f"{one!r} may be {other!r}, but {why}: write the ids of both tables alike"
    return "are these files of the same data set?"
