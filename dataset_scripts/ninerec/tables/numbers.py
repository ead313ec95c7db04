"""Numbers of interactions: times, in one of several forms, and ratings."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from .problems import shown


TIMES = "a whole number such as 1620390600, or a date such as 2021-05-07 12:30:00 or 2021-05-07T12:30:00+08:00"
OTHERWISE = 'for dates written otherwise say how, such as time_format="%d-%b-%y %H:%M" for 30-Dec-98 23:59'
MICROSECONDS = 10**6
YEAR_1000 = -30_610_224_000 * MICROSECONDS  # years before it are not written by four digits
LARGEST_RATING, LARGEST_COUNT = 10, 100  # of numbers that are hardly times
SAMPLE_ROWS = 1000  # of a file, that tell the form of its times
_OF_DAY = ("%H:%M:%S%.f", "%H:%M:%S%.f%#z", "%H:%M", "%H:%M%#z", "", "%I:%M:%S %p", "%I:%M %p")
_LARGEST = 2**63 - 1
_YEARS = frozenset("YyCGcxDFvs+")  # directives that say the year


@dataclass(frozen=True)
class TimeForm:
    """How times are written.

    Args:
        name: for messages.
        ticks: into how many parts a unit of the result is divided when sorting.
        date: what is a date, as a regular expression, and how it is written by ISO 8601; the time of day may follow.
        formats: those that times have, where they do not begin with such a date, as polars reads them.
        width: of times that are numbers by their format, which may have lost zeros at their front; else 0.
        is_given: whether the format is one that the user gave.
    """

    name: str
    ticks: int = 1
    date: tuple[str, str] | None = None
    formats: tuple[str, ...] = ()
    width: int = 0
    is_given: bool = False

    @property
    def is_date(self) -> bool:
        """Returns whether these are dates, not numbers."""
        return bool(self.date or self.formats)

    def parse(self, values: pl.Series) -> pl.Series:
        """Returns strings as whole numbers of ticks; null where a string is of another form.

        Dates without a zone are taken as UTC. A year of two digits is one of `%y`, never of `%Y`.

        >>> DATE.parse(pl.Series(["2021-05-07 12:30:00.25", "2021-05-07T20:30+08:00", "7 May"])).to_list()
        [1620390600250000, 1620390600000000, None]
        """
        if not self.is_date and self.ticks == 1 and not (numbers := values.cast(pl.Int64, strict=False)).null_count():
            return numbers  # as nearly always
        text = values.str.strip_chars()
        if not self.is_date:
            return _whole_numbers(text) if self == WHOLE else _decimal_numbers(text, self.ticks)
        formats, text = self.formats, text.str.replace(r" GMT$", " +0000")
        if self.width:
            text = text.str.replace(r"^(\d+)\.0+$", "$1")
            text = text.str.zfill(self.width).zip_with(text.str.contains(r"^\d+$"), text)
        if self.date is not None:
            there = text.str.contains(self.date[0])
            text = text.str.replace(*self.date).str.replace(r" ?(Z|UTC)$", "+00:00").str.replace(r"^(.{6,10})T", "$1 ")
            text = pl.select(pl.when(there).then(text)).to_series()
            formats = tuple(f"%Y-%m-%d {of_day}".strip() for of_day in _OF_DAY)
        found = pl.Series([None] * len(text), dtype=pl.Int64)
        for one in formats:  # nearly always all are of one
            parsed = text.str.to_datetime(one, strict=False, time_unit="us").dt.epoch("us")
            if self.formats:
                parsed = parsed.set(parsed < YEAR_1000, None)
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
        unlike = ", unlike that of the first row" if self.is_date and not self.is_given else ""
        return f"timestamp {found} is no {self.name}{unlike}; {self.advice}"

    @property
    def wrong_ones(self) -> str:
        """Returns what to say of several times of another form."""
        return f"timestamps that are no {self.name}{'' if self.is_given else ', unlike the first'}; {self.advice}"

    @property
    def advice(self) -> str:
        """Returns how times are written so that they are read."""
        if self.is_given:
            return "correct the time or time_format (%Y is a year of four digits, %y one of two; %d a day, %m a month)"
        return f"write all times in one form: {TIMES}; {OTHERWISE}"


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
        "%d-%b-%y",  # Oracle's
        "%d/%b/%Y:%H:%M:%S %z",
    ),
)
DATES = (DATE, MONTH_FIRST, DAY_FIRST, IN_WORDS)


def form_of_format(time_format: str) -> TimeForm:
    """Returns the form of times that are written by a format of `strftime`.

    Python's `.%f`, a fraction of any number of digits, is `%.f` to polars, whose `%f` are nanoseconds.

    Raises:
        ValueError: if times are not told by such a format: it has no year, the name of a zone, or hours of which half
            of the day is not said.

    >>> form_of_format("%d/%m/%Y %H:%M:%S.%f").parse(pl.Series(["07/05/2021 12:30:00.25"])).to_list()
    [1620390600250000]
    """
    wrong = f"time_format={time_format!r}"
    known = time_format.replace(".%f", "%.f")
    directives = re.findall(r"%([-_0.:#\d]*)([A-Za-z%+])", known)
    names = {name for _, name in directives}
    if "Z" in names:
        raise ValueError(
            f"{wrong}: names of zones (%Z) do not tell the time; write offsets such as +0200, which %z reads"
        )
    if ("", "f") in directives:
        raise ValueError(f"{wrong}: %f must follow a point, as in %S.%f; after anything else write %3f, %6f or %9f")
    if not names & _YEARS:
        raise ValueError(f"{wrong} has no year (%Y, or %y of two digits): times need their date; join it to them")
    if bool(names & set("Il")) != bool(names & set("pP")):
        raise ValueError(f"{wrong}: hours to 12 (%I) go with %p, which says AM or PM, and hours to 24 (%H) without it")
    try:
        pl.Series(["0"]).str.to_datetime(known, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{wrong} is no format of times: {str(error).splitlines()[0]}") from None
    is_number = re.fullmatch("(%[YmdHMSyj])+", known)
    width = sum({"Y": 4, "j": 3}.get(name, 2) for _, name in directives) if is_number else 0
    name = f"date by the format {time_format!r}"
    return TimeForm(name, MICROSECONDS, formats=(known,), width=width, is_given=True)


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
    return TimeForm("number", next(fitting, 10 if largest * 10 < _LARGEST else 1))


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
    fitting = [form for form in DATES if not form.parse(first.head(1)).null_count()]
    for chunk in itertools.chain([first], chunks):
        if len(fitting) < 2:
            break
        others = {form: form.parse(chunk).null_count() for form in fitting}  # a few may be no times at all
        fitting = [form for form in fitting if others[form] == min(others.values())]
    if len(fitting) > 1:
        raise ValueError(
            f"{path}: times such as {first[0]!r} may be month/day/year or day/month/year, and no day above 12 tells; "
            'say which: time_format="%m/%d/%Y" or time_format="%d/%m/%Y", with what follows, such as " %H:%M" or '
            '" %I:%M:%S %p"'
        )
    return fitting[0] if fitting else WHOLE


class UnitsOfTimes:
    """Checks that the times of a file are numbers of one unit: of seconds, milliseconds, … since 1970.

    Each unit reads the years from 1990 to 2100 as numbers that no other unit does. Times of two such ranges, with none
    between them, are in two units.

    >>> units = UnitsOfTimes(Path("X.csv"), WHOLE)
    >>> units.add(pl.Series([1620390600, 1620390600000]))
    >>> units.check()
    Traceback (most recent call last):
    ...
    ValueError: X.csv: the times are in two units: 1620390600 (interaction 1) looks like seconds, and 1620390600000 \
