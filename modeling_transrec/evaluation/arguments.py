"""Options of an evaluation."""

import difflib
import os
from dataclasses import dataclass, field
from typing import Any

from ..models.checkpoint_files import is_hub_id
from ..models.modalities import BACKBONES
from ..models.pooling import TEXT_POOLINGS
from .baselines import BASELINES, CONTENT_BASELINES, LANGUAGE_MODEL
from .metrics import DEFAULT_METRICS, METRICS
from .weighing import check_transition_weight, has_transitions


CONTENT_OPTIONS = tuple(backbone.option for backbone in BACKBONES.values())
TEXT_OPTIONS = ("item_prefix", "text_pooling")


@dataclass(kw_only=True)
class CheckpointArguments:
    """Names the checkpoint that a command works with."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint: a folder or a Hub id."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
    platform: str | None = field(
        default=None,
        metadata={
            "help": "Platform whose adapters the checkpoint uses, where several share it; 'source' is without any "
            "(default: the one that it was saved with)."
        },
    )

    def loading_kwargs(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained` that are given by options."""
        return {"revision": self.model_revision, **({} if self.platform is None else {"platform": self.platform})}


@dataclass
class EvaluationArguments(CheckpointArguments):
    """Says what is evaluated, on which split and how.

    Example:

    >>> EvaluationArguments(model_name_or_path="popularity", split="validation").eval_ks
    [5, 10, 20]
    """

    model_name_or_path: str = field(
        metadata={"help": f"Checkpoint, a folder or a Hub id; or what needs no training: {', '.join(BASELINES)}."}
    )
    text_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Text backbone of content-knn and content-and-transitions: a Hub id or folder, such as one of "
            "sentence-transformers; or a TransRec checkpoint, of which all backbones are read. By default, "
            "beside a checkpoint and for the metric diversity, those that the checkpoint started from."
        },
    )
    vision_model_name_or_path: str | None = field(default=None, metadata={"help": "Vision backbone of the same."})
    multimodal_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Backbone of text and images of the same."}
    )
    audio_model_name_or_path: str | None = field(default=None, metadata={"help": "Audio backbone of the same."})
    language_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"Causal or encoder-decoder model of {LANGUAGE_MODEL}, which is prompted with the titles of a "
            "history and finds those of candidates more or less likely."
        },
    )
    num_candidates: int | None = field(
        default=None,
        metadata={
            "help": "Rank the target among so many candidates, the others sampled outside the history, such as 4 or "
            "100; compares only with others on the same ones (default: the whole catalogue)."
        },
    )
    max_eval_users: int | None = field(
        default=None, metadata={"help": "Rank for so many users, the same in every run (default: all)."}
    )
    item_prefix: str | None = field(
        default=None,
        metadata={
            "help": "What these backbones find before every text, such as 'passage: ' for E5 (default: what a folder "
            "of sentence-transformers sets before documents)."
        },
    )
    text_pooling: str | None = field(
        default=None,
        metadata={
            "help": f"Pooling of the text backbone, one of {', '.join(TEXT_POOLINGS)} (default: the folder's).",
        },
    )
    transition_weight: str = field(
        default="0",
        metadata={
            "help": "Weight of the counted transitions of the training interactions beside a checkpoint's scores, in "
            "units of their spread; 'auto' chooses it on the validation split."
        },
    )
    rerank: bool = field(
        default=False,
        metadata={
            "help": "Re-rank the best 100 items of each user, too, by a small network that the validation split's "
            "users teach in seconds; for content-and-transitions, and a checkpoint with --transition_weight."
        },
    )
    num_settings: int | None = field(
        default=None,
        metadata={
            "help": "Settings of each row that needs no training to try on the validation split, the grid's first "
            "(default: the grid, 1 to 6)."
        },
    )
    split: str = field(default="test", metadata={"help": "Split to evaluate on.", "choices": ["validation", "test"]})
    output_file: str | None = field(
        default=None, metadata={"help": 'JSON file to write: {"metrics": {"hr@10": …}, "protocol": {…}}.'}
    )
    language: str | None = field(
        default=None, metadata={"help": "Language of the texts that are read, 'en' or 'zh' (default: the model's)."}
    )
    eval_ks: list[int] = field(
        default_factory=lambda: [5, 10, 20], metadata={"help": "Cut-offs K of the metrics that have one."}
    )
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS), metadata={"help": f"Metrics, of {', '.join(METRICS)}."}
    )
    include_seen: bool = field(
        default=False, metadata={"help": "Keep the items of a user's history among the candidates."}
    )
    by_group: bool = field(
        default=False,
        metadata={
            "help": "Add metrics by group: by how often the target occurs in the training histories (cold: never), "
            "and by the length of the history. Training histories are cut to the last max_seq_len + 1 items."
        },
    )
    center_scores: bool = field(
        default=False, metadata={"help": "Score by centred cosine, for a model that has not seen this platform."}
    )
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Users that are ranked at a time."})
    item_batch_size: int = field(default=256, metadata={"help": "Items that are encoded at a time."})
    preprocessing_num_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that prepare the items' content; the result is kept on disk for later runs."},
    )
    max_seq_len: int | None = field(
        default=None,
        metadata={"help": "Longest history in items, for what needs no training (default: 20); a model has its own."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Encode items and users in bfloat16, by autocast (default: false; but true for the backbones of "
            f"content-knn on a CPU with instructions for it); convert the weights of {LANGUAGE_MODEL} (default: as "
            "they are saved)."
        },
    )
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even if there is an accelerator."})
    with_baselines: bool = field(
        default=True,
        metadata={
            "help": "Show beside a checkpoint what needs no training on the same split; its content is encoded once "
            "more, by the backbones that the checkpoint started from or that are named."
        },
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Add the results to the checkpoint's card on the Hub."})
    create_pr: bool = field(
        default=False,
        metadata={"help": "Add them as a pull request, where the repository is somebody else's."},
    )
    _argument_group_name = "evaluation"

    def __post_init__(self):
        name = self.model_name_or_path
        is_baseline = name in BASELINES
        close = difflib.get_close_matches(name, BASELINES, n=1, cutoff=0.8)
        if close and not is_baseline and not os.path.exists(name):
            raise ValueError(f"--model_name_or_path: there is no {name}; did you mean {close[0]}?")
        if self.max_seq_len is not None and not is_baseline:
            raise ValueError(f"--max_seq_len is an option of {', '.join(BASELINES)}; a model has its own")
        if self.platform is not None and is_baseline:
            raise ValueError(f"--platform chooses adapters of a checkpoint; {name} has none")
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"--metrics: there is no {', '.join(unknown)}; there are {', '.join(METRICS)}")
        compares = [metric for metric in self.metrics if "item_features" in METRICS[metric].needs]
        given = [option for option in CONTENT_OPTIONS if getattr(self, option) is not None]
        if name in CONTENT_BASELINES and not given:
            raise ValueError(f"{name} needs a backbone: give --{CONTENT_OPTIONS[0]}")
        shows_others = not is_baseline and (self.with_baselines or self.push_to_hub)
        if given and name not in CONTENT_BASELINES and not shows_others and not compares:
            raise ValueError(
                f"--{given[0]} is an option of {' and '.join(CONTENT_BASELINES)}, which --with_baselines shows, and "
                "of --metrics diversity"
            )
        if (name == LANGUAGE_MODEL) != (self.language_model_name_or_path is not None):
            raise ValueError(
                f"--model_name_or_path {LANGUAGE_MODEL} and --language_model_name_or_path NAME belong together; give "
                "both"
            )
        for option, least in (("num_candidates", 2), ("max_eval_users", 1), ("num_settings", 1)):
            if getattr(self, option) is not None and getattr(self, option) < least:
                raise ValueError(f"--{option} must be at least {least}, got {getattr(self, option)}")
        if self.num_settings is not None and not is_baseline and not shows_others:
            raise ValueError("--num_settings is of what needs no training, which --with_baselines shows")
        for option in ("num_candidates", "max_eval_users"):
            if getattr(self, option) is not None and self.push_to_hub:
                raise ValueError(
                    f"--push_to_hub adds results of all users and the whole catalogue; leave out --{option}"
                )
        lists = [metric for metric in self.metrics if METRICS[metric].needs_lists]
        if self.num_candidates is not None and lists:
            raise ValueError(
                f"--metrics {lists[0]} reads lists of the whole catalogue; leave it or --num_candidates out"
            )
        if self.center_scores and is_baseline:
            raise ValueError(f"--center_scores is for a checkpoint; {name} has no embeddings: leave it out")
        if self.bf16 and is_baseline and not given and name != LANGUAGE_MODEL:
            raise ValueError(f"--bf16 is the precision of a model, and {name} reads none: leave it out")
        unread = [option for option in TEXT_OPTIONS if getattr(self, option) is not None]
        if unread and not given:
            raise ValueError(f"--{unread[0]} says how --{CONTENT_OPTIONS[0]} is read; give that, too")
        check_transition_weight(self.transition_weight)
        if has_transitions(self.transition_weight) and is_baseline:
            raise ValueError("--transition_weight is for a checkpoint; content-and-transitions chooses its own")
        if self.rerank and name != "content-and-transitions" and not has_transitions(self.transition_weight):
            raise ValueError(
                "--rerank reads transitions beside the scores; give a checkpoint with --transition_weight auto, or "
                "content-and-transitions"
            )
        if self.rerank and (self.split != "test" or self.num_candidates is not None or self.center_scores):
            raise ValueError(
                "--rerank learns from the validation split by ranking whole catalogues; leave out --split validation, "
                "--num_candidates and --center_scores"
            )
        if self.create_pr and not self.push_to_hub:
            raise ValueError("--create_pr is an option of --push_to_hub")
        if self.push_to_hub and is_baseline:
            raise ValueError(f"--push_to_hub: {name} has no card")
        if self.push_to_hub and not is_hub_id(name):
            raise ValueError(f"--push_to_hub adds results to a card on the Hub; {name} is a folder")
        if self.push_to_hub and self.model_revision != "main":
            raise ValueError("--push_to_hub adds results to the main branch; leave out --model_revision")
