"""What transformers' tests/test_pipeline_mixin.py checks of its pipelines' inputs, of "sequential-recommendation"."""

import datasets
import pytest
import torch
from transformers import Pipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_transrec import Recommender, TransRecForSequentialRecommendation, TransRecProcessor


TASK = "sequential-recommendation"
HISTORIES = [["i001", "i002"], ["i004"], ["i009", "i003", "i020"], ["i011", "i012"]]


@pytest.fixture(scope="module")
def folder(make_model, text_processor, items, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("shop"))
    Recommender(make_model("text"), text_processor).index(items).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, model=folder)


@pytest.fixture(scope="module")
def expected(pipe):
    return [ids(pipe(history, k=3)) for history in HISTORIES]


def ids(found: list[dict]) -> list[str]:
    return [one["item_id"] for one in found]


def test_one(pipe):
    assert isinstance(pipe, Pipeline)
    assert [set(one) >= {"item_id", "score"} for one in pipe(HISTORIES[0], k=3)] == [True] * 3
    assert pipe({"history": HISTORIES[0]}, k=2) == pipe(HISTORIES[0], k=2)


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 3}])
def test_batches(options, pipe, expected):
    rows = datasets.Dataset.from_dict({"h": HISTORIES})
    for inputs in (HISTORIES, (one for one in HISTORIES), iter(HISTORIES), KeyDataset(rows, "h"), Rows()):
        assert [ids(found) for found in pipe(inputs, k=3, **options)] == expected


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(HISTORIES)

    def __getitem__(self, index):
        return HISTORIES[index]


def test_workers(pipe, expected):
    assert [ids(found) for found in pipe(Rows(), k=3, num_workers=2)] == expected


@pytest.mark.parametrize("options", [{"k": 2}, {"batch_size": 2}, {"device": "cpu"}, {"device_map": "auto"}], ids=str)
def test_options_of_the_constructor(options, folder, expected):
    found = pipeline(TASK, model=folder, **options)(HISTORIES[0])
    assert ids(found)[:2] == expected[0][:2] and ("k" not in options or len(found) == 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes(dtype, folder, items):
    assert pipeline(TASK, model=folder, dtype=dtype, items=items)(HISTORIES[0], k=1)


def test_from_parts(folder, expected):
    model = TransRecForSequentialRecommendation.from_pretrained(folder)
    pipe = pipeline(TASK, model=model, processor=TransRecProcessor.from_pretrained(folder))
    assert ids(pipe(HISTORIES[0], k=3)) == expected[0]


def test_save_pretrained(pipe, expected, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert ids(pipeline(TASK, model=str(tmp_path))(HISTORIES[0], k=3)) == expected[0]


@pytest.mark.parametrize("history, options", [(["nothing"], {}), ([], {}), (HISTORIES[0], {"nonsense": 1})], ids=str)
def test_what_is_refused(history, options, pipe):
    with pytest.raises((TypeError, ValueError)):
        pipe(history, **options)


def test_many_calls(pipe, expected):
    assert [ids(pipe(HISTORIES[0], k=3)) for _ in range(12)] == [expected[0]] * 12
