"""Properties of all forms of tables: what was written is what is read, or an error says which line or option."""

import bz2
import codecs
import gzip
import json
import lzma
import os
import tempfile
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_transrec.ninerec.files import find_files
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tools.validate import validate


settings.register_profile("same everywhere", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("same everywhere")

TEXTS = [
    *[
        "plain title",
        "a, b",
        "semi; colon",
        "pipe | in",
        "tab\tin",
        "1::2",
        "",
        "  spaces  ",
        "null",
        "NaN",
        "#hash",
        ",",
    ],
    *['He said "yes"', '"Quoted" start', 'ends with "', '"', 'a\\"b', "back\\slash", "it's", "[bracket]", "{brace}"],
    *["line\nbreak", "two\nlines, and\nmore", "café", "标题 一", "x" * 300],
]
IDS = ["i0", "007", "NA", "a b", "B0-x", "é", "1.50", "'q'", "中", "x_y"]
MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]  # which need no option


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".BZ2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def quoted(field, separator, quoting, always):
    """A field as each dialect has it, by a few lines of its own."""
    if quoting == "none":
        return field
    inside = field.replace('"', '""') if quoting == "double" else field.replace("\\", "\\\\").replace('"', '\\"')
    special = {separator, '"', "\n", "\r", *("\\" if quoting == "backslash" else "")}
    return f'"{inside}"' if always or special & set(field) else field


@st.composite
def dialects(draw):
    separator = draw(st.sampled_from([",", "\t", ";", "|", "::"]))
    return {
        "separator": separator,
        "quoting": "none" if separator == "::" else draw(st.sampled_from(["double", "backslash", "none"])),
        "encoding": draw(st.sampled_from([*MARKED, "gb18030", "utf-16-le", "utf-16-be"])),
        "end": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "always": draw(st.booleans()),
        "blank": draw(st.sampled_from(["", " "])) if draw(st.booleans()) else None,
        "last": draw(st.booleans()),
    }


def as_text(rows, separator, quoting, encoding, end, always, blank, last):
    lines = [separator.join(quoted(str(field), separator, quoting, always) for field in row) for row in rows]
    if blank is not None:
        lines.insert(2, blank)
    return (end.join(lines) + (end if last else "")).encode(encoding)


def read(folder, **options):
    items, sequences = find_files("X", folder).read(
        folder / "ninerec_archives", TableOptions(**options), min_actions=1
    )
    ids, ends = sequences.item_ids.to_pylist(), sequences.offsets.tolist()
    found = [(ids[item], time) for item, time in zip(sequences.items, sequences.timestamps.tolist(), strict=True)]
    users = sequences.user_ids.to_pylist()
    return items.rows(), {user: found[ends[n] : ends[n + 1]] for n, user in enumerate(users)}


def by_user(pairs):
    found = {}
    for user, item, time in pairs:
        found.setdefault(user, []).append((item, time))
    return found


def fits(text, separator, quoting, encoding, **_):
    return (quoting != "none" or not (separator in text or "\n" in text)) and (separator != "::" or ":" not in text)


tables = st.tuples(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=len(IDS), max_size=len(IDS)),
    st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), min_size=30, max_size=40),
)


@settings(max_examples=60)
@given(
    tables,
    dialects(),
    st.sampled_from([".csv", ".TSV", ".txt", ".dat", ".inter"]),
    st.sampled_from(list(PACKERS)),
    st.booleans(),
)
def test_texts_of_any_dialect(table, dialect, suffix, packing, ragged):
    """Also without any option where nothing is uncertain; else the error names the option."""
    texts = [[text if fits(text, **dialect) else "" for text in row] for row in table[0]]
    items = [(item, *row) for item, row in zip(IDS, texts, strict=True)]
    pairs = [(user, item, 1000 + number) for number, (user, item) in enumerate(table[1])]
    pairs += [("all", item, 1) for item in IDS]
    item_rows = [("item_id", "text_zh", "text_en"), *(row[:2] if ragged and row[0] == "a b" else row for row in items)]
    options = {name: dialect[name] for name in ("separator", "quoting", "encoding")}
    if dialect["separator"] == "::":
        del options["quoting"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, rows, end in (
            ("X_items", item_rows, ".item" if suffix == ".inter" else suffix),
            ("X_pairs", [("user_id", "item_id", "timestamp"), *pairs], suffix),
        ):
            (folder / f"{stem}{end}{packing}").write_bytes(PACKERS[packing](as_text(rows, **dialect)))
        if ragged:
            with pytest.raises(ValueError, match=r"X_items\.\w+(\.\w+)?:\d+: .*2 columns where 3"):
                read(folder, **options)
            return
        expected = (items, by_user(pairs))
        assert read(folder, **options) == expected
        try:
            found = read(folder)
        except ValueError as error:
            assert dialect["encoding"] not in MARKED or dialect["quoting"] != "double", error
            assert "encoding=" in str(error) or "quoting=" in str(error) or "separator=" in str(error), error
            assert any(problem.severity == "error" for problem in validate("X", folder))
        else:
            assert found == expected
            assert not any(problem.severity == "error" for problem in validate("X", folder, min_actions=3))


def json_lines(rows, names):
    return "\n".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows).encode()


