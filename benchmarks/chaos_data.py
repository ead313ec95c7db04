"""Hostile data folders of `chaos.py`, as tables of a shop and as prepared data sets; and what publishing lets out."""

import bz2
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chaos_case import HARMFUL, HELD, REFUSED, TRACEBACK, Case, Found, Workplace
from chaos_checkpoints import with_other_bytes
from chaos_children import is_sentence, run_child
from chaos_inputs import (
    SECRET,
    Attack,
    broken_json,
    cut_files,
    edit,
    edit_json,
    gzip_bomb,
    judge,
    no_files,
    plain_pickle,
    remove,
    several,
    write,
    zip_bomb,
)

from modeling_transrec import Recommender, load_items, load_sequences
from tests.tiny import tiny_image


TABLE, TITLES = "shop_interactions.csv", "shop_items.csv"


def load_tables(folder: Path) -> Any:
    """Reads a folder of tables as training would, images included; returns what may show a secret."""
    where: dict[str, Any] = {"data_dir": str(folder), "cache_dir": str(folder.parent / "cache")}
    items, train = load_items("ninerec", "shop", **where), load_sequences("ninerec", "shop", "train", **where)
    images = items.cast_column("image", datasets.Image(decode=False)).select_columns(["image"])
    contents = (row["image"]["bytes"] or b"" if row["image"] else b"" for row in images)  # one at a time
    found = any(SECRET.encode() in content for content in contents)
    return [items["text_en"][:3], train["item_ids"][:1], SECRET if found else ""]


def load_prepared(folder: Path) -> Any:
    """Reads a prepared data set; returns what may show a secret."""
    where = {"cache_dir": str(folder.parent / "cache")}
    items, train = load_items(str(folder), "shop", **where), load_sequences(str(folder), "shop", "train", **where)
    return [items[:3], train[:1]]


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def in_parquet(name: str, columns: Any, **options: Any) -> Callable[[Path], Any]:
    """Returns what writes a table as Parquet in place of the one as CSV; a large one is made only then."""

    def change(folder: Path) -> None:
        remove(name)(folder)
        pq.write_table(
            pa.table(columns() if callable(columns) else columns), (folder / name).with_suffix(".parquet"), **options
        )

    return change


def packed(name: str, content: bytes, suffix: str = ".gz") -> Callable[[Path], Any]:
    return several(remove(name), write(name + suffix, content))


