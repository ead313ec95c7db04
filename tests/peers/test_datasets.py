"""What datasets' tests/test_arrow_dataset.py, test_load.py and test_builder.py check of its data sets, of ours."""

import pickle
import subprocess
import sys

import datasets
import pytest
import torch
from datasets import ReadInstruction, concatenate_datasets, interleave_datasets, load_dataset, load_dataset_builder

import modeling_transrec  # noqa: F401  # registers ninerec


CASES = {
    "sample": ("Sample_Target", {}),
    "sample items": ("Sample_Target_items", {}),
    "tables": ("X", {"data_dir": True}),
    "tables items": ("X_items", {"data_dir": True}),
}


@pytest.fixture(scope="module", params=CASES)
def load(request, tmp_path_factory):
    name, options = CASES[request.param]
    if options:
        folder = tmp_path_factory.mktemp("tables")
        rows = [f"u{n % 30},i{n * 7 % 23},{n},{1 + n % 5}" for n in range(400)]
        (folder / "X_interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]) + "\n")
        titles = [f"i{n},Title {n}" for n in range(23)]
        (folder / "X_items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")
        options = {"data_dir": str(folder)}
    options = {"cache_dir": str(tmp_path_factory.mktemp("cache")), **options}
    return lambda function=load_dataset, **more: function("ninerec", name, **{**options, **more})


@pytest.fixture
def data(load):
    return load(split="train")


@pytest.fixture
def few(data):
    return data.select(range(15))


def same(one, other):
    assert one.features == other.features
    assert list(one.remove_columns(images(one))) == list(other.remove_columns(images(other)))


def images(data) -> list[str]:
    return [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]


def first_column(data) -> str:
    return data.column_names[0]


def test_splits(load, data):
    count = len(data)
    same(load(split="train[5:15]"), data.select(range(5, 15)))
    same(load(split="train[-3:]"), data.select(range(count - 3, count)))
    assert len(load(split=ReadInstruction("train", to=10, unit="%"))) == round(count / 10)
    assert len(load(split="all")) == sum(map(len, load().values()))
    with pytest.raises(ValueError, match="nope"):
        load(split="nope")


def test_streaming(load, data):
    stream = load(split="train", streaming=True)
    assert stream.features == data.features
    assert list(stream.remove_columns(images(data)).take(20)) == list(data.remove_columns(images(data)).take(20))
    column = first_column(data)
    shuffled = stream.shuffle(seed=0, buffer_size=10).select_columns([column])
    assert list(shuffled.take(5)) == list(shuffled.take(5))
    loader = torch.utils.data.DataLoader(
        stream.select_columns([column]).with_format("torch"), batch_size=16, num_workers=2
    )
    assert sorted(value for batch in loader for value in batch[column]) == sorted(data[column])


def test_a_stream_goes_on_from_its_state(load, data):
    stream, column = load(split="train", streaming=True), first_column(data)
    rows = iter(stream)
    for _ in range(7):
        next(rows)
    again = load(split="train", streaming=True)
    again.load_state_dict(stream.state_dict())
    assert next(iter(again))[column] == data[7][column]


@pytest.mark.parametrize("mode", ["all_checks", "basic_checks", "no_checks"])
def test_verification_modes(mode, load, data, tmp_path):
    for download in ("reuse_dataset_if_exists", "reuse_cache_if_exists", "force_redownload"):
        same(
            load(split="train", cache_dir=str(tmp_path), verification_mode=mode, download_mode=download).take(5),
            data.take(5),
        )


def test_builder(load, tmp_path):
    builder = load(load_dataset_builder, cache_dir=str(tmp_path))
    builder.download_and_prepare()
    assert builder.info.description and builder.info.dataset_size > 0
    data = builder.as_dataset()
    assert data["train"].info.splits == builder.info.splits and data["train"].features == builder.info.features
    again = load(load_dataset_builder, cache_dir=str(tmp_path))
    assert again.info.splits["train"].num_examples == len(data["train"])
    pickle.loads(pickle.dumps(builder))


@pytest.mark.parametrize("file_format", ["arrow", "parquet"])
def test_prepared_elsewhere(file_format, load, data, tmp_path):
    builder = load(load_dataset_builder, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format=file_format, max_shard_size="50KB")
    files = sorted(str(path) for path in (tmp_path / "out").rglob(f"*train*.{file_format}"))
    back = load_dataset(file_format, data_files=files, split="train", cache_dir=str(tmp_path / "other"))
    assert back[first_column(data)] == data[first_column(data)]


def test_features_are_heeded(load, data, tmp_path):
    features = data.features.copy()
    features[first_column(data)] = datasets.Value("large_string")
    assert load(split="train", features=features, cache_dir=str(tmp_path)).features == features


def test_keep_in_memory_and_processes(load, data, tmp_path):
    assert load(split="train", keep_in_memory=True).cache_files == []
    same(load(split="train", cache_dir=str(tmp_path), num_proc=2), data)


def test_the_cache_is_that_of_the_options(load, data, tmp_path):
    one, other = (load(split="train", cache_dir=str(tmp_path)) for _ in range(2))
    assert one.cache_files == other.cache_files and one._fingerprint == other._fingerprint
    shorter = load(split="train", cache_dir=str(tmp_path), max_seq_len=5)
    assert shorter.cache_files != one.cache_files


def test_two_processes_at_once(load, data, tmp_path):
    def code(_, name, **options):
        return f"import modeling_transrec, datasets; datasets.load_dataset('ninerec', {name!r}, **{options!r})"

    command = [sys.executable, "-W", "ignore", "-c", load(code, cache_dir=str(tmp_path))]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert [code for _, code in ends] == [0, 0], ends


def test_save_to_disk(load, tmp_path):
    whole = load()
    whole.save_to_disk(tmp_path / "all", num_proc=2)
    back = datasets.load_from_disk(tmp_path / "all")
    assert list(back) == list(whole) and back["train"].info.description == whole["train"].info.description
    same(back["train"], whole["train"])
    whole["train"].save_to_disk(tmp_path / "one", max_shard_size="10KB")
    same(datasets.load_from_disk(tmp_path / "one", keep_in_memory=True), whole["train"])


def test_exports(few, tmp_path):
    few.to_parquet(tmp_path / "a.parquet")
    same(datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path)), few)
    text = few.remove_columns(images(few))
    text.to_json(tmp_path / "a.jsonl")
    same(datasets.Dataset.from_json(str(tmp_path / "a.jsonl"), features=text.features, cache_dir=str(tmp_path)), text)
    assert datasets.Dataset.from_pandas(text.to_pandas()).to_list() == text.to_list()
    assert datasets.Dataset.from_polars(text.to_polars()).to_list() == text.to_list()


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "polars", "arrow"])
def test_formats(kind, few):
    formatted, column = few.with_format(kind), first_column(few)
    assert list(map(str, formatted[:3][column])) == list(map(str, few[:3][column]))
    for name, feature in few.features.items():
        if kind == "torch" and isinstance(feature, datasets.List) and feature.feature.dtype.startswith("int"):
            assert few[0][name] is None or isinstance(formatted[0][name], torch.Tensor)


