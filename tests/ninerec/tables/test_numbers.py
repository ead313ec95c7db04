"""Times of interactions: what is read is in the right order, and what could be misread is refused."""

import datetime

import polars as pl
import pytest

from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.numbers import form_of_format
from modeling_transrec.ninerec.tables.options import TableOptions


IDS = pl.Series(["a", "b", "c", "d"])


def read(tmp_path, times, suffix=".csv", **options):
    """Returns the items of a user who had one at each of some times, in the order that is read, and its times."""
    path = tmp_path / f"X_interactions{suffix}"
    table = pl.DataFrame({"user_id": "u", "item_id": IDS.head(len(times)), "timestamp": times})
    table.write_parquet(path) if suffix == ".parquet" else table.write_csv(path)
    found = read_sequences(path, IDS, min_actions=1, options=TableOptions(**options))
    return "".join(IDS[found.items.tolist()]), found.timestamps.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_fractions_of_seconds(tmp_path, recwarn, suffix):
    times = [f"07/05/2021 12:00:00.{part}" for part in ("9", "05", "123457", "123456")]
    found, at = read(tmp_path, times, suffix, time_format="%d/%m/%Y %H:%M:%S.%f")
    assert found == "bdca" and set(at) == {1620388800} and not recwarn.list


@pytest.mark.parametrize(
    ("time_format", "message"),
    [
        ("%d.%m.%Y %H:%M:%S %Z", r"names of zones \(%Z\) do not tell the time; write offsets .* %z reads"),
        ("%H:%M", "has no year"),
        ("%d/%m", r"has no year \(%Y, or %y"),
        ("%d/%m/%Y %H:%M %p", r"hours to 24 \(%H\) without"),
        ("%d/%m/%Y %I:%M", r"hours to 12 \(%I\) go with %p"),
        ("%d/%m/%Y %H:%M:%S,%f", "%f must follow a point.* write %3f"),
        ("%Y-%m-%d %H", "is no format of times: .*both hour and minute"),
    ],
)
def test_formats_that_do_not_tell_times(time_format, message):
    with pytest.raises(ValueError, match=f"time_format='{time_format}'.*{message}"):
        TableOptions(time_format=time_format)


@pytest.mark.parametrize(
    ("time_format", "written"),
    [
        ("%d/%m/%y", "07/05/21"),
        ("%d/%m/%Y %H:%M:%S,%3f", "07/05/2021 00:00:00,250"),
        ("%d.%m.%Y, %H:%M:%S", "07.05.2021, 00:00:00"),
        ("%Y%m%dT%H%M%SZ", "20210507T000000Z"),
        ("%d/%m/%Y %I:%M %p", "07/05/2021 12:00 AM"),
        ("%d/%m/%Y %H:%M %z", "07/05/2021 02:00 +0200"),
        ("%D", "05/07/21"),
        ("%F %T", "2021-05-07 00:00:00"),
        ("%Y-%j", "2021-127"),
    ],
)
def test_formats(time_format, written):
    (found,) = form_of_format(time_format).parse(pl.Series([written]))
    assert found // 10**6 == 1620345600


def test_years_of_two_digits(tmp_path):
    found = read(tmp_path, ["01-JUN-99", "30-DEC-98", "05-JAN-00"])
    assert found == ("bac", [914976000, 928195200, 947030400])
    assert read(tmp_path, ["01.06.00", "30.12.98"], time_format="%d.%m.%y")[0] == "ba"
    assert read(tmp_path, ["01/06/99", "30/12/98"], time_format="%d/%m/%y")[0] == "ba"
    with pytest.raises(ValueError, match=r":2: timestamp '30/12/98' is no date by the format.*%y one of two"):
        read(tmp_path, ["30/12/98", "01/06/99"], time_format="%d/%m/%Y")
    with pytest.raises(ValueError, match=r":2: timestamp 'Dec 30, 98' is no .*time_format=.*%y"):
        read(tmp_path, ["Dec 30, 98", "Jun 1, 99"])


@pytest.mark.parametrize("written", ["13/09/20 12:26", "13.09.2020, 12:26:40", "20200913T122640Z"])
def test_dates_of_unknown_forms_name_the_option(tmp_path, written):
    with pytest.raises(ValueError, match=f":2: timestamp '{written}' is no .*time_format="):
        read(tmp_path, [written])


def test_a_wrong_time_among_days_above_12(tmp_path):
    times = ["01/05/2021", "13/05/2021", "n/a", "02/05/2021"]
    with pytest.raises(ValueError, match=r":4: timestamp 'n/a' is no date day/month/year"):
        read(tmp_path, times)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_integers_are_dates_of_a_format(tmp_path, suffix):
    """Numbers lose the zeros at their front."""
    found = read(tmp_path, [31012021, 1022021, 2022021], suffix, time_format="%d%m%Y")
    assert found == ("abc", [1612051200, 1612137600, 1612224000])
    assert read(tmp_path, [11121, 111121], suffix, time_format="%d%m%y")[0] == "ab"
    with pytest.raises(ValueError, match="timestamp .*1620390600.* is no date by the format"):
        read(tmp_path, [1620390600], suffix, time_format="%d%m%Y")


def test_floats_are_dates_of_a_format(tmp_path):
    found = read(tmp_path, [20210508.0, 20210507.0], ".parquet", time_format="%Y%m%d")
    assert found == ("ba", [1620345600, 1620432000])


def test_dates_of_parquet_need_no_format(tmp_path):
    days = [datetime.date(2021, 5, 8), datetime.date(2021, 5, 7)]
    assert read(tmp_path, days, ".parquet", time_format="%d%m%Y") == ("ba", [1620345600, 1620432000])


def test_floats_of_nanoseconds(tmp_path):
    times = [1.6e18, 1.5e18]
    assert read(tmp_path, times, ".parquet") == ("ba", [1500000000000000000, 1600000000000000000])
    times = ["1600000000000000000.5", "1500000000000000000"]
    assert read(tmp_path, times) == ("ba", [1500000000000000000, 1600000000000000000])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_two_units_in_one_file(tmp_path, suffix):
    message = (
        r"two units: 1600000060 \(interaction 3\) looks like seconds, and 1600000000000 \(interaction 2\) like mill"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, [0, 1600000000000, 1600000060, 1600000120], suffix)
    with pytest.raises(ValueError, match="two units: .* looks like seconds, and .* like microseconds"):
        read(tmp_path, [1600000000, 1600000000000000], suffix)
    for times in ([0, 1600000000], [0, 10**9, 10**11, 10**12], [20210507, 1620390600000]):
        assert read(tmp_path, times, suffix)[1] == times
