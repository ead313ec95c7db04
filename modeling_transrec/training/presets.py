"""Named options: `--preset bili_food-bert` gives the hyper-parameters that the paper found best for that data set.

Sources of the numbers:

- `DATASET-BACKBONE` (`bili_food-bert`, `ku-swin-tiny`, `qb-id`, …): NineRec, arXiv 2309.07705, Table 12 (best
  hyper-parameters with SASRec as user encoder) and Table 11 (backbones); published 2024-05 (TPAMI), written down
  2026-11. They were not run here: the data are not ours to have and the size is the paper's. All else is as in the
  authors' public code (NineRec, commit ce5ae9d): a constant learning rate without warm-up or clipping, at most 120
  epochs and an end after 30 without a better one, weight decay of norms and biases, too, the backbone's rate and decay
  for the map behind it, their start of new weights, images as they prepare them. Three things are not: their runs with
  text freeze the first 100 parameters of BERT, by their number (docs: training); their Swin-base is that of
  ImageNet-22k; the dropout of frozen layers stays on. The `recommended-…` presets differ: softmax over many items,
  clipped gradients, no decay, fewer epochs.
- `ENCODER-BACKBONE-bili2m` (`sasrec-bert-bili2m`, …): the same rows of Bili_2M for pretraining with each user encoder;
  epochs, patience and seed are ours, 2026-11; not run. The paper has no table for user encoders other than SASRec,
  whose values stand for theirs.
- `recommended-id`: width and depth of the best published SASRec on Amazon_Beauty (README of arXiv 2508.06450), with
  the batch's items as negatives (logQ-corrected) and dropout on item embeddings. Run 2026-11 on Amazon_Beauty:
  `benchmarks/results/beauty_content.md`.
- `recommended-text`, `recommended-image`: a frozen backbone that is named by `--text_model_name_or_path` or
  `--vision_model_name_or_path`, and a model that starts as content kNN; it transfers. `recommended-text-id`: an id
  table beside the text, for a catalogue that is known and warm. Run 2026-11, with all-MiniLM-L6-v2:
  `benchmarks/results/transfer.md`. The transitions of the platform are added to their scores.
- `bsarec-id`: the options of BSARec's authors for Amazon_Beauty (arXiv 2312.10325 and its code), with ids. Their batch
  is of 256 prefixes, which about 40 users have; epochs and patience are their limits. Run 2026-11 at a small budget:
  `benchmarks/results/family.md`.
- Those of other published systems: [`~training.system_presets`].
"""

import difflib
import json
from pathlib import Path
from typing import Any, NamedTuple

from .system_presets import SYSTEM_PRESETS


Options = dict[str, Any]


class _Row(NamedTuple):
    """A data set's row of Table 12."""

    id_learning_rate: float
    id_hidden_size: int
    id_batch_size: int
    text_learning_rate: float  # of all but BERT
    bert_learning_rate: float
    image_backbones: tuple[str, ...]


_SWIN = ("swin-tiny", "swin-small", "swin-base")
_IMAGE_BACKBONES = {
    "resnet50": "timm/resnet50.tv_in1k",
    **{name: f"microsoft/{name}-patch4-window7-224" for name in _SWIN},
}
_ALL = (*_SWIN, "resnet50")
_TABLE_12 = {
    "Bili_2M": _Row(5e-5, 1024, 64, 5e-6, 5e-6, ("swin-base",)),
    "Bili_500K": _Row(5e-5, 1024, 64, 5e-5, 1e-5, _ALL),
    "Bili_Food": _Row(1e-4, 256, 64, 1e-5, 1e-5, _ALL),
    "Bili_Dance": _Row(5e-5, 512, 64, 1e-5, 1e-5, _ALL),
    "Bili_Movie": _Row(5e-5, 512, 64, 5e-5, 1e-5, _ALL),
    "Bili_Cartoon": _Row(5e-5, 512, 128, 1e-5, 1e-5, _ALL),
    "Bili_Music": _Row(1e-5, 1024, 64, 1e-5, 1e-5, _ALL),
    "KU": _Row(1e-4, 1024, 64, 5e-5, 1e-5, _ALL),
    "QB": _Row(5e-5, 512, 64, 1e-5, 5e-5, _ALL),
    "TN": _Row(5e-5, 512, 128, 1e-4, 1e-5, _ALL),
    "DY": _Row(5e-5, 1024, 64, 5e-5, 1e-5, ("resnet50",)),
}
# The same for every data set and backbone.
_PAPER: Options = {
    "weight_decay": 0.1,
    "decay_norms_and_biases": True,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,
    "num_train_epochs": 120,
    "early_stopping_patience": 30,
    "user_encoder_type": "sasrec",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.1,
    "max_seq_len": 20,
    "loss_type": "bce",
    "num_negatives": 1,
    "initialization": "ninerec",
}
_RECOMMENDED_ID: Options = {
    "modality": "id",
    "loss_type": "in_batch",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "hidden_dropout_prob": 0.2,
    "item_dropout_prob": 0.2,
    "max_seq_len": 50,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "weight_decay": 0,
    "per_device_train_batch_size": 128,
    "num_train_epochs": 60,
    "early_stopping_patience": 8,
}
_BSAREC_ID: Options = {
    "modality": "id",
    "user_encoder_type": "bsarec",
    "loss_type": "full_softmax",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "hidden_dropout_prob": 0.5,
    "max_seq_len": 50,
    "frequency_weight": 0.7,
    "num_low_frequencies": 3,
    "learning_rate": 5e-4,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,
    "weight_decay": 0,
    "per_device_train_batch_size": 40,
    "num_train_epochs": 200,
    "early_stopping_patience": 10,
}
_RECOMMENDED_CONTENT: Options = {
    "freeze_backbone": True,
    "item_projection": "whitened",
    "history_decay": 0.7,
    "user_hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.5,
    "max_seq_len": 50,
    "normalize_scores": True,
    "temperature": 0.07,
    "learn_temperature": True,
    "loss_type": "mixed",
    "num_negatives": 4096,
    "logq_correction": False,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "weight_decay": 0,
    "per_device_train_batch_size": 128,
    "num_train_epochs": 12,
    "early_stopping_patience": 2,
    "transition_weight": "auto",
    "keep_start": True,
}
_RECOMMENDED_TEXT: Options = {**_RECOMMENDED_CONTENT, "modality": "text", "max_text_length": 64}
# User encoders of the named checkpoints, and the options of the table that each of them has no use for.
_NAMED_ENCODERS = {
    "sasrec": (),
    "bert4rec": (),
    "nextitnet": ("num_attention_heads",),
    "gru4rec": ("num_attention_heads",),
    "dnn": ("num_attention_heads",),
}


