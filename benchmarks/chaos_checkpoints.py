"""Hostile checkpoints and catalogues of `chaos.py`."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from chaos_case import Case, Workplace
from chaos_inputs import (
    SECRET,
    Attack,
    broken_json,
    cut_files,
    edit,
    edit_json,
    judge,
    no_files,
    pickled,
    plain_pickle,
    remove,
    safetensors_file,
    several,
    write,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modeling_transrec import AutoModelForSequentialRecommendation, Recommender


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TABLE = "catalogue/train-00000-of-00001.parquet"
COUNTS, SCORING = "catalogue/transitions.safetensors", "catalogue/scoring.safetensors"
VALUES: list[Any] = [-1, 0, 10**18, 10**30, "x", None, [], {}, float("nan"), True, "../outside/secret", [[1]], 0.5]
FIELDS = [
    "hidden_size num_hidden_layers num_attention_heads max_seq_len model_type architectures dtype user_encoder_type",
    "loss_type temperature text_config text_config.vocab_size text_config.hidden_size text_config.model_type",
    "text_config.num_hidden_layers text_config.max_position_embeddings text_config.hidden_act vision_config",
    "peft_config backbone_references text_pooling num_items quantization_config text_config.intermediate_size",
    "image_mean",
]
# Names under which libraries look for weights or state, or once did.
PICKLES = (
    "pytorch_model.bin model.bin adapter_model.bin model.pt training_args.bin optimizer.pt scheduler.pt rng_state.pth "
    "consolidated.00.pth model.ckpt flax_model.msgpack tf_model.h5 tokenizer.pkl catalogue/index.pkl "
    "catalogue/scoring.bin vocab.pkl"
).split()


def load_recommender(folder: Path) -> Any:
    """Loads all, recommends, and returns what may show a secret."""
    found = Recommender.from_pretrained(folder)
    best = found.recommend(["i003", "i010"], k=3) if found.item_ids else []
    secret = SECRET if any((weight == 1234.5).any() for weight in found.model.state_dict().values()) else ""
    return [*best, secret]


def load_model(folder: Path) -> Any:
    model = AutoModelForSequentialRecommendation.from_pretrained(folder)
    secret = SECRET if any((weight == 1234.5).any() for weight in model.state_dict().values()) else ""
    return [sum(one.numel() for one in model.parameters()), secret]


def of_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """Returns what changes the tensors of a checkpoint."""

    def make(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return make


def sharded(place: Workplace, index: Any, *others: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Returns what puts an index of shards in place of the weights, which then lie in `shard.safetensors`."""

    def make(folder: Path) -> None:
        names = [*load_file(folder / WEIGHTS)]
        (folder / WEIGHTS).rename(folder / "shard.safetensors")
        content = {"weight_map": dict.fromkeys(names, index)} if isinstance(index, str) else index(names)
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 9}, **content}))
        for other in others:
            other(folder)

    return make


def of_files(place: Workplace) -> Iterator[Attack]:
    """Files that are cut, no files, or of other kinds."""
    for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        optional = name == "tokenizer_config.json"
        yield Attack(f"{name}: missing", remove(name))
        yield from cut_files(name, not optional)
        yield from no_files(name) if not optional else ()
        yield from broken_json(name, not optional)
    for name in (WEIGHTS, TABLE, COUNTS, SCORING):
        yield from cut_files(name)
        yield from no_files(name)
    for name in PICKLES:
        yield Attack(f"pickle beside: {name}", pickled(place, name))
    for name in PICKLES[:6]:
        yield Attack(f"pickle alone: {name}", several(remove(WEIGHTS), pickled(place, name)), True)
    for name in (WEIGHTS, TABLE, COUNTS, SCORING, "config.json", "tokenizer.json"):
        yield Attack(f"pickle named {name}", pickled(place, name), True)
        yield Attack(f"plain pickle named {name}", write(name, plain_pickle(place)), True)