def of_tables(place: Workplace) -> Iterator[Attack]:
    """Text tables."""
    for name in (TABLE, TITLES):
        yield Attack(f"{name}: missing", remove(name))
        yield from (*cut_files(name, must_refuse=False), *no_files(name))
        yield Attack(f"{name}: a pickle", write(name, plain_pickle(place)), True)
        yield Attack(f"{name}: an executable", write(name, b"\x7fELF" + bytes(range(256)) * 40), True)
        yield Attack(f"{name}: zero bytes in it", edit(name, lambda old: old.replace(b"i00", b"i\0\0")))
        yield Attack(f"{name}: no UTF-8", edit(name, lambda old: old.replace(b"i00", b"\xff\xfe\xfd")))
        yield Attack(f"{name}: an open quote", edit(name, lambda old: old.replace(b"\n", b'\n"', 2)))
        yield Attack(f"{name}: one line of 60 MB", edit(name, lambda old: old + b"u,i000," + b"9" * 60_000_000))
        yield Attack(
            f"{name}: 50,000 columns", edit(name, lambda old: b"a," * 50_000 + b"b\n" + b"1," * 50_000 + b"2\n")
        )
        yield Attack(f"{name}: the header twice", edit(name, lambda old: old.split(b"\n")[0] + b"\n" + old))
        yield Attack(f"{name}: only the header", edit(name, lambda old: old.split(b"\n")[0] + b"\n"))
        yield Attack(
            f"{name}: columns of one name",
            edit(name, lambda old: b"item_id,item_id,item_id\n" + old.split(b"\n", 1)[1]),
        )
        for number in range(6):
            yield Attack(f"{name}: other bytes, {number}", edit(name, partial(with_other_bytes, seed=number)))
        plain = (place.root / "data" / name).read_bytes()
        yield Attack(f"{name}: cut .gz", packed(name, gzip_bomb(1)[:-20]), True)
        yield Attack(f"{name}: .gz that is none", packed(name, b"no gzip at all"), True)
        yield Attack(f"{name}: .gz in .gz", packed(name, gzip_bomb(1, gzip_bomb(1)[:4000])), True)
        yield Attack(f"{name}: cut .bz2", packed(name, bz2.compress(plain)[:-9], ".bz2"), True)
        yield Attack(f"{name}: cut .xz", packed(name, lzma.compress(plain)[:-9], ".xz"), True)
        yield Attack(f"{name}: .zst that is none", packed(name, b"\x28\xb5\x2f\xfd" + bytes(40), ".zst"), True)
        yield Attack(f"{name}: .json of deep lists", packed(name, b"[" * 200_000, ".json"))
        yield Attack(
            f"{name}: .jsonl of deep objects",
            several(remove(name), write(Path(name).stem + ".jsonl", b'{"a":' * 200_000)),
            True,
        )
        yield Attack(
            f"{name}: .jsonl of other kinds",
            several(remove(name), write(Path(name).stem + ".jsonl", b'{"item_id": 1}\n[1]\nnull\n"x"\n')),
            True,
        )
        yield Attack(
            f"{name}: .parquet that is none",
            several(remove(name), write(Path(name).stem + ".parquet", b"PAR1" + bytes(90) + b"PAR1")),
            True,
        )
        yield Attack(f"{name}: a tar archive", packed(name, tarred({name: plain}), ".tar.gz"))
        yield Attack(
            f"{name}: a spreadsheet",
            several(remove(name), write(Path(name).stem + ".xlsx", zipped({"xl/workbook.xml": b"<x/>"}))),
        )
    yield Attack("a table that unpacks to 1.5 GB", packed(TABLE, gzip_bomb(1500)), True)
    for what, line in {
        "a time of 400 digits": "u0,i000," + "9" * 400,
        "a time of 1e400": "u0,i000,1e400",
        "a negative time": "u0,i000,-99999999999999999999",
        "no time": "u0,i000,",
        "a time that is text": "u0,i000,yesterday",
        "no user": ",i000,1",
        "no item": "u0,,1",
        "an item that leads out": "u0,../../outside/secret,1",
        "an item that is a path": f"u0,{place.outside / 'secret.jpg'},1",
        "an item of a megabyte": "u0," + "x" * 2**20 + ",1",
        "an item with a zero byte": "u0,i\0,1",
        "too few fields": "u0",
        "too many fields": "u0,i000,1,2,3,4,5",
        "a formula": "=cmd|' /C calc'!A0,i000,1",
    }.items():
        yield Attack(f"a row with {what}", edit(TABLE, lambda old, one=line: old + f"{one}\n".encode() * 8))
    yield Attack("items twice", edit(TITLES, lambda old: old + old.split(b"\n", 1)[1]))
    yield Attack("no item of the other table", edit(TITLES, lambda old: old.replace(b"\ni", b"\nz")))
    yield Attack(
        "a user with 300,000 interactions", edit(TABLE, lambda old: old + b"u0,i000,1\nu0,i001,2\n" * 150_000)
    )


