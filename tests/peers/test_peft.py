"""peft's tests of custom models: its adapters on a model of texts, LoRA on other items and user encoders."""

import importlib
import os
import sys
import types
from unittest.mock import MagicMock, patch

import peft
import pytest
import torch

from modeling_transrec import TransRecForSequentialRecommendation

from .tester import ITEMS, TransRecModelTester


with patch.dict(sys.modules, diffusers=MagicMock()):  # of which other tests need something
    theirs = importlib.import_module("peft_tests.test_custom_models")

ARGUMENTS = "test_name, model_id, config_cls, config_kwargs"
# neither queries nor keys: their gradients are smaller than what the tests tell from zero
BACKBONE, USERS = ["value", "intermediate.dense"], ["up", "down"]
ADAPTERS = [
    ("LoRA backbone", peft.LoraConfig, {"target_modules": BACKBONE, "exclude_modules": ".*user_encoder.*"}),
    ("LoRA both encoders", peft.LoraConfig, {"target_modules": BACKBONE}),
    ("LoRA user encoder", peft.LoraConfig, {"target_modules": USERS}),
    ("LoRA projection", peft.LoraConfig, {"target_modules": BACKBONE, "modules_to_save": ["projection"]}),
    ("LoRA embeddings", peft.LoraConfig, {"target_modules": ["word_embeddings"]}),
    ("DoRA", peft.LoraConfig, {"target_modules": BACKBONE, "use_dora": True}),
    ("rsLoRA", peft.LoraConfig, {"target_modules": USERS, "use_rslora": True}),
    ("IA3", peft.IA3Config, {"target_modules": USERS, "feedforward_modules": []}),
    ("IA3 feed-forward", peft.IA3Config, {"target_modules": USERS, "feedforward_modules": USERS}),
    ("LoHa", peft.LoHaConfig, {"target_modules": USERS}),
    ("LoKr", peft.LoKrConfig, {"target_modules": USERS}),
    ("HRA", peft.HRAConfig, {"target_modules": USERS}),
    ("LN tuning", peft.LNTuningConfig, {"target_modules": ["layer_norm", "attention_norm"]}),
    ("VeRA", peft.VeraConfig, {"target_modules": r".*user_encoder.*(query|key|value)"}),
    ("MiSS", peft.MissConfig, {"target_modules": USERS, "r": 2}),
    ("tokens", peft.TrainableTokensConfig, {"target_modules": ["word_embeddings"], "token_indices": [5, 6, 7]}),
]
WITHOUT_QUERIES = {"target_modules": "all-linear", "exclude_modules": r".*(query|key|[qk]_proj)"}
LORA = [("LoRA all linear", peft.LoraConfig, WITHOUT_QUERIES)]
USER_ENCODERS = ("bert4rec", "ligr", "gru4rec")


class Scores(TransRecForSequentialRecommendation):
    """Returns the scores alone, as peft's models do, of the size that its tolerances of 1e-6 are for."""

    @property
    def dtype(self) -> torch.dtype:
        return super().dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        """Takes what the tests set on models that do not know their own."""

    def forward(self, *args, **kwargs) -> torch.Tensor:
        return super().forward(*args, **kwargs).logits / 10


def loader(tester: TransRecModelTester) -> type:
    """Returns what the tests call as they would a class of transformers: its models are of the tester's kind."""

    class Loader:
        @staticmethod
        def from_pretrained(name, dtype=torch.float32):
            if os.path.isdir(name):
                return Scores.from_pretrained(name, dtype=dtype)
            torch.manual_seed(0)
            model = Scores(tester.get_config()).to(dtype)
            model.config._name_or_path = model.name_or_path = name
            return model

    return Loader


def with_cases(test, cases):
    """Copies a test of peft's, with other cases."""
    copy = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    ours = pytest.mark.parametrize(ARGUMENTS, cases, ids=[case[0] for case in cases]).mark
    copy.pytestmark = [ours if mark.args[0] == ARGUMENTS else mark for mark in test.pytestmark]
    return copy


TESTS = {
    name: test
    for name, test in vars(theirs.TestPeftCustomModel).items()
    if any(mark.args and mark.args[0] == ARGUMENTS for mark in getattr(test, "pytestmark", ()))
}
for items, user_encoder in [*((kind, "sasrec") for kind in ITEMS), *(("text", name) for name in USER_ENCODERS)]:
    adapters = ADAPTERS if (items, user_encoder) == ("text", "sasrec") else LORA
    tester = TransRecModelTester(None, items, user_encoder)
    found = [(name, "TransRec", kind, options) for name, kind, options in adapters]
    fields = {name: with_cases(test, found) for name, test in TESTS.items()}
    fields["transformers_class"] = loader(tester)
    fields["prepare_inputs_for_testing"] = lambda self, tester=tester: tester.inputs(tester.get_config())
    name = f"Test_{items.replace('+', '_')}_{user_encoder}"
    globals()[name] = type(name, (theirs.PeftCommonTester,), {**fields, "__module__": __name__})