def of_weight_files(place: Workplace) -> Iterator[Attack]:
    """Weights that are fewer, others or elsewhere."""
    secret = str(place.outside / "secret.safetensors")
    for number in range(6):
        yield Attack(
            f"weights: {number} of them missing",
            of_weights(lambda all_of, n=number: {k: v for m, (k, v) in enumerate(all_of.items()) if m % 6 != n}),
            True,
        )
    yield Attack("weights: none", of_weights(lambda all_of: {}), True)
    yield Attack(
        "weights: others", of_weights(lambda all_of: {f"x.{name}": one for name, one in all_of.items()}), True
    )
    yield Attack(
        "weights: transposed", of_weights(lambda all_of: {k: v.T.contiguous() for k, v in all_of.items()}), True
    )
    yield Attack(
        "weights: of one number",
        of_weights(lambda all_of: {k: v.flatten()[:1].clone() for k, v in all_of.items()}),
        True,
    )
    yield Attack("weights: with more", of_weights(lambda all_of: {**all_of, "evil": torch.ones(3)}))
    yield Attack("weights: integers", of_weights(lambda all_of: {k: v.to(torch.int8) for k, v in all_of.items()}))
    yield Attack("weights: not numbers", of_weights(lambda all_of: {k: v * float("nan") for k, v in all_of.items()}))
    one = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    headers: dict[str, bytes] = {
        "header of 2^62 bytes": safetensors_file(b"{}", length=2**62),
        "header of -1 bytes": struct.pack("<q", -1) + b"{}",
        "header longer than the file": safetensors_file(b"{}", length=9999),
        "header that is deep": safetensors_file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        "header of 60 MB": safetensors_file(json.dumps({f"k{n}" * 20: one["a"] for n in range(500_000)}).encode()),
        "shape beyond the data": safetensors_file({"a": {**one["a"], "shape": [2**40, 2**20]}}, bytes(16)),
        "shape that overflows": safetensors_file({"a": {**one["a"], "shape": [2**63, 2**63]}}, bytes(16)),
        "negative shape": safetensors_file({"a": {**one["a"], "shape": [-2, -2]}}, bytes(16)),
        "offsets beyond the file": safetensors_file({"a": {**one["a"], "data_offsets": [0, 2**50]}}, bytes(16)),
        "overlapping tensors": safetensors_file({**one, "b": one["a"]}, bytes(16)),
        "unknown type": safetensors_file({"a": {**one["a"], "dtype": "PICKLE"}}, bytes(16)),
        "metadata of numbers": safetensors_file({"__metadata__": {"a": 1}, **one}, bytes(16)),
        "no header": bytes(16),
    }
    for name in (WEIGHTS, COUNTS, SCORING):
        for what, content in headers.items():
            yield Attack(f"{name}: {what}", write(name, content), True)
    yield Attack("shards: pickles", sharded(place, "evil.bin", pickled(place, "evil.bin")), True)
    yield Attack(
        "shards: a pickle called safetensors", sharded(place, "e.safetensors", pickled(place, "e.safetensors")), True
    )
    for what, shard in {
        "outside": "../../outside/secret.safetensors",
        "absolute": secret,
        "in a folder": "sub/shard.safetensors",
        "missing": "other.safetensors",
        "without a name": "",
        "of zero bytes": "shard\0.safetensors",
        "an address": "https://evil.example/shard.safetensors",
        "the index": INDEX,
        "of a Windows path": "..\\..\\outside\\secret.safetensors",
    }.items():
        yield Attack(f"shards: {what}", sharded(place, shard), True)
    yield Attack("shards: numbers", sharded(place, lambda names: {"weight_map": dict.fromkeys(names, 7)}), True)
    yield Attack("shards: a list", sharded(place, lambda names: {"weight_map": names}), True)
    yield Attack("shards: none", sharded(place, lambda names: {"weight_map": {}}), True)
    yield Attack("shards: no map", sharded(place, lambda names: {}), True)
    half = lambda names: {"weight_map": dict.fromkeys(names[::2], "shard.safetensors")}  # noqa: E731
    yield Attack("shards: half of the names", sharded(place, half))
    huge = {"metadata": {"total_size": 10**18}}
    yield Attack(
        "shards: of 10^18 bytes",
        sharded(place, lambda names: {"weight_map": dict.fromkeys(names, "shard.safetensors"), **huge}),
    )
    yield from (
        Attack(one.name, several(sharded(place, "shard.safetensors"), one.make), one.must_refuse)
        for one in [*broken_json(INDEX), *no_files(INDEX)]
    )