def of_parquet(place: Workplace) -> Iterator[Attack]:
    """Parquet tables of other types."""
    users, items = [f"u{n // 8}" for n in range(80)], [f"i{n % 37:03d}" for n in range(80)]
    columns: dict[str, dict[str, Any]] = {
        "ids in lists": {"user_id": users, "item_id": [[one] for one in items], "timestamp": range(80)},
        "ids in structs": {"user_id": users, "item_id": [{"a": one} for one in items], "timestamp": range(80)},
        "ids that are bytes": {"user_id": users, "item_id": [b"\xff\xfe"] * 80, "timestamp": range(80)},
        "ids that are null": {"user_id": users, "item_id": pa.nulls(80), "timestamp": range(80)},
        "ids that are floats": {"user_id": users, "item_id": [float("nan")] * 80, "timestamp": range(80)},
        "ids that are booleans": {"user_id": [True] * 80, "item_id": [False] * 80, "timestamp": range(80)},
        "times that are infinite": {"user_id": users, "item_id": items, "timestamp": [float("inf")] * 80},
        "times that are null": {"user_id": users, "item_id": items, "timestamp": pa.nulls(80)},
        "times that are texts": {"user_id": users, "item_id": items, "timestamp": ["soon"] * 80},
        "times beyond 64 bits": {"user_id": users, "item_id": items, "timestamp": [2.0**70] * 80},
        "no rows": {
            "user_id": pa.array([], "string"),
            "item_id": pa.array([], "string"),
            "timestamp": pa.array([], "int64"),
        },
        "no columns that are known": {"a": users, "b": items},
        "nested 100 deep": {"user_id": users, "item_id": _nested(100, 80), "timestamp": range(80)},
    }
    for what, table in columns.items():
        made = {name: list(values) if isinstance(values, range) else values for name, values in table.items()}
        yield Attack(f"Parquet: {what}", in_parquet(TABLE, made))

    def one_text() -> dict[str, Any]:
        zeros = pa.array(np.zeros(60_000_000, "int8"))
        same = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * 1000]))
        return {"user_id": same, "item_id": same, "timestamp": zeros}

    yield Attack("Parquet: 60 GB of one text", in_parquet(TABLE, one_text))
    whole = {"user_id": users, "item_id": items, "timestamp": list(range(80))}
    target = "shop_interactions.parquet"
    for number in range(6):
        yield Attack(
            f"Parquet: other bytes, {number}",
            several(in_parquet(TABLE, whole), edit(target, partial(with_other_bytes, seed=number))),
        )
    for attack in (*cut_files(target), *no_files(target)):
        yield Attack(attack.name, several(in_parquet(TABLE, whole), attack.make), attack.must_refuse)


def _nested(depth: int, count: int) -> pa.Array:
    kind: pa.DataType = pa.string()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.nulls(count, kind)


