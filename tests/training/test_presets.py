"""Presets: `--preset NAME` stands for the options that its source says."""

import hashlib
import json

import pytest

from modeling_transrec import DataArguments, ModelArguments, TransRecConfig, TransRecTrainingArguments
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.training.presets import PRESETS, load_preset
from modeling_transrec.training.system_presets import SYSTEM_PRESETS


TYPES = (ModelArguments, DataArguments, TransRecTrainingArguments)
RECIPE = {
    "decay_norms_and_biases": True,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,
    "num_train_epochs": 120,
    "early_stopping_patience": 30,
    "initialization": "ninerec",
}
OF_BACKBONES = {"projection_like_backbone": True, "image_preprocessing": "ninerec"}
PAPER = {
    **RECIPE,
    "weight_decay": 0.1,
    "user_encoder_type": "sasrec",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.1,
    "max_seq_len": 20,
    "loss_type": "bce",
    "num_negatives": 1,
    "per_device_train_batch_size": 64,
}
ROWS = {
    "bili_food-bert": {
        **PAPER,
        "dataset_config_name": "Bili_Food",
        "language": "zh",
        "text_model_name_or_path": "hfl/chinese-bert-wwm",
        "learning_rate": 1e-5,
        "backbone_learning_rate": 1e-5,
        "backbone_weight_decay": 0.1,
        "projection_like_backbone": True,
        "hidden_size": 1024,
    },
    "qb-swin-tiny": {
        **PAPER,
        "dataset_config_name": "QB",
        "vision_model_name_or_path": "microsoft/swin-tiny-patch4-window7-224",
        "learning_rate": 5e-5,
        "backbone_learning_rate": 5e-5,
        "backbone_weight_decay": 0.0,
        **OF_BACKBONES,
        "hidden_size": 1024,
    },
    "tn-id": {
        **PAPER,
        "dataset_config_name": "TN",
        "modality": "id",
        "learning_rate": 5e-5,
        "hidden_size": 512,
        "per_device_train_batch_size": 128,
    },
}


def parse(*args, output_dir):
    return parse_arguments(TYPES, [*args, "--output_dir", str(output_dir), "--use_cpu", "true"], None, True)


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_papers_table(name):
    assert load_preset(name) == ROWS[name]


def test_no_number_of_the_paper_has_changed():
    """The hash of what the run files said that these presets were written down in first, without the recipe."""
    recipe = {**RECIPE, **OF_BACKBONES}
    others = [name for name in PRESETS if name.startswith(("recommended", "bsarec")) or name in SYSTEM_PRESETS]
    of_paper = {
        name: {option: value for option, value in options.items() if recipe.get(option) != value}
        for name, options in PRESETS.items()
        if name not in others
    }
    found = hashlib.sha256(json.dumps(of_paper, sort_keys=True).encode()).hexdigest()
    assert len(of_paper) == 70 and found == "46cb46d7e451e3ea0d3e1095a2f7a55216a8b11f1bbee10926978a9054416123"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_fits_the_commands(name, tmp_path):
    model, data, training = parse("--preset", name, output_dir=tmp_path)
    given = {**vars(model), **vars(data), **vars(training)}
    assert {option: given[option] for option in PRESETS[name]} == PRESETS[name]
    num_items = 5 if "id" in model.modality.split("+") else None
    content = {} if model.modality == "id" else {"text_config": {"model_type": "bert"}}
    TransRecConfig(num_items=num_items, **content, **model.config_fields())


def test_named_checkpoints_have_presets():
    for encoder in ("sasrec", "bert4rec", "nextitnet", "gru4rec", "dnn"):
        for backbone, option in (("bert", "text_model_name_or_path"), ("swinb", "vision_model_name_or_path")):
            preset = load_preset(f"{encoder}-{backbone}-bili2m")
            assert preset["dataset_config_name"] == "Bili_2M" and preset["user_encoder_type"] == encoder
            assert option in preset and preset["seed"] == 42 and preset["num_train_epochs"] == 30


def test_the_command_line_comes_before_the_preset(tmp_path, caplog):
    common = ["--preset", "bili_food-bert"]
    model, data, training = parse(*common, "--hidden_size", "64", "--learning_rate", "0.5", output_dir=tmp_path)
    assert (model.hidden_size, training.learning_rate, training.backbone_learning_rate) == (64, 0.5, 1e-5)
    assert data.dataset_config_name == "Bili_Food" and model.language == "zh"
    model, _, training = parse(*common, "--model_name_or_path", "outputs/pretrained", output_dir=tmp_path)
    assert model.text_model_name_or_path is None and model.hidden_size is None and model.loss_type == "bce"
    assert "The checkpoint decides on user_encoder_type" in caplog.text and "text_model_name_or_path" in caplog.text


def test_a_file_of_options(tmp_path):
    (tmp_path / "mine.json").write_text('{"options": {"modality": "id", "seed": 7}}')
    model, _, training = parse("--preset", str(tmp_path / "mine.json"), output_dir=tmp_path)
    assert (model.modality, training.seed) == ("id", 7)
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(ValueError, match='its options under "options"'):
        load_preset(str(tmp_path / "mine.json"))


def test_a_misspelt_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean bili_food-bert"):
        load_preset("bili_fod-bert")
    with pytest.raises(ValueError, match="there is no such file"):
        load_preset("nothing.json")
