"""`modeling_transrec.ninerec.validate` on small folders that are wrong in one known way each."""

import gzip
import io
import json
import os
import re
import shlex
import time
import zipfile

import numpy as np
import polars as pl
import pytest
from PIL import Image

from modeling_transrec.ninerec.tables import text_files
from modeling_transrec.ninerec.tools import check_tables
from modeling_transrec.ninerec.tools.validate import main, report, validate


ITEMS = "".join(f"i{number},中 {number},text {number}\n" for number in range(7))
PAIRS = "".join(f"u{user},i{(user + step) % 7},{1_500_000_000 + step}\n" for step in range(6) for user in range(3))
LINES = "".join(f"u{user}\t{' '.join(f'i{(user + step) % 7}' for step in range(6))}\n" for user in range(3))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def make(folder, items=ITEMS, pairs=PAIRS, lines=None):
    write(folder / "X_item.csv", items)
    if lines is None:
        write(folder / "X_pair.csv", pairs)
    else:
        write(folder / "X_behaviour.tsv", lines)
    (folder / "X_cover").mkdir()
    for number in range(7):
        write(folder / "X_cover" / f"i{number}.jpg", encoded("RGB", "JPEG", seed=number))
    return folder


def encoded(mode, image_format, size=(40, 24), seed=0, **options):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def found(folder, **kwargs):
    return [(p.severity, p.count, p.what, p.examples) for p in validate("X", folder, **kwargs)]


@pytest.mark.parametrize("lines", [None, LINES])
def test_a_clean_folder_has_no_problems(tmp_path, lines):
    assert found(make(tmp_path, lines=lines)) == []


@pytest.mark.parametrize(
    ("items", "severity", "what", "examples"),
    [
        (ITEMS.encode() + b"i7,\xff,a\n", "error", "not UTF-8", ["X_item.csv:8: byte 0xff in 'i7,�,a'"]),
        (
            ITEMS + "i7,a\ni8,a,b,c\n",
            "error",
            "have not 3 columns",
            ["X_item.csv:8: 2 columns: ", "X_item.csv:9: 4 columns: "],
        ),
        (ITEMS + 'i7,a,b"c" "\ni8,"a"b,c\ni9,a,b\n', "error", "break CSV quoting", ["X_item.csv:9: "]),
        (ITEMS + 'i7,a,"b\ni8,a,b\n', "error", "break CSV quoting", ["X_item.csv:8: "]),
        (ITEMS + " ,a,b\n", "error", "an empty item_id", ["X_item.csv:8: "]),
        (ITEMS + "i3,a,b\n", "warning", "repeat an item id", ["X_item.csv:8: 'i3' stands in line 4"]),
        (ITEMS.replace("中 2,text 2", " ,"), "warning", "an empty text in both", ["X_item.csv:3: 'i2'"]),
        (ITEMS.replace("中 2", " "), "note", "items without text_zh", ["X_item.csv:3: 'i2'"]),
        (ITEMS + "i7,中,text 7\n", "warning", "nobody interacted with", ["X_item.csv:8: 'i7'"]),
        (
            ITEMS + "../i7,中,a b\n/x,中,a b c\n",
            "warning",
            "no plain names",
            ["X_item.csv:8: '../i7'", "X_item.csv:9: "],
        ),
        (ITEMS + "i\0b,中,a b\n", "warning", "no plain names", ["X_item.csv:8: 'i\\x00b': holds control characters"]),
        (ITEMS + "i7,中 0,text 0\n", "note", "same text", ["X_item.csv:8: '中 0 / text 0' stands in line 1"]),
        (ITEMS + "i7,\ufffd,a b\n", "note", "U+FFFD", ["X_item.csv:8: "]),
        (ITEMS + "i7,,title\n", "note", "a single word", ["X_item.csv:8: 'title'"]),
        ("", "error", "the file is empty", []),
        ("item_id,text_en\n", "error", "no item can be read", []),
    ],
)
def test_items(tmp_path, items, severity, what, examples):
    check(found(make(tmp_path, items=items)), severity, what, examples)