def of_media(place: Workplace) -> Iterator[Attack]:
    """Covers and archives."""
    buffer = io.BytesIO()
    tiny_image(0).save(buffer, "JPEG")
    cover, cover_name = buffer.getvalue(), "shop_cover/i000.jpg"
    made = {f"shop_cover/i{n:03d}.jpg": cover for n in range(5)}
    yield Attack("covers in an archive", write("shop_cover.zip", zipped(made)))
    yield Attack("an archive that is cut", write("shop_cover.zip", zipped(made)[:-30]))
    yield Attack("an archive that is none", write("shop_cover.zip", b"PK\x03\x04" + bytes(200)))
    for name in (
        "../../outside/i000.jpg",
        "/tmp/i000.jpg",
        "shop_cover/../../../outside/secret.jpg",
        "C:\\i000.jpg",
        "shop_cover/i\0.jpg",
    ):
        yield Attack(f"an archive with {name!r}", write("shop_cover.zip", zipped({name: cover, **made})))
    yield Attack(
        "an archive whose table leads out",
        several(remove(TITLES), write("shop.zip", zipped({"../../shop_items.csv": b"item_id,text_en\ni000,x\n"}))),
    )
    yield Attack(
        "a cover of 3 GB of zeros in an archive",
        write("shop_cover.zip", partial(zip_bomb, cover_name, megabytes=3000)),
    )
    yield Attack(
        "covers of 12 times 250 MB of zeros",
        write("shop_cover.zip", partial(zip_bomb, *(f"shop_cover/i{n:03d}.jpg" for n in range(12)), megabytes=250)),
    )
    yield Attack(
        "a table of 3 GB of zeros in an archive",
        several(
            remove(TITLES), write("shop.zip", partial(zip_bomb, TITLES, megabytes=3000, line=b"item_id,text_en\n"))
        ),
        True,
    )
    yield Attack("an archive in an archive", write("shop_cover.zip", zipped({"shop_cover.zip": zipped(made)})))
    yield Attack(
        "an archive of 60,000 files",
        write("shop_cover.zip", lambda: zipped({f"shop_cover/x{n}.jpg": b"" for n in range(60_000)})),
    )
    yield Attack("an encrypted archive", edit_zip_flags(zipped(made)))
    yield Attack(
        "an archive of an unknown method", write("shop_cover.zip", zipped(made).replace(b"\x08\0\0\0", b"\x63\0\0\0"))
    )
    yield Attack(
        "an archive that says it is small",
        write("shop_cover.zip", lambda: _lying(zip_bomb(cover_name, megabytes=256))),
    )
    for what, put in {
        "a pipe": lambda path: os.mkfifo(path),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a folder": lambda path: path.mkdir(),
        "a pickle": lambda path: path.write_bytes(plain_pickle(place)),
        "a text": lambda path: path.write_text(SECRET[:5]),
    }.items():
        for name in ("i000.jpg", "i001.wav"):
            folder = "shop_cover" if name.endswith("jpg") else "shop_audio"

            def make(root: Path, put=put, name=name, folder=folder) -> None:
                (root / folder).mkdir()
                put(root / folder / name)

            yield Attack(f"{name} is {what}", make)
    yield Attack(
        "a folder of covers that links to itself",
        lambda root: ((root / "shop_cover").mkdir(), (root / "shop_cover/again").symlink_to("."))[0],
    )
    yield Attack(
        "covers 200 folders deep", lambda root: (root / "shop_cover" / "/".join(["d"] * 200)).mkdir(parents=True)
    )


def edit_zip_flags(content: bytes) -> Callable[[Path], Any]:
    """Returns what writes an archive whose files say that they are encrypted."""
    changed = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = changed.find(mark)
        while start >= 0:
            changed[start + offset] |= 1
            start = changed.find(mark, start + 1)
    return write("shop_cover.zip", bytes(changed))


def _lying(content: bytes) -> bytes:
    """Returns an archive that says that its only file unpacks to 900 bytes."""
    changed = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = changed.find(mark)
        changed[start + offset : start + offset + 4] = (900).to_bytes(4, "little")
    return bytes(changed)


