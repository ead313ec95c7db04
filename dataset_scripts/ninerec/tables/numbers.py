"""Numbers of interactions: times, which are whole numbers or dates, and ratings."""

import polars as pl


DATE_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M%#z", "%Y-%m-%d")
TIMES = "a whole number such as 1620390600, or a date such as 2021-05-07 12:30:00 or 2021-05-07T12:30:00+08:00"


def _whole_numbers(values: pl.Series) -> pl.Series:
    """Returns whole numbers, also with zeros behind the point; null where there is none."""
    return values.str.strip_chars().str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)


def to_microseconds(dates: pl.Series) -> pl.Series:
    """Dates and times of ISO 8601 to microseconds since 1970; null where there is none.

    Without a zone they are taken as UTC.

    >>> to_microseconds(pl.Series(["2021-05-07 12:30:00.25", "2021-05-07T20:30+08:00", "7 May"])).to_list()
    [1620390600250000, 1620390600000000, None]
    """
    text = dates.str.strip_chars().str.replace(r" ?(Z|UTC)$", "+00:00").str.replace("T", " ", literal=True)
    found = pl.Series([None] * len(text), dtype=pl.Int64)
    for date_format in DATE_FORMATS:  # nearly always all are of one
        parsed = text.str.to_datetime(date_format, strict=False, time_unit="us").dt.epoch("us")
        found = parsed.zip_with(found.is_null(), found)
        if found.null_count() == 0:
            break
    return found


def to_numbers(role: str, values: pl.Series, has_dates: bool) -> pl.Series:
    """Strings to numbers; null where there is none.

    Times are as they are sorted: microseconds of dates, or the whole numbers of the file.
    """
    if role == "rating":
        return values.cast(pl.Float64, strict=False).fill_nan(None)
    return to_microseconds(values) if has_dates else _whole_numbers(values)


def wrong_number(role: str, value: object, has_dates: bool) -> str:
    """Returns what to say of a rating that is no number, or a time that is of neither form or not of the first's."""
    if role == "rating":
        return f"rating {value!r} is no number"
    form = "date, unlike that of the first row" if has_dates else "whole number"
    return f"timestamp {value!r} is no {form}; write all times in one form: {TIMES}"