(interaction 2) like milliseconds; write all in one unit
    """

    NAMES = ("seconds", "milliseconds", "microseconds", "nanoseconds")
    BOUNDS = np.array([year * 10**power for power in (0, 3, 6, 9) for year in (631_152_000, 4_102_444_800)])

    def __init__(self, path: Path, times: TimeForm):
        self.path, self.times = path, times
        self.first: dict[int, tuple[int, int]] = {}  # range → number of its first interaction in the file, its time
        self.num_seen = 0

    def add(self, timestamps: pl.Series) -> None:
        """Adds the times of further interactions."""
        if self.times.is_date:
            return
        values = self.times.to_units(timestamps.to_numpy())
        ranges = np.searchsorted(self.BOUNDS, values, side="right")
        for one in np.flatnonzero(np.bincount(ranges)).tolist():
            if one not in self.first:
                place = int(np.argmax(ranges == one))
                self.first[one] = (self.num_seen + place + 1, int(values[place]))
        self.num_seen += len(values)

    def check(self) -> None:
        """Raises an error if the times are in two units."""
        for low, high in itertools.pairwise(sorted(self.first)):
            if low % 2 and high % 2:
                told = (
                    f"{self.first[one][1]} (interaction {self.first[one][0]}) {how} {self.NAMES[one // 2]}"
                    for one, how in ((low, "looks like"), (high, "like"))
                )
                raise ValueError(
                    f"{self.path}: the times are in two units: {', and '.join(told)}; write all in one unit"
                )


def _whole_numbers(values: pl.Series) -> pl.Series:
    """Returns whole numbers, also with zeros behind the point; null where there is none."""
    return values.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)


def _decimal_numbers(values: pl.Series, ticks: int) -> pl.Series:
    """Returns decimal numbers as whole numbers of ticks, without rounding on the way; null where there is none."""
    number = values.str.extract_groups(r"^([+-]?)(\d+)\.?(\d*)$").struct
    digits = len(str(ticks)) - 1
    whole = number.field("2").cast(pl.Int64, strict=False)
    whole = whole.set(whole > _LARGEST // ticks - 1, None)
    part = number.field("3").str.pad_end(digits, "0").str.slice(0, digits)
    part = part.replace("", "0").cast(pl.Int64, strict=False)
    sign = number.field("1").replace_strict({"-": -1}, default=1, return_dtype=pl.Int64)
    return sign * (whole * ticks + part)


def to_ratings(values: pl.Series) -> pl.Series:
    """Returns strings as ratings; null where there is none."""
    return values.cast(pl.Float64, strict=False).fill_nan(None)


def wrong_rating(value: object) -> str:
    """Returns what to say of a rating that is no number."""
    return f"rating {value!r} is no number"