def of_configurations(place: Workplace) -> Iterator[Attack]:
    """Fields of the configuration and the processor with values of other kinds, names of files and of code."""
    rng = np.random.default_rng(0)
    for field in " ".join(FIELDS).split():
        for number in rng.choice(len(VALUES), 5, replace=False):
            value = VALUES[number]
            yield Attack(f"config.json: {field}={value!r}", edit_json("config.json", *field.split("."), value=value))
    for field in "item_ids user_ids language max_text_length modality item_prefix do_lower_case".split():
        for value in (7, "x", None, [None], {"a": 1}, 10**18, ["a", "a"]):
            yield Attack(
                f"processor_config.json: {field}={value!r}", edit_json("processor_config.json", field, value=value)
            )
    code = f"import os\nos.system(\"touch '{place.root / 'canary'}'\")\n"
    names = {
        "config.json": {
            "auto_map": {
                "AutoConfig": "evil.Evil",
                "AutoModel": "evil.Evil",
                "AutoModelForSequentialRecommendation": "evil.Evil",
            }
        },
        "processor_config.json": {"auto_map": {"AutoProcessor": "evil.Evil"}, "processor_class": "Evil"},
        "tokenizer_config.json": {
            "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
            "tokenizer_class": "Evil",
        },
    }
    for name, fields in names.items():
        for key, value in fields.items():
            yield Attack(
                f"{name}: {key} names code", several(write("evil.py", code), edit_json(name, key, value=value))
            )
    for name in ("__init__.py", "modeling_transrec.py", "torch.py", "sitecustomize.py", "config.py", "handler.py"):
        yield Attack(f"code beside: {name}", write(name, code))
    jinja = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    yield Attack(
        "chat template with code",
        several(write("chat_template.jinja", jinja), edit_json("tokenizer_config.json", "chat_template", value=jinja)),
    )
    secret = str(place.outside / "secret.safetensors")
    timm = {"model_type": "timm_wrapper", "architecture": "convnext_atto", "model_args": {"checkpoint_path": secret}}
    parts: dict[str, dict[str, Any]] = {
        "timm reads a file": {"vision_config": timm},
        "timm reads an address": {"vision_config": {**timm, "architecture": "local-dir:" + str(place.outside)}},
        "timm overlays": {"vision_config": {**timm, "model_args": {"pretrained_cfg_overlay": {"file": secret}}}},
        "transformers_weights": {"transformers_weights": "../../outside/secret.safetensors"},
        "transformers_weights, absolute": {"transformers_weights": secret},
        "transformers_weights, a pickle": {"transformers_weights": "adapter_model.bin"},
        "name of a folder": {
            "_name_or_path": str(place.outside),
            "text_config": {"model_type": "bert", "_name_or_path": str(place.outside)},
        },
        "a backbone by path": {
            "backbone_references": {"text": {"name": str(place.outside), "revision": "0" * 40, "sha256": "0" * 64}}
        },
        "a backbone by a branch": {
            "backbone_references": {"text": {"name": "shop/x", "revision": "main", "sha256": "0" * 64}}
        },
        "a backbone that is not there": {
            "backbone_references": {"text": {"name": "shop/x", "revision": "0" * 40, "sha256": "0" * 64}}
        },
        "adapters of a huge rank": {"peft_config": {"peft_type": "LORA", "r": 10**9, "target_modules": ["query"]}},
        "adapters of an unknown kind": {"peft_config": {"peft_type": "EVIL", "r": 2}},
        "adapters of no kind": {"peft_config": {"r": 2}},
        "adapters with a pattern": {
            "peft_config": {"peft_type": "LORA", "r": 2, "target_modules": "(a+)+$" + "a" * 40}
        },
        "a kernel of the Hub": {"_attn_implementation": "evil/kernel"},
        "a kernel of the Hub in a backbone": {"attn_implementation": {"text_config": "evil/kernel"}},
        "wide and deep": {"hidden_size": 2**20, "num_hidden_layers": 1000},
        "long histories": {"max_seq_len": 2**30},
        "a large vocabulary": {"text_config": {"model_type": "bert", "vocab_size": 2**30}},
        "many items": {"num_items": 2**30},
        "an image of 2^15": {"vision_config": {"model_type": "vit", "image_size": 2**15, "patch_size": 1}},
        "a backbone in a backbone": {
            "text_config": {"model_type": "transrec", "text_config": {"model_type": "transrec"}}
        },
        "code of the Hub": {"text_config": {"model_type": "bert", "auto_map": {"AutoModel": "evil/x--evil.Evil"}}},
        "quantised": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantised by an unknown way": {"quantization_config": {"quant_method": "evil"}},
    }
    for what, fields in parts.items():
        changes = [edit_json("config.json", key, value=value) for key, value in fields.items()]
        refused = what not in ("name of a folder", "code of the Hub", "quantised by an unknown way")
        yield Attack(f"config.json: {what}", several(pickled(place, "adapter_model.bin"), *changes), refused)