def test_combinations(data):
    column = first_column(data)
    double = concatenate_datasets([data, data])
    assert double.features == data.features and double[column][:] == data[column][:] * 2
    assert interleave_datasets([data, data])[column][:4] == [data[n][column] for n in (0, 0, 1, 1)]
    assert sum(len(data.shard(4, index)) for index in range(4)) == len(data)
    parts = data.train_test_split(0.25, seed=0)
    assert sorted([*parts["train"][column], *parts["test"][column]]) == sorted(data[column])
    assert sorted(data.shuffle(seed=0)[column]) == sorted(data[column]) == data.sort(column)[column][:]
    stream = data.to_iterable_dataset(num_shards=4).select_columns([column])
    assert [row[column] for row in stream] == data[column][:]


def test_map_and_filter(data):
    column = first_column(data)
    mapped = data.map(_with_length, input_columns=column, num_proc=2)
    assert mapped["length"][:] == [len(value) for value in data[column]]
    assert (
        data.map(_with_length, input_columns=column)._fingerprint
        == data.map(_with_length, input_columns=column)._fingerprint
    )
    batched = data.map(lambda batch: {"n": [1] * len(batch[column])}, batched=True, remove_columns=data.column_names)
    assert batched["n"][:] == [1] * len(data)
    kept = data.filter(lambda value: value.endswith("3"), input_columns=column)
    assert kept[column][:] == [value for value in data[column] if value.endswith("3")]
    none = data.filter(lambda value: False, input_columns=column)
    assert len(none) == 0 and none.features == data.features


def _with_length(value: str) -> dict:
    return {"length": len(value)}