def check(problems, severity, what, examples, count=None):
    [problem] = [problem for problem in problems if what in problem[2] and "load_dataset" not in problem[2]]
    assert problem[0] == severity
    assert problem[1] == (max(len(examples), 1) if count is None else count)
    assert len(problem[3]) == len(examples)
    for shown, expected in zip(problem[3], examples, strict=True):
        assert expected in shown
    stops = [found for found in problems if "load_dataset stops at" in found[2]]
    assert bool(stops) == any(found[0] == "error" for found in problems if found not in stops)


@pytest.mark.parametrize(
    ("pairs", "severity", "what", "examples"),
    [
        (PAIRS.encode() + b"u\xe9,i1,1500000000\n", "error", "not UTF-8", ["X_pair.csv:19: byte 0xe9"]),
        (
            PAIRS + "u0,i6\nu1,i6,1,1\n",
            "error",
            "have not 3 columns",
            ["X_pair.csv:19: 2 columns: ", "X_pair.csv:20: 4 columns: "],
        ),
        (PAIRS + '"u0"x,i6,1500000000\n', "error", "break CSV quoting", ["X_pair.csv:19: "]),
        (PAIRS + ",i6,1500000000\n", "error", "an empty user_id", ["X_pair.csv:19: "]),
        (PAIRS + "u0, ,1500000000\n", "error", "an empty item_id", ["X_pair.csv:19: "]),
        (PAIRS + "u0,i6,soon\n", "error", "no whole number", ["X_pair.csv:19: 'soon'"]),
        (PAIRS + "u0,i6,1.5e9\n", "error", "no whole number", ["X_pair.csv:19: '1.5e9'"]),
        (PAIRS + "u0,i9,1500000009\n", "warning", "not in the items table", ["X_pair.csv:19: item 'i9'"]),
        (PAIRS + "u0,i0,1500000000\n", "warning", "equal in user, item and timestamp", ["X_pair.csv:19: item 'i0'"]),
        (PAIRS + "u0,i0,1500000010\n", "note", "the same user had before", ["X_pair.csv:19: "]),
        (PAIRS + "u0,i6,1400000000\n", "note", "otherwise in time order", ["X_pair.csv:19: item 'i6'"]),
        (PAIRS + "u0,i6,7\n", "warning", "before 1990", ["X_pair.csv:19: 7"]),
        (PAIRS + f"u0,i6,{int(time.time()) + 10**6}\n", "warning", "in the future", ["X_pair.csv:19: "]),
        (
            PAIRS + "u7,i6,1500000000\n\nu7,i5,1500000001\n",
            "warning",
            "fewer than 5",
            ["X_pair.csv:19: user 'u7' has 2"],
        ),
        (PAIRS.replace("\n", "000\n"), "note", "are in milliseconds", []),
        ("", "error", "the file is empty", []),
        ("user,item,time\n", "error", "no rows", []),
    ],
)
def test_pairs(tmp_path, pairs, severity, what, examples):
    check(found(make(tmp_path, pairs=pairs)), severity, what, examples)


def test_pairs_without_timestamps(tmp_path):
    pairs = "".join(",".join(row.split(",")[:2]) + "\n" for row in PAIRS.splitlines())
    assert found(make(tmp_path / "a", pairs=pairs)) == []
    problems = found(make(tmp_path / "b", pairs=pairs + "u0,i0\n"))
    check(problems, "note", "an item that the same user had before: kept", ["X_pair.csv:19: "])