def of_table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Returns what changes the table of a catalogue."""

    def make(folder: Path) -> None:
        pq.write_table(change(pq.read_table(folder / TABLE)), folder / TABLE)

    return make


def with_column(name: str, values: Any) -> Callable[[Path], None]:
    def change(table: pa.Table) -> pa.Table:
        made = values(table) if callable(values) else values
        return table.set_column(
            table.column_names.index(name), name, made if isinstance(made, pa.Array) else pa.array(made)
        )

    return of_table(change)


def with_metadata(**metadata: str | bytes) -> Callable[[Path], None]:
    return of_table(lambda table: table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata}))


def of_tensors(name: str, change: Callable[[dict, dict], tuple[dict, dict]]) -> Callable[[Path], None]:
    """Returns what changes the tensors or the metadata of a file of a catalogue."""

    def make(folder: Path) -> None:
        with safe_open(folder / name, "pt") as opened:
            tensors, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
        tensors, metadata = change(tensors, dict(metadata or {}))
        save_file(tensors, folder / name, metadata=metadata)

    return make


def of_catalogues(place: Workplace) -> Iterator[Attack]:
    """Tables, means, counts and settings of a catalogue that say something else than what was saved."""

    def vectors(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
        return with_column("vector", lambda table: pa.array(change(np.array(table["vector"].to_pylist(), "float32"))))

    rows = lambda table: len(table)  # noqa: E731
    ids = {
        "null": lambda table: [None] * rows(table),
        "one null": lambda table: [None, *table["item_id"].to_pylist()[1:]],
        "numbers": lambda table: pa.array(range(rows(table))),
        "bytes": lambda table: pa.array([b"\xff\xfe%d" % n for n in range(rows(table))]),
        "twice": lambda table: ["same"] * rows(table),
        "lists": lambda table: [[f"i{n}"] for n in range(rows(table))],
        "structs": lambda table: [{"path": str(place.outside / "secret.json")}] * rows(table),
        "of a megabyte": lambda table: ["x" * 2**20 + str(n) for n in range(rows(table))],
    }
    for what, values in ids.items():
        yield Attack(f"ids: {what}", with_column("item_id", values), what != "of a megabyte")
    listed = {
        "narrower": lambda found: found[:, :-1].tolist(),
        "wider": lambda found: np.hstack([found, found]).tolist(),
        "of any width": lambda found: [row[: 1 + n % 5].tolist() for n, row in enumerate(found)],
        "not numbers": lambda found: (found * np.nan).tolist(),
        "infinite": lambda found: (found + np.inf).tolist(),
        "texts": lambda found: [["x"] * found.shape[1]] * len(found),
        "null": lambda found: [None] * len(found),
        "of nulls": lambda found: [[None] * found.shape[1]] * len(found),
        "numbers": lambda found: found[:, 0].tolist(),
        "integers": lambda found: np.round(found * 100).astype(int).tolist(),
        "booleans": lambda found: (found > 0).tolist(),
        "nested": lambda found: [[[float(one)] for one in row] for row in found],
        "empty": lambda found: [[]] * len(found),
        "of 1e38": lambda found: np.full_like(found, 3e38).tolist(),
    }
    for what, change in listed.items():
        yield Attack(f"vectors: {what}", vectors(change), what not in ("integers", "of 1e38"))
    for column in ("item_id", "vector", "checkpoint"):
        yield Attack(f"no column {column}", of_table(lambda table, c=column: table.drop_columns([c])), True)
        yield Attack(f"two columns {column}", of_table(lambda table, c=column: table.append_column(c, table[c])), True)
    yield Attack("no rows", of_table(lambda table: table.slice(0, 0)), True)
    yield Attack("checkpoint: another", with_column("checkpoint", lambda table: ["0" * 64] * rows(table)), True)
    yield Attack("checkpoint: null", with_column("checkpoint", lambda table: pa.nulls(rows(table), pa.string())), True)
    yield Attack("checkpoint: numbers", with_column("checkpoint", lambda table: pa.array(range(rows(table)))), True)
    for what, value in {
        "no hex": "no hex",
        "odd": "abc",
        "too short": "00" * 4,
        "too long": "00" * 4000,
        "empty": "",
        "bytes": b"\xff\xfe",
        "not numbers": "ffffffff" * 16,
    }.items():
        yield Attack(f"user_mean: {what}", with_metadata(user_mean=value, item_mean="00" * 64), True)
    yield Attack("user_mean alone", with_metadata(user_mean="00" * 64))
    for what, features in {
        "of evil": {"info": {"features": {"item_id": {"_type": "Evil"}}}},
        "no JSON": "no JSON",
        "an image": {"info": {"features": {"item_id": {"_type": "Image"}, "vector": {"_type": "Audio"}}}},
        "null": None,
        "deep": "[" * 50_000,
    }.items():
        text = features if isinstance(features, str) else json.dumps(features)
        yield Attack(f"features of datasets: {what}", with_metadata(huggingface=text))

    def of_texts(folder: Path) -> None:
        bomb = pa.table({"item_id": [f"i{n}" for n in range(100)], "text_en": ["x" * 2**24] * 100})
        pq.write_table(bomb, folder / TABLE, compression="zstd", use_dictionary=False)

    def of_zeros(folder: Path) -> None:
        many = pa.table({"vector": pa.array(np.zeros(400_000_000, "int8"))})
        pq.write_table(many, folder / TABLE, compression="zstd")

    yield Attack("a table that unpacks to 1.7 GB", of_texts, True)
    yield Attack("400 million rows of zeros", of_zeros, True)
    for number in range(12):
        yield Attack(f"table: other bytes, {number}", edit(TABLE, partial(with_other_bytes, seed=number)))
    for name in (COUNTS, SCORING):
        yield Attack(f"{name}: no metadata", of_tensors(name, lambda tensors, metadata: (tensors, {})), True)
        yield Attack(f"{name}: no tensors", of_tensors(name, lambda tensors, metadata: ({}, metadata)), name == COUNTS)
        for what, text in {
            "no JSON": "no JSON",
            "a list": "[]",
            "null": "null",
            "nothing": "{}",
            "deep": "[" * 50_000,
            "texts": '{"transition_weight": "x", "content": "x"}',
            "not a number": '{"transition_weight": NaN}',
        }.items():
            yield Attack(
                f"{name}: metadata {what}",
                of_tensors(name, lambda tensors, metadata, t=text: (tensors, dict.fromkeys(metadata, t))),
                what != "not a number",
            )
        for what, change in {
            "negative": lambda one: -one - 1 if one.dtype != torch.uint8 else one,
            "huge": lambda one: torch.full_like(one, 2**30 if one.dtype != torch.uint8 else 255),
            "cut": lambda one: one[: len(one) // 2].clone() if one.ndim else one,
            "of floats": lambda one: one.float() + 0.5,
            "not numbers": lambda one: one.float() * float("nan"),
            "of two dimensions": lambda one: one.reshape(1, -1).contiguous(),
        }.items():
            yield Attack(
                f"{name}: tensors {what}",
                of_tensors(
                    name, lambda tensors, metadata, c=change: ({key: c(one) for key, one in tensors.items()}, metadata)
                ),
            )


def with_other_bytes(content: bytes, seed: int) -> bytes:
    """Returns a content of which some bytes are others."""
    rng, changed = np.random.default_rng(seed), bytearray(content)
    for place in rng.integers(0, len(changed), 1 + seed % 7):
        changed[place] = rng.integers(256)
    return bytes(changed)


def write_secrets(place: Workplace) -> None:
    """Puts files outside, which no input may reach."""
    outside = place.outside
    weights = load_file(place.root / "second" / WEIGHTS)
    save_file(
        {name: torch.full_like(one, 1234.5) for name, one in weights.items()},
        outside / "secret.safetensors",
        metadata={"format": "pt"},
    )
    (outside / "secret.json").write_text(json.dumps({"user_id": SECRET}))
    (outside / "secret.csv").write_text(f"item_id,title\ni000,{SECRET}\n")
    (outside / "config.json").write_text((place.root / "second/config.json").read_text())


def cases(place: Workplace) -> Iterator[Case]:
    """Yields hostile checkpoints, then hostile catalogues."""
    write_secrets(place)
    kinds = {
        "checkpoint: files": of_files,
        "checkpoint: weights": of_weight_files,
        "checkpoint: configuration": of_configurations,
        "catalogue": of_catalogues,
    }
    for kind, attacks in kinds.items():
        for attack in attacks(place):
            yield Case(kind, attack.name, partial(judge, place, "second", attack, load_recommender))
    for attack in (one for one in of_weight_files(place) if not one.name.startswith("catalogue/")):
        yield Case(
            "checkpoint: weights, by AutoModel", attack.name, partial(judge, place, "second", attack, load_model)
        )