def of_prepared(place: Workplace) -> Iterator[Attack]:
    """Prepared data sets, as they come from the Hub."""
    exported = place.root / "exported"
    files = sorted(str(path.relative_to(exported)) for path in exported.rglob("*.parquet"))
    items = next(name for name in files if "_items/" in name)
    for name in (items, files[0]):
        short = Path(name).parent.parent.name
        for attack in (*cut_files(name), *no_files(name)):
            yield Attack(f"{short}: {attack.name.partition(': ')[2]}", attack.make, attack.must_refuse)
        for number in range(8):
            yield Attack(f"{short}: other bytes, {number}", edit(name, partial(with_other_bytes, seed=number)))
        yield Attack(f"{short}: a pickle", write(name, plain_pickle(place)), True)
    for attack in broken_json("protocol.json"):
        yield Attack(attack.name, attack.make)
    for attack in (*no_files("protocol.json"), *cut_files("protocol.json", must_refuse=False)):
        yield Attack(attack.name, attack.make)
    for value in (7, None, [], {}, "x", -1, 10**30):
        yield Attack(f"protocol: min_actions={value!r}", edit_json("protocol.json", "min_actions", value=value))
    code = f"import os\nos.system(\"touch '{place.root / 'canary'}'\")\n"
    for name in ("it.py", "exported.py", "shop.py", "__init__.py", "dataset.py"):
        yield Attack(f"code beside: {name}", write(name, code))
    outside = place.outside / "secret.csv"
    card = "---\nconfigs:\n{}---\n"
    for what, found in {
        "outside": "../../outside/*.csv",
        "absolute": str(outside),
        "an address": "https://evil.example/x.parquet",
        "a chain": f"zip://x::{outside}",
        "a local file": f"file://{outside}",
        "a pattern of all": "/**",
    }.items():
        rows = "".join(
            f"- config_name: {name}\n  data_files: {json.dumps(found)}\n" for name in ("shop", "shop_items")
        )
        yield Attack(f"card: files {what}", write("README.md", card.format(rows)))
    for what, text in {
        "no YAML": "---\n\t[\n---\n",
        "a bomb": "---\n"
        + "\n".join(
            [f"a0: &a0 [{'x,' * 9}x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
        )
        + "\n---\n",
        "an object": "---\nconfigs: !!python/object/apply:os.system ['touch "
        + str(place.root / "canary")
        + "']\n---\n",
        "configurations of numbers": "---\nconfigs: 7\n---\n",
        "features of evil": "---\ndataset_info:\n  features:\n  - name: item_id\n    dtype: evil\n---\n",
    }.items():
        yield Attack(f"card: {what}", write("README.md", text))
    yield Attack(
        "a dataset_info.json of evil",
        write("dataset_infos.json", json.dumps({"shop": {"features": {"a": {"_type": "Evil"}}}})),
    )
    columns = {"item_id": [f"i{n:03d}" for n in range(37)], "text_en": ["x"] * 37}
    for what, ids in {
        "numbers": list(range(37)),
        "null": [None] * 37,
        "lists": [["a"]] * 37,
        "one": ["i000"] * 37,
    }.items():
        yield Attack(f"items: ids are {what}", partial(_write_items, items, {**columns, "item_id": ids}))
    secret = str(place.outside / "secret.jpg")
    paths = pa.array([{"bytes": None, "path": secret}] * 37)
    yield Attack("items: images are paths", partial(_write_items, items, {**columns, "image": paths}))
    yield Attack("items: no ids", partial(_write_items, items, {"text_en": ["x"] * 37}))


def _write_items(name: str, columns: dict[str, Any], folder: Path) -> None:
    pq.write_table(pa.table(columns), folder / name)


def leaks(place: Workplace) -> Iterator[tuple[str, Callable[[Path, str], Any]]]:
    """Yields what may carry a file of this machine to the Hub; each gets a folder and the name of a repository."""
    secret = str(place.outside / "secret.jpg")
    image, rows = datasets.Image(), {"item_id": [f"i{n:03d}" for n in range(37)], "text_en": ["x"] * 37}
    columns: dict[str, tuple[list, Any]] = {
        "an image": ([secret] * 37, image),
        "a list of images": ([[secret]] * 37, datasets.List(image)),
        "a group with an image": ([{"a": secret}] * 37, {"a": image}),
        "a group with a list of images": ([{"a": [secret]}] * 37, {"a": datasets.List(image)}),
        "audio": ([{"bytes": None, "path": secret}] * 37, datasets.Audio(decode=False)),
        "a list of audio": ([[{"bytes": None, "path": secret}]] * 37, datasets.List(datasets.Audio(decode=False))),
        "a video": ([secret] * 37, datasets.Video(decode=False)),
    }
    for what, (values, feature) in columns.items():

        def items(values=values, feature=feature) -> datasets.Dataset:
            made = datasets.Dataset.from_dict({**rows, "more": values})
            return made.cast_column("more", feature)  # which needs no library that decodes

        def push_model(folder: Path, name: str, items=items) -> None:
            Recommender.from_pretrained(place.root / "first").index(items()).push_to_hub(name)

        def push_catalogue(folder: Path, name: str, items=items) -> None:
            Recommender.from_pretrained(place.root / "first").index(items()).catalogue.push_to_hub(name)

        yield f"{what} in a recommender", push_model
        yield f"{what} in a catalogue", push_catalogue
    for what, put in {
        "link": lambda path: path.symlink_to(place.outside / "secret.json"),
        "link of a folder": lambda path: path.symlink_to(place.outside),
        "copy of a pickle": lambda path: path.with_suffix(".bin").write_bytes(plain_pickle(place)),
        "key": lambda path: path.with_name(".env").write_text(f"HF_TOKEN={SECRET}"),
        "state": lambda path: path.with_name("_options.json").write_text(json.dumps({"folder": SECRET})),
    }.items():

        def push_folder(folder: Path, name: str, put=put) -> None:
            from huggingface_hub import HfApi

            from modeling_transrec.hub.publish import upload_checkpoint

            shutil.copytree(place.root / "first", folder / "it")
            put(folder / "it" / "more.json")
            HfApi().create_repo(name)
            upload_checkpoint(folder / "it", name, commit_message=None)

        yield f"a {what} in a checkpoint's folder", push_folder

        def push_data(folder: Path, name: str, put=put) -> None:
            from modeling_transrec.ninerec.tools.export import push

            shutil.copytree(place.root / "exported", folder / "it")
            put(folder / "it" / "more.json")
            push(folder / "it", name)

        yield f"a {what} in a prepared folder", push_data


def judge_leak(place: Workplace, publish: Callable[[Path, str], Any]) -> Found:
    """Publishes, and looks for the secret and for pickles in all that has arrived."""
    folder = place.fresh(is_pushed=True)
    name = f"shop/{folder.name}"
    ended = run_child(lambda: publish(folder, name), folder)

    def arrived() -> str:
        from huggingface_hub import HfApi

        found = []
        for kind in ("model", "dataset"):
            if HfApi().repo_exists(name, repo_type=kind):
                for path in HfApi().list_repo_files(name, repo_type=kind):
                    local = HfApi().hf_hub_download(name, path, repo_type=kind, cache_dir=folder / "cache")
                    found.append((path, SECRET.encode() in Path(local).read_bytes()))
        return json.dumps(found)

    looked = run_child(arrived, folder)
    shutil.rmtree(folder)
    if looked.value is None:
        return Found(TRACEBACK, f"what arrived cannot be read: {looked.error}")
    out = [path for path, has_secret in json.loads(looked.value) if has_secret or path.endswith((".bin", ".env"))]
    if out:
        return Found(HARMFUL, f"published {', '.join(out)}")
    if ended.error is not None:
        kind = REFUSED if is_sentence(ended.error, [folder.name, "more"]) else TRACEBACK
        return Found(kind, f"{ended.error['type']}: {ended.error['text'][:240]} {ended.error['trace'][-2:]}")
    return Found(HELD)


def warm(place: Workplace) -> None:
    """Writes what must not be read or published."""
    buffer = io.BytesIO()
    tiny_image(0).save(buffer, "JPEG")
    (place.outside / "secret.jpg").write_bytes(buffer.getvalue() + SECRET.encode())
    (place.outside / "i000.jpg").write_bytes(buffer.getvalue() + SECRET.encode())
    (place.outside / "secret.json").write_text(json.dumps({"user_id": SECRET}))
    (place.outside / "secret.csv").write_text(f"item_id,title\ni000,{SECRET}\n")


def cases(place: Workplace) -> Iterator[Case]:
    """Yields hostile tables, media and prepared data sets, then what is published."""
    warm(place)
    for kind, attacks in {"tables": of_tables, "Parquet": of_parquet, "media": of_media}.items():
        for attack in attacks(place):
            yield Case(f"data folder: {kind}", attack.name, partial(judge, place, "data", attack, load_tables))
    for attack in of_prepared(place):
        yield Case("data folder: prepared", attack.name, partial(judge, place, "exported", attack, load_prepared))
    for what, publish in leaks(place):
        yield Case("publishing", what, partial(judge_leak, place, publish))