def _of_dataset(name: str, row: _Row) -> dict[str, Options]:
    common = {**_PAPER, "dataset_config_name": name}
    presets = {
        "id": {
            "modality": "id",
            "learning_rate": row.id_learning_rate,
            "hidden_size": row.id_hidden_size,
            "per_device_train_batch_size": row.id_batch_size,
        },
        "bert": {
            "language": "zh",
            "text_model_name_or_path": "hfl/chinese-bert-wwm",
            "learning_rate": row.text_learning_rate,
            "backbone_learning_rate": row.bert_learning_rate,
            "backbone_weight_decay": 0.1,
            "projection_like_backbone": True,
            "hidden_size": 1024,
            "per_device_train_batch_size": 64,
        },
    }
    for backbone in row.image_backbones:
        presets[backbone] = {
            "vision_model_name_or_path": _IMAGE_BACKBONES[backbone],
            "learning_rate": 5e-5,
            "backbone_learning_rate": 5e-5,
            "backbone_weight_decay": 0.0,
            "projection_like_backbone": True,
            "image_preprocessing": "ninerec",
            "hidden_size": 1024,
            "per_device_train_batch_size": 64,
        }
    return {f"{name.lower()}-{backbone}": {**common, **options} for backbone, options in presets.items()}


def _of_named_checkpoints(paper: dict[str, Options]) -> dict[str, Options]:
    """Returns options of the runs that make the named checkpoints, such as `ninerec/sasrec-bert-bili2m`."""
    ours = {"num_train_epochs": 30, "early_stopping_patience": 3, "seed": 42}
    presets = {}
    for encoder, unused in _NAMED_ENCODERS.items():
        for short, backbone in (("bert", "bert"), ("swinb", "swin-base")):
            options = {**paper[f"bili_2m-{backbone}"], "user_encoder_type": encoder, **ours}
            presets[f"{encoder}-{short}-bili2m"] = {
                option: value for option, value in options.items() if option not in unused
            }
    return presets


_PAPER_PRESETS = {name: options for row in _TABLE_12.items() for name, options in _of_dataset(*row).items()}
PRESETS: dict[str, Options] = {
    **_PAPER_PRESETS,
    **_of_named_checkpoints(_PAPER_PRESETS),
    "recommended-text": _RECOMMENDED_TEXT,
    "recommended-image": {**_RECOMMENDED_CONTENT, "modality": "image"},
    "recommended-text-id": {**_RECOMMENDED_TEXT, "modality": "text+id", "id_dropout_prob": 0.5},
    "recommended-id": _RECOMMENDED_ID,
    "bsarec-id": _BSAREC_ID,
    **SYSTEM_PRESETS,
}


def load_preset(name: str) -> Options:
    """Returns the options of a preset: a name of [`PRESETS`], or a JSON file with its options under `"options"`.

    >>> load_preset("bili_food-bert")["learning_rate"]
    1e-05

    Raises:
        ValueError: if there is no such preset; the nearest one is named.
    """
    if name in PRESETS:
        return dict(PRESETS[name])
    if not name.endswith(".json"):
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(sorted(PRESETS))}, or a JSON file"
        raise ValueError(f"--preset {name}: there is no preset of this name; {hint}")
    if not Path(name).is_file():
        raise ValueError(f"--preset {name}: there is no such file")
    content = json.loads(Path(name).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
        raise ValueError(f'--preset {name}: the file must be a JSON object with its options under "options"')
    return content["options"]


def to_options(values: dict) -> list[str]:
    """Returns values as options of the command line.

    >>> to_options({"bf16": True, "eval_ks": [5, 10]})
    ['--bf16', 'true', '--eval_ks', '5', '10']
    """
    listed = []
    for name, value in values.items():
        several = value if isinstance(value, list) else [value]
        listed += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in several)]
    return listed
