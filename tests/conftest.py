"""Fixtures of all tests: tiny data and models, the scripts, the tests' own Hub."""

import functools
import importlib
import socket
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor

from modeling_transrec import (
    TransRecConfig,
    TransRecDataCollator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    train_tokenizer,
)
from modeling_transrec.data.loading import count_interactions, index_histories
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.models.user_encoders import USER_ENCODERS
from modeling_transrec.training.splits import keep_teaching

from . import HUB_PORT
from .browser import headless_chromium
from .environments import build, make_environment
from .hub_server import HubServer
from .tiny import (
    IMAGE_SIZE,
    ITEM_KINDS,
    NUM_ITEMS,
    NUM_USERS,
    SAMPLING_RATE,
    WORDS,
    make_sequences,
    sound_file,
    tiny_config,
    tiny_image,
    tiny_sound,
    with_times,
)


EXAMPLES = Path(__file__).parents[1] / "examples"

datasets.disable_progress_bars()


def pytest_collection_modifyitems(items):
    """Marks what talks to the tests' own Hub, and skips what needs a GPU where there is none."""
    for item in items:
        if "hub" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.hub)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def no_bfloat16():
    """Content kNN computes at bfloat16 on a processor that is fast at it; tests do the same on all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            patch.setattr(torch.cpu, name, lambda: False)
        yield


@pytest.fixture(scope="session")
def items() -> datasets.Dataset:
    """37 items; texts of 1 to 9 words, one of them empty; every fourth without an image, every fifth without audio."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=1 + row % 9)) + f" no{row}" for row in range(NUM_ITEMS)]
    texts[5] = ""
    images = [None if row % 4 == 1 else tiny_image(row) for row in range(NUM_ITEMS)]
    ids = [f"i{row:03d}" for row in range(NUM_ITEMS)]
    sounds = [
        None if row % 5 == 2 else {"bytes": sound_file(tiny_sound(row)), "path": None} for row in range(NUM_ITEMS)
    ]
    columns = {"item_id": ids, "text_en": texts, "text_zh": texts[::-1], "image": images, "audio": sounds}
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    return made.cast_column("audio", datasets.Audio(decode=False))


@pytest.fixture(scope="session")
def train_split(items):
    return make_sequences(items, NUM_USERS, "train")


@pytest.fixture(scope="session")
def validation_split(items):
    return make_sequences(items, NUM_USERS, "validation")


@pytest.fixture(scope="session")
def tokenizer(items):
    return train_tokenizer((text for text in items["text_en"] if text), vocab_size=120)


@pytest.fixture(scope="session")
def text_processor(tokenizer):
    return TransRecProcessor(tokenizer)


@pytest.fixture(scope="session")
def id_processor(items):
    return TransRecProcessor(item_ids=list(items["item_id"]))


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A factory of tiny random models in evaluation mode: `make_model("text", loss_type="bce")`."""

    def make(kind: str, **fields) -> TransRecForSequentialRecommendation:
        torch.manual_seed(0)
        if USER_ENCODERS[fields.get("user_encoder_type", "sasrec")].reads_user_ids:
            fields["num_users"] = NUM_USERS
        return TransRecForSequentialRecommendation(tiny_config(kind, tokenizer, **fields)).eval()

    return make


@pytest.fixture(scope="session")
def image_processor():
    return ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


@pytest.fixture(scope="session")
def feature_extractor():
    return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, return_attention_mask=True)


@pytest.fixture(scope="session")
def processor_of(tokenizer, image_processor, feature_extractor, items):
    """The processor of each of `ITEM_KINDS`."""
    parts = {
        "text": {"tokenizer": tokenizer},
        "image": {"image_processor": image_processor},
        "audio": {"feature_extractor": feature_extractor, "max_audio_seconds": 0.25},
        "id": {"item_ids": list(items["item_id"])},
    }
    kinds = {kind: "text+image" if kind in ("clip", "vilt") else kind for kind in ITEM_KINDS}
    return {
        kind: TransRecProcessor(**{name: part for one in kinds[kind].split("+") for name, part in parts[one].items()})
        for kind in ITEM_KINDS
    }


@pytest.fixture(scope="session")
def prepared_items(items, processor_of):
    """The items as each kind's processor prepares them."""
    return {kind: prepare_items(items, processor) for kind, processor in processor_of.items()}


@pytest.fixture(scope="session")
def histories(items, train_split):
    return keep_teaching(index_histories(train_split, items["item_id"]))


@pytest.fixture
def make_collator(items, histories, processor_of, prepared_items, train_split):
    """A factory of collators: of a model, or `make_collator("id", loss_type="bce")` of an id model's configuration."""

    def make(kind: str = "id", model=None, seed: int = 0, **fields) -> TransRecDataCollator:
        config = TransRecConfig(num_items=NUM_ITEMS, **fields) if model is None else model.config
        user_index = np.arange(NUM_USERS) if config.num_users is not None else None
        counts = count_interactions(histories, len(items))
        options = {"user_index": user_index, "seed": seed, "histories": histories}
        options["sequences"] = with_times(train_split) if config.reads_timestamps else None
        return TransRecDataCollator(config, prepared_items[kind], processor_of[kind], counts, **options)

    return make


@pytest.fixture
def hub(monkeypatch):
    """The tests' own Hub, in place of the offline mode, and a token that may write."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with HubServer(port=HUB_PORT) as server:
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def script(monkeypatch):
    """Imports a script as `python examples/NAME.py` would find it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture(scope="session")
def dist(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel that was built from the sdist."""
    return build(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def environment(dist, tmp_path_factory):
    """Makes a clean environment for a requirement of our wheel, once: the folder of its programs."""
    (wheel,) = dist.glob("*.whl")

    @functools.cache
    def make(requirement: str) -> Path:
        return make_environment(tmp_path_factory.mktemp("environment") / "venv", wheel, requirement)

    return make


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    with headless_chromium() as found:
        yield found


@pytest.fixture(scope="session")
def free_port():
    """Finds a port that nothing listens on."""

    def find() -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return one.getsockname()[1]

    return find
