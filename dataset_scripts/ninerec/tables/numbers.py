"""Numbers of interactions: times, in one of several forms, and ratings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl

from .problems import shown


TIMES = "a whole number such as 1620390600, or a date such as 2021-05-07 12:30:00 or 2021-05-07T12:30:00+08:00"
MICROSECONDS = 10**6
LARGEST_RATING = 10  # of numbers that are hardly times
SAMPLE_ROWS = 1000  # of a file, that tell the form of its times
_OF_DAY = ("%H:%M:%S%.f", "%H:%M:%S%.f%#z", "%H:%M", "%H:%M%#z", "", "%I:%M:%S %p", "%I:%M %p")
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class TimeForm:
    """How times are written.

    Args:
        name: for messages.
        ticks: into how many parts a unit of the result is divided when sorting.
        date: what is a date, as a regular expression, and how it is written by ISO 8601; the time of day may follow.
        formats: those of `strftime` that times have, where they do not begin with such a date.
    """

    name: str
    ticks: int = 1
    date: tuple[str, str] | None = None
    formats: tuple[str, ...] = ()

    @property
    def is_date(self) -> bool:
        """Returns whether these are dates, not numbers."""
        return bool(self.date or self.formats)

    def parse(self, values: pl.Series) -> pl.Series:
        """Returns strings as whole numbers of ticks; null where a string is of another form.

        Dates without a zone are taken as UTC.

        >>> DATE.parse(pl.Series(["2021-05-07 12:30:00.25", "2021-05-07T20:30+08:00", "7 May"])).to_list()
        [1620390600250000, 1620390600000000, None]
        """
        if not self.is_date and self.ticks == 1 and not (numbers := values.cast(pl.Int64, strict=False)).null_count():
            return numbers  # as nearly always
        text = values.str.strip_chars()
        if not self.is_date:
            return _whole_numbers(text) if self.ticks == 1 else _decimal_numbers(text, self.ticks)
        formats, text = self.formats, text.str.replace(r" GMT$", " +0000")
        if self.date is not None:
            there = text.str.contains(self.date[0])
            text = text.str.replace(*self.date).str.replace(r" ?(Z|UTC)$", "+00:00").str.replace(r"^(.{6,10})T", "$1 ")
            text = pl.select(pl.when(there).then(text)).to_series()
            formats = tuple(f"%Y-%m-%d {of_day}".strip() for of_day in _OF_DAY)
        found = pl.Series([None] * len(text), dtype=pl.Int64)
        for one in formats:  # nearly always all are of one
            parsed = text.str.to_datetime(one, strict=False, time_unit="us").dt.epoch("us")
            found = parsed.zip_with(found.is_null(), found)
            if found.null_count() == 0:
                break
        return found

    def to_units(self, ticks):
        """Returns times as they stand in the data set: seconds of dates, or the whole numbers of the file."""
        return ticks // self.ticks

    def wrong(self, value: object) -> str:
        """Returns what to say of a time of another form."""
        found = shown(value) if isinstance(value, str) else repr(value)
        what = f"timestamp {found} is no {self.name}{', unlike that of the first row' if self.is_date else ''}"
        return f"{what}; write all times in one form: {TIMES}"


WHOLE = TimeForm("whole number")
DATE = TimeForm("date", MICROSECONDS, (r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", "$1-$2-$3"))
MONTH_FIRST = TimeForm("date month/day/year", MICROSECONDS, (r"^(\d{1,2})[-/](\d{1,2})[-/](\d{4})", "$3-$1-$2"))
DAY_FIRST = TimeForm("date day/month/year", MICROSECONDS, (r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})", "$3-$2-$1"))
IN_WORDS = TimeForm(
    "date in words",
    MICROSECONDS,
    formats=(
        "%a %b %d %H:%M:%S %z %Y",
        "%a, %d %b %Y %H:%M:%S %z",
        "%B %d, %Y",
        "%b %d, %Y",
        "%B %d, %Y %H:%M:%S",
        "%b %d, %Y %H:%M:%S",
        "%d %B %Y",
        "%d %b %Y",
        "%d %B %Y %H:%M:%S",
        "%d %b %Y %H:%M:%S",
        "%d-%b-%Y",
        "%d-%b-%Y %H:%M:%S",
        "%d/%b/%Y:%H:%M:%S %z",
    ),
)
DATES = (DATE, MONTH_FIRST, DAY_FIRST, IN_WORDS)


def form_of_format(time_format: str) -> TimeForm:
    """Returns the form of times that are written by a format of `strftime`."""
    return TimeForm(f"date by the format {time_format!r}", MICROSECONDS, formats=(time_format,))


def decimal_form(path: Path, values: pl.Series) -> TimeForm:
    """Returns the form of numbers that have, or may have, a fraction; finer parts than microseconds are left out.

    Raises:
        ValueError: if they have fractions and are as small as ratings.
    """
    largest = float(cast(float, values.abs().max() or 0))
    if 0 < largest <= LARGEST_RATING and (values % 1 > 0).any():
        raise ValueError(
            f"{path}: the times are numbers such as {values.drop_nulls()[0]:g}, none above {LARGEST_RATING}: they are "
            'ratings; say what the time is called, columns={"timestamp": "…"}, or that there is none: '
            'columns={"timestamp": None}, of a file without header pair_columns=("user_id", "item_id", "rating")'
        )
    fitting = (ticks for ticks in (MICROSECONDS, 1000) if largest * ticks < 2**52)
    return TimeForm("number", next(fitting, 10))


def form_of_times(path: Path, values: Iterable[pl.Series]) -> TimeForm:
    """Returns the form that all times have, or the first one has.

    Args:
        path: of the file, for messages.
        values: the times of a file as strings, some at a time; more than the first are only read where these leave it
            open whether the month or the day comes first.

    Raises:
        ValueError: if all that is in the file leaves that open.
    """
    chunks = (chunk.drop_nulls() for chunk in values)
    first = next((chunk for chunk in chunks if len(chunk)), pl.Series([], dtype=pl.String))
    numbers = first.str.strip_chars().cast(pl.Float64, strict=False)
    if len(first) == 0 or numbers[0] is not None:
        return decimal_form(path, numbers) if first.str.contains(r"^\s*[+-]?\d+\.\d*\s*$").any() else WHOLE
    fitting = [form for form in DATES if not form.parse(first).null_count()]
    fitting = fitting or [form for form in DATES if not form.parse(first.head(1)).null_count()]
    for chunk in chunks:
        if len(fitting) < 2:
            break
        fitting = [form for form in fitting if not form.parse(chunk).null_count()] or fitting[:1]
    if len(fitting) > 1:
        raise ValueError(
            f"{path}: times such as {first[0]!r} may be month/day/year or day/month/year, and no day above 12 tells; "
            'say which: time_format="%m/%d/%Y" or time_format="%d/%m/%Y", with what follows, such as " %H:%M" or '
            '" %I:%M:%S %p"'
        )
    return fitting[0] if fitting else WHOLE


def _whole_numbers(values: pl.Series) -> pl.Series:
    """Returns whole numbers, also with zeros behind the point; null where there is none."""
    return values.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)


def _decimal_numbers(values: pl.Series, ticks: int) -> pl.Series:
    """Returns decimal numbers as whole numbers of ticks, without rounding on the way; null where there is none."""
    number = values.str.extract_groups(r"^([+-]?)(\d+)\.?(\d*)$").struct
    digits = len(str(ticks)) - 1
    whole = number.field("2").cast(pl.Int64, strict=False)
    whole = whole.set(whole > _LARGEST // ticks - 1, None)
    part = number.field("3").str.pad_end(digits, "0").str.slice(0, digits).cast(pl.Int64, strict=False)
    sign = number.field("1").replace_strict({"-": -1}, default=1, return_dtype=pl.Int64)
    return sign * (whole * ticks + part)


def to_ratings(values: pl.Series) -> pl.Series:
    """Returns strings as ratings; null where there is none."""
    return values.cast(pl.Float64, strict=False).fill_nan(None)


def wrong_rating(value: object) -> str:
    """Returns what to say of a rating that is no number."""
    return f"rating {value!r} is no number"