def json_array(rows, names):
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1).encode()


def recbole(rows, names):
    types = {"item_id": "token", "user_id": "token", "timestamp": "float"}
    head = "\t".join(f"{name}:{types.get(name, 'token_seq')}" for name in names)
    return "\n".join([head, *("\t".join(quoted(str(f), "\t", "double", False) for f in row) for row in rows)]).encode()


WRITERS = {".jsonl": json_lines, ".json": json_array, ".ndjson": lambda *args: codecs.BOM_UTF8 + json_lines(*args)}


@settings(max_examples=40)
@given(
    tables, st.sampled_from([*WRITERS, ".parquet", "parts", "RecBole"]), st.sampled_from(list(PACKERS)), st.booleans()
)
def test_tables_with_names(table, form, packing, lists):
    """JSON, Parquet in one or several files, RecBole; a row an interaction or a row a user."""
    items = [(item, *row) for item, row in zip(IDS, table[0], strict=True)]
    pairs = [(user, item, 1000 + number) for number, (user, item) in enumerate(table[1])]
    expected, rows = by_user(pairs), pairs
    if lists and form != "RecBole":
        rows = [(user, [item for item, _ in found], [time for _, time in found]) for user, found in expected.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, content, names in (
            ("X_items", items, ["item_id", "text_zh", "text_en"]),
            ("X_interactions", rows, ["user_id", "item_id", "timestamp"]),
        ):
            if form == "parts":
                (folder / f"{stem}.parquet").mkdir()
                for part in range(0, len(content), 7):
                    frame = pl.DataFrame(content[part : part + 7], schema=names, orient="row")
                    frame.write_parquet(folder / f"{stem}.parquet" / f"part-{part}.parquet")
                continue
            if form == ".parquet":
                pl.DataFrame(content, schema=names, orient="row").write_parquet(folder / "file")
                made, suffix = (folder / "file").read_bytes(), form
            elif form == "RecBole":
                made, suffix = recbole(content, names), ".item" if stem == "X_items" else ".inter"
            else:
                made, suffix = WRITERS[form](content, names), form
            (folder / f"{stem}{suffix}{packing}").write_bytes(PACKERS[packing](made))
        assert read(folder) == (items, expected)
        assert not any(problem.severity == "error" for problem in validate("X", folder, min_actions=1))


def test_changed_bytes_of_an_archive_are_read_or_told(tmp_path):
    """More by hand: FUZZ_EXAMPLES=10000 python -m pytest tests/ninerec/test_forms.py -k archive."""
    with zipfile.ZipFile(tmp_path / "X.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X_item.csv", "".join(f"i{n},\u4e2d,text {n}\n" for n in range(20)))
        archive.writestr("X_pair.csv", "".join(f"u{n % 3},i{n % 20},{n}\n" for n in range(60)))
    content = (tmp_path / "X.zip").read_bytes()
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))

    @settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")))
    @given(st.lists(places, min_size=1, max_size=4), st.integers(0, len(content) - 1) | st.none())
    def read(changes, length):
        changed = bytearray(content)
        for place, value in changes:
            changed[place] = value
        (tmp_path / "X.zip").write_bytes(bytes(changed[:length]))
        for problem in validate("X", tmp_path):  # it raises nothing
            assert len(problem.what) > 10

    read()