def test_pairs_in_any_column_order(tmp_path):
    """Item first; where user ids are item ids as well only with `pair_columns`."""
    pairs = "".join(f"i{(user + step) % 7},u{user},{1_500_000_000 + step}\n" for step in range(6) for user in range(3))
    problems = found(make(tmp_path / "a", pairs=pairs + "i5,u6,1500000000\n"))
    check(problems, "warning", "fewer than 5", ["X_pair.csv:19: user 'u6' has 1"])
    pairs = pairs.replace(",u", ",i")
    assert "cannot tell users from items" in found(make(tmp_path / "c", pairs=pairs))[0][2]
    order = ("item_id", "user_id", "timestamp")
    assert found(tmp_path / "c", pair_columns=order) == []
    swapped = ("user_id", "item_id", "timestamp")
    problems = found(make(tmp_path / "b", pairs=pairs), pair_columns=swapped)
    assert any(problem[1] == 7 and "fewer than 5" in problem[2] for problem in problems)


@pytest.mark.parametrize(
    ("lines", "severity", "what", "examples"),
    [
        (LINES + "u7\ti1\ti2\n", "error", "have not 2 columns", ["X_behaviour.tsv:4: 3 columns: "]),
        (LINES + "u7\t \n", "error", "an empty item_ids", ["X_behaviour.tsv:4: "]),
        (LINES + "u7\ti1 i2  i3 i4 x\n", "warning", "not in the items table", ["X_behaviour.tsv:4: item 'x'"]),
        (LINES + "u7\ti1 i2 i3 x\n", "warning", "fewer than 5", ["X_behaviour.tsv:4: user 'u7' has 3"]),
        (LINES + LINES.splitlines()[1] + "\n", "warning", "equal to an earlier one", ["X_behaviour.tsv:4: user 'u1'"]),
        (LINES + "u0\ti6\n", "warning", "appended", ["X_behaviour.tsv:4: user 'u0'"]),
        (LINES + "u7\ti1 i2 i3 i4 i1\n", "note", "earlier in the same line", ["X_behaviour.tsv:4: item 'i1' again"]),
        ("\n", "error", "the file is empty", []),
    ],
)
def test_behaviour(tmp_path, lines, severity, what, examples):
    check(found(make(tmp_path, lines=lines)), severity, what, examples)


JPEG = encoded("RGB", "JPEG", size=(200, 150))


@pytest.mark.parametrize(
    ("name", "content", "severity", "what", "details"),
    [
        ("i0.jpg", b"", "warning", "zero bytes", ""),
        ("i0.jpg", b"no picture at all", "warning", "corrupt", ""),
        ("i0.jpg", JPEG[: len(JPEG) // 2], "warning", "truncated", "bytes not processed"),
        ("i0.png", encoded("RGB", "PNG", size=(200, 150))[:9000], "warning", "truncated", ""),
        ("i0.jpg", encoded("L", "JPEG"), "note", "greyscale", "mode L"),
        ("i0.jpg", encoded("CMYK", "JPEG"), "note", "CMYK", "mode CMYK"),
        ("i0.png", encoded("P", "PNG"), "note", "palette", "mode P"),
        ("i0.png", encoded("RGBA", "PNG"), "note", "transparency", "mode RGBA"),
        ("i0.jpg", encoded("RGB", "PNG"), "note", "suffixes", "is PNG"),
        ("i0.jpg", encoded("RGB", "JPEG", size=(40, 3)), "note", "fewer than 16 pixels", "40 x 3"),
        ("i0.svg", b"<svg/>", "note", "left out", ""),
        ("i0.gif", encoded("RGB", "GIF"), "note", "palette", "mode P"),
        ("more/i0.avif", encoded("RGB", "AVIF"), "note", "several covers", "i0.jpg, more/i0.avif"),
        ("i0.JPG", JPEG, "note", "several covers", "i0.jpg"),
        ("other.jpg", JPEG, "note", "of no item", ""),
    ],
)
def test_images(tmp_path, name, content, severity, what, details):
    write(make(tmp_path) / "X_cover" / name, content)
    [problem] = [problem for problem in found(tmp_path, num_workers=2) if what in problem[2]]
    assert problem[:2] == (severity, 1)
    assert name in problem[3][0] and details in problem[3][0]


def test_images_that_move_or_are_too_big(tmp_path, monkeypatch):
    covers = make(tmp_path) / "X_cover"
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(covers / "i0.webp", save_all=True, append_images=frames[1:])
    (covers / "i0.jpg").unlink()
    (covers / "i1.jpg").unlink()
    (covers / "i2.jpg").unlink()
    (covers / "i2.jpg").symlink_to(tmp_path / "absent")
    write(covers / "i3.jpg", encoded("RGB", "JPEG", size=(200, 150)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14_000)
    problems = {what.split(":")[0].split(",")[0]: (count, examples) for _, count, what, examples in found(tmp_path)}
    assert problems == {
        "animated images": (1, ["i0.webp: 2 frames"]),
        "links to nothing": (1, ["i2.jpg"]),
        "items without a cover": (2, ["'i1'", "'i2'"]),
        "gigantic images": (1, problems["gigantic images"][1]),
    }
    assert "i3.jpg: Image size (30000 pixels)" in problems["gigantic images"][1][0]


def test_blocks_do_not_change_what_is_found(tmp_path, monkeypatch):
    """Blocks, parts of the users, and the careful reader that quotes need."""
    rows = ["u7,i6,1500000000", "u0,i9,7", "u1,i1,1500000000", "u8,i2,1500000000", "u0,i6"]
    folder = make(tmp_path / "a", pairs=PAIRS + "\n".join(rows))
    expected = found(folder)
    assert len(expected) == 8
    monkeypatch.setattr(text_files, "BLOCK_SIZE", 64)
    monkeypatch.setattr(check_tables, "ROWS_PER_PART", 1)
    assert found(folder) == expected
    write(folder / "X_pair.csv", (PAIRS + "\n".join(rows)).replace("u2,", '"u2",'))
    assert found(folder) == expected


def test_any_line_ends(tmp_path):
    for number, line_end in enumerate(("\r\n", "\r")):
        items, pairs = (text.replace("\n", line_end) for text in (ITEMS, PAIRS + "u0,zzz,1500000000\n"))
        folder = make(tmp_path / str(number), items=items, pairs=pairs)
        check(found(folder), "warning", "not in the items table", ["X_pair.csv:19: item 'zzz'"])


def test_bytes_that_are_not_utf8_are_reported_once(tmp_path):
    problems = found(make(tmp_path, items=ITEMS.encode("gbk")))
    check(problems, "error", "not UTF-8", [f"X_item.csv:{line}: byte 0xd6" for line in range(1, 6)], count=7)
    assert not any("U+FFFD" in problem[2] for problem in problems)


def test_a_line_that_never_ends(tmp_path, monkeypatch):
    """Memory stays bounded, and what follows is not called empty."""
    monkeypatch.setattr(text_files, "BLOCK_SIZE", 64)
    monkeypatch.setattr(text_files, "LONGEST_LINE", 500)
    folder = make(tmp_path, lines=LINES + "u7\t" + "i1 " * 1000)
    check(found(folder), "warning", "a line of more than 500 bytes", ["X_behaviour.tsv:4: 'u7\\ti1 i1"])
    assert len(found(folder)) == 1


def test_folders(tmp_path):
    [(severity, _, what, _)] = found(tmp_path)
    assert severity == "error" and "No X_item.csv under" in what
    (tmp_path / "X_item.csv").symlink_to(tmp_path / "absent")
    assert [problem[2] for problem in found(tmp_path)][1] == "links to nothing: left out"
    [(severity, _, what, _)] = found(tmp_path / "absent")
    assert severity == "error" and "is not a folder" in what
    (tmp_path / "X_item.csv").unlink()
    write(tmp_path / "X_item.csv", ITEMS)
    os.mkfifo(tmp_path / "X_pair.csv")  # reading it would wait for ever
    (_, _, what, _), problem = found(tmp_path)
    assert problem == ("warning", 1, "a pipe or a device: left out", ["X_pair.csv"]) and "No X_pair.csv or" in what
    [problem] = validate("../X", tmp_path)
    assert "no valid data set name" in problem.what


def verdicts(folder, **kwargs):
    return [(severity, what) for severity, _, what, _ in found(folder, **kwargs) if severity != "note"]


def test_what_loads_is_not_called_wrong(tmp_path):
    """Dates, TSV tables with quotes, other names of columns, fewer interactions, titles in Chinese, long texts."""
    dates = "user,item,time\n" + "".join(f"u,i{n},2021-05-07 12:30:0{n}.5\n" for n in range(7))
    assert verdicts(make(tmp_path / "dates", pairs=dates)) == []
    check(found(make(tmp_path / "wrong", pairs=dates + "u,i1,soon\n")), "error", "no date", ["X_pair.csv:9: 'soon'"])
    early = dates.replace("2021-05-07 12:30:01", "1970-01-02 12:30:01")
    check(found(make(tmp_path / "early", pairs=early)), "warning", "before 1990", ["X_pair.csv:3: 1970-01-02 12:30"])

    write(tmp_path / "tsv" / "X_items.tsv", '"id"\t"title"\n' + "".join(f'"i{n}"\t"标题, {n}"\n' for n in range(7)))
    write(tmp_path / "tsv" / "X_interactions.tsv", dates.replace(",", "\t").replace("u\t", '"u"\t'))
    problems = found(tmp_path / "tsv")
    assert [(what, count) for _, count, what, _ in problems if "text_" in what] == [
        ("no item has a text in text_en: commands need --language zh", 1)
    ]
    assert verdicts(tmp_path / "tsv") == []

    write(tmp_path / "names" / "X_items.csv", "sku,what\n" + "".join(f"i{n},a b{n}\n" for n in range(7)))
    write(tmp_path / "names" / "X_interactions.csv", dates.replace("user,item,time", "who,sku,at"))
    columns = {"user_id": "who", "item_id": "sku", "timestamp": "at", "text_en": "what"}
    assert verdicts(tmp_path / "names", columns=columns) == []
    assert "no column 'whom' for user_id" in verdicts(tmp_path / "names", columns={**columns, "user_id": "whom"})[1][1]

    short = make(tmp_path / "short", pairs="".join(f"u,i{n},150000000{n}\n" for n in range(4)))
    assert any(severity == "error" for severity, _ in verdicts(short))
    assert [severity for severity, _ in verdicts(short, min_actions=4)] == ["warning"]  # unused items
    assert verdicts(make(tmp_path / "long", items=ITEMS + f'i6b,,"{"x y" * 60_000}"\n'))[0][0] == "warning"


def test_derived_sets(tmp_path):
    write(tmp_path / "Bili_500K_item.csv", ITEMS)
    write(
        tmp_path / "Bili_500K_pair.csv",
        "".join(f"u{u},i{n % 7},{1_500_000_000 + n}\n" for u in range(20) for n in range(21)),
    )
    assert [problem.what for problem in validate("Bili_warm20", tmp_path) if problem.severity != "note"] == []
    assert "none of 20 users" in validate("Bili_warm20", tmp_path, min_actions=22)[0].what


@pytest.mark.parametrize("name", ["X_pairs.tsv", "X_behaviour.tsv"])
def test_a_tsv_that_is_not_utf8(tmp_path, name):
    write(tmp_path / "X_item.csv", ITEMS)
    write(tmp_path / name, "用户\ti1 i2\n".encode("gbk"))
    problems = found(tmp_path)
    check(problems, "error", "not UTF-8", [f"{name}:1: byte 0xd3"])


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("X_item.csv", ITEMS)
        archive.writestr("X_pair.csv", PAIRS + "u0,x,1500000009\n")
    text = report("X", validate("X", tmp_path))
    assert f"{tmp_path}/all.zip::X_pair.csv\n  warning  1 × interactions with items that" in text
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("X_item.csv", ITEMS)
        archive.writestr("X_pair.csv", PAIRS + "u0\n")
    stops = [what for _, _, what, _ in found(tmp_path) if "stops" in what]
    assert len(stops) == 1 and f"stops at: {tmp_path}/all.zip::X_pair.csv:19: 1 columns" in stops[0]


def test_compressed_tables_are_called_as_they_lie_there(tmp_path):
    write(tmp_path / "X_items.csv.gz", gzip.compress(b"sku,about\ni1,a b\n"))
    write(tmp_path / "X_interactions.csv.gz", gzip.compress(b"user,item,time\nu,i1,1\nu,i1\n"))
    for one in validate("X", tmp_path):
        told = f"{one.path} {one.what} {one.examples}"
        assert str(tmp_path) in told and "/X_items.csv:" not in told and "/X_items.csv " not in told
    assert f"{tmp_path}/X_items.csv.gz:1: ['sku', 'about']" in report("X", validate("X", tmp_path))


def test_an_error_stands_once_and_as_the_command_takes_its_options(tmp_path, capsys):
    dates = "user,item,time\n" + "".join(f"u,i{number},07/0{number + 1}/2023\n" for number in range(6))
    folder = make(tmp_path, pairs=dates)
    assert main(["X", "--data_dir", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert shown.count("may be month/day/year") == 1 and "(1 error, " in shown
    assert "say which: --time_format %m/%d/%Y or --time_format %d/%m/%Y" in shown
    (folder / "X_pair.csv").write_text(dates.replace("time", "purchased_at"))
    main(["X", "--data_dir", str(folder)])
    shown = capsys.readouterr().out
    option = shlex.split(re.search("--columns ('{.*?}')", shown)[1])[0]
    assert json.loads(option) == {"timestamp": "purchased_at"} and """--columns '{"timestamp": null}'""" in shown
    assert main(["X", "--data_dir", str(folder), "--columns", option, "--time_format", "%d/%m/%Y"]) == 0


def test_examples_are_limited_and_counts_are_not(tmp_path):
    folder = make(tmp_path, pairs=PAIRS + "u0,x,1500000009\n" * 9)
    [(_, count, _, examples)] = [p for p in found(folder, max_examples=2) if "items table" in p[2]]
    assert (count, len(examples)) == (9, 2)
    text = report("X", validate("X", folder, max_examples=2))
    assert f"{folder / 'X_pair.csv'}\n  warning  9 × interactions with items that are not" in text
    assert "X_pair.csv:20: item 'x'\n               … and 7 more" in text
    assert text.endswith("X can be loaded (0 errors, 1 warning, 0 notes)")


def test_command(tmp_path, capsys):
    make(tmp_path / "good")
    make(tmp_path / "bad", pairs=PAIRS + "u0\n")
    assert main(["X", "--data_dir", str(tmp_path / "good")]) == 0
    assert capsys.readouterr().out == "X can be loaded (0 errors, 0 warnings, 0 notes)\n"
    assert main(["X", "--data_dir", str(tmp_path / "bad")]) == 1
    out = capsys.readouterr().out
    assert "X_pair.csv:19: 1 columns: " in out and "X cannot be loaded: correct the errors first (2 errors, 0 w" in out
    assert main(["X", "--data_dir", str(tmp_path / "good"), "--min_actions", "7"]) == 1
    assert main(["X", "--data_dir", str(tmp_path / "good"), "--columns", '{"user_id": "who"}']) == 1
    assert "there is no column 'who' for user_id" in capsys.readouterr().out
    for wrong in (["--pair_columns", "user"], ["--columns", "user"], ["--columns", "[1]"]):
        with pytest.raises(SystemExit):
            main(["X", "--data_dir", str(tmp_path), *wrong])


def test_the_embedded_sample_needs_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("NINEREC_DATA_DIR", str(make(tmp_path / "data")))
    assert main(["Sample_Target"]) == 0
    assert "Sample_Target can be loaded (0 errors" in capsys.readouterr().out
    assert main(["X"]) == 0
    monkeypatch.delenv("NINEREC_DATA_DIR")
    with pytest.raises(SystemExit):
        main(["X"])


def test_covers_in_archives_are_checked_as_those_in_a_folder(tmp_path):
    covers = make(tmp_path / "plain") / "X_cover"
    write(covers / "i0.jpg", encoded("CMYK", "JPEG"))
    write(covers / "i1.jpg", encoded("L", "JPEG"))
    write(covers / "i2.jpg", encoded("RGB", "JPEG", size=(400, 300))[:2000])
    write(covers / "i3.jpg", b"no picture")
    write(covers / "i4.jpg", b"")
    write(covers / "notes.txt", "x")
    (covers / "i5.jpg").unlink()
    write(covers / "other.jpg", encoded("RGB", "JPEG"))
    (tmp_path / "zipped").mkdir()
    with (
        zipfile.ZipFile(tmp_path / "zipped" / "one.zip", "w") as one,
        zipfile.ZipFile(tmp_path / "zipped" / "two.zip", "w") as two,
    ):
        for number, path in enumerate(sorted(covers.iterdir())):
            (one, two)[number % 2].write(path, f"X_cover/{path.name}")
        for name in ("X_item.csv", "X_pair.csv"):
            one.write(tmp_path / "plain" / name, name)
    expected = found(tmp_path / "plain")
    for what in ("CMYK", "greyscale", "truncated", "corrupt", "covers of zero bytes", "covers of no item", "left out"):
        assert any(what in problem[2] for problem in expected), what
    assert found(tmp_path / "zipped") == expected


def test_audio(tmp_path):
    folder = make(tmp_path)
    for number in range(4):
        write(folder / "X_audio" / f"i{number}.wav", b"RIFF\0\0\0\0WAVE")
    assert [what for _, _, what, _ in found(folder)] == ["items without an audio file: count as missing"]
    write(folder / "X_audio" / "i4.mp3", b"\xff\xfb")
    write(folder / "X_audio" / "i5.flac", b"no audio")
    write(folder / "X_audio" / "i6.wav", b"")
    write(folder / "X_audio" / "i6.ogg", b"OggS")
    problems = {what.split(":")[0]: (severity, examples) for severity, _, what, examples in found(folder)}
    assert problems == {
        "audio files whose content does not fit the suffix": ("warning", ["i5.flac: begins with b'no audio'"]),
        "audio files of zero bytes": ("warning", ["i6.wav"]),
        "entries that are no .wav, .flac, .mp3 file": ("note", ["i6.ogg"]),
        "items without an audio file": ("warning", ["'i6'"]),
    }


def test_ids_that_a_spreadsheet_rounded(tmp_path):
    items = ITEMS.replace("i6,", "1.23457E+12,")
    pairs = PAIRS.replace("u2,", "2.5E+15,").replace("i6", "1.23457E+12") + "12e3x,i1,1500000000\n"
    expected = sum("E+" in row for row in pairs.splitlines())
    [in_items, in_pairs] = [p for p in found(make(tmp_path, items=items, pairs=pairs)) if "spreadsheets" in p[2]]
    assert in_items[:2] == ("warning", 1) and "X_item.csv:7: '1.23457E+12'" in in_items[3]
    assert in_pairs[:2] == ("warning", expected) and "X_pair.csv:3: '2.5E+15'" in in_pairs[3]


def test_tables_given_by_their_paths(tmp_path, capsys):
    make(tmp_path / "data", pairs=PAIRS + "u0,i9,1500000009\n")
    sales, products = tmp_path / "sales 1.csv", tmp_path / "products.tsv"
    (tmp_path / "data" / "X_pair.csv").rename(sales)
    products.write_text("sku\tproduct\n" + "".join(f"i{number}\ttext {number}\n" for number in range(7)))
    paths = ["--interactions", str(sales), "--items", str(products), "--covers", str(tmp_path / "data" / "X_cover")]
    columns = ["--columns", '{"items.item_id": "sku", "text_en": "product"}']
    assert main(["shop", *paths, *columns]) == 0
    shown = capsys.readouterr().out
    assert f"{sales}\n" in shown and "sales 1.csv:19: item 'i9'" in shown and "shop can be loaded" in shown
    assert main(["shop", *paths]) == 1
    shown = capsys.readouterr().out
    assert f"{products}:1: " in shown and "shop_items" not in shown
    for wrong, message in (
        (paths[:2], "give --interactions and --items together"),
        ([*paths[:3], str(tmp_path / "absent.csv")], "absent.csv is neither a file"),
    ):
        with pytest.raises(SystemExit):
            main(["shop", *wrong])
        assert message in capsys.readouterr().err


DIRTY = {
    "clean": (ITEMS, PAIRS),
    "unknown items": (ITEMS, PAIRS + "u0,i9,1500000009\n"),
    "repeated rows": (ITEMS + "i1,中,again\n", PAIRS + "u0,i0,1500000000\n"),
    "short users": (ITEMS, PAIRS + "u7,i6,1500000000\n"),
    "early times": (ITEMS, PAIRS + "u0,i6,7\n"),
    "milliseconds": (ITEMS, PAIRS.replace("\n", "000\n")),
    "empty texts": (ITEMS.replace("中 3,text 3", ","), PAIRS),
    "unused items": (ITEMS + "i8,中,x y\n", PAIRS),
    "empty ids": (ITEMS + ",中,x y\n", PAIRS + ",i6,1500000000\n"),
    "empty times": (ITEMS, PAIRS + "u0,i6,\n"),
    "other times": (ITEMS, PAIRS + "u0,i6,soon\n"),
    "odd ids": (ITEMS.replace("i6,", "../6,"), PAIRS),
    "rounded ids": (ITEMS, PAIRS.replace("u2,", "2.5E+15,")),
}


@pytest.mark.parametrize("kind", DIRTY)
def test_parquet_is_checked_as_csv_is(tmp_path, kind):
    items, pairs = DIRTY[kind]
    header = "user_id,item_id,timestamp\n"
    tables = {"X_items": "item_id,text_zh,text_en\n" + items, "X_interactions": header + pairs}
    kinds = {}
    for suffix in (".csv", ".parquet"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        for name, content in tables.items():
            if suffix == ".csv":
                (folder / f"{name}.csv").write_text(content)
            else:
                rows = pl.read_csv(content.encode(), infer_schema=False)
                if name == "X_interactions" and kind not in ("empty times", "other times"):
                    rows = rows.with_columns(pl.col("timestamp").cast(pl.Int64))
                rows.write_parquet(folder / f"{name}.parquet")
        kinds[suffix] = [
            (severity, count, what.replace(".parquet", ".csv").replace(str(folder), ""))
            for severity, count, what, _ in found(folder)
            if "load_dataset stops at" not in what
        ]
    assert kinds[".csv"] == kinds[".parquet"]


def test_ids_that_are_written_in_two_ways_are_told(tmp_path):
    users = ["12", "12.0", "a\u200b", "a", "e\u0301", "\u00e9", "b.0", "z\u200b"]
    (tmp_path / "X_items.csv").write_text("item_id,text_en\n7,a b\n7.0,c d\n8,e f\n")
    (tmp_path / "X_interactions.csv").write_text("".join(f"{user},{item},1\n" for user in users for item in (7, 8)))
    told = {one.path.name: one for one in validate("X", tmp_path) if "taken for different ones" in one.what}
    assert told["X_interactions.csv"].count == 3 and told["X_items.csv"].examples == ["'7' and '7.0'"]
    assert told["X_interactions.csv"].examples == ["'12' and '12.0'", r"'a' and 'a\u200b'", r"'e\u0301' and '\xe9'"]
