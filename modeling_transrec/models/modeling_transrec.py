"""Defines the TransRec model: item encoder, user encoder, scores and loss.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `P` of them with an image, `T` text tokens,
`N` negatives, `D` hidden size, `H` width of a backbone.
"""

import contextlib
import copy
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from .adapters import inject_adapters, merge_adapters
from .auxiliary_losses import AUXILIARY_LOSSES
from .backbone_references import (
    check_referable,
    load_backbone_of_commit,
    load_references,
    make_references,
    missing_patterns,
)
from .backbones import layers_of, load_image_normalization, towers_of
from .batch import (
    IGNORE_INDEX,
    MASK_INDEX,
    PADDING_INDEX,
    BatchInputs,
    ItemInputs,
    LossInputs,
    UserInputs,
    given_items,
    split_batch,
)
from .candidates import Candidates, at_targets, make_candidates
from .checkpoint_files import (
    HUB_ARGUMENTS,
    check_name_or_path,
    check_size,
    checked_weights,
    own_weights,
    reaching,
    weight_names,
)
from .configuration_transrec import TransRecConfig
from .freezing import freeze, is_trained, keep_frozen_in_evaluation, leave_out_untrainable, trains_batch_norm
from .histories import Histories, Recorded, gather_histories
from .item_encoders import ItemEncoder
from .losses import LOSSES
from .modalities import BACKBONES
from .offloading import align_module_device
from .sentence_folders import read_text_pooling
from .user_adapters import add_adapters, freeze_but_adapters
from .user_encoders import UserEncoder, make_user_encoder
from .whitening import unit_parts
from .whole_saves import check_whole, whole_save


logger = logging.getLogger(__name__)

MODEL_TAGS = ("recommendation", "sequential-recommendation")


@dataclass
class TransRecModelOutput(ModelOutput):
    """
    Args:
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): item embeddings of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): user embeddings, which predict each user's next item.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`):
            The input of each layer of the user encoder, `(B, L, width)`, then `user_hidden`; `None` in place of those
            that were not chosen.
        attentions (`tuple(torch.FloatTensor)`, with `output_attentions`):
            The attention weights of each layer of the user encoder, `(B, heads, L, L)`, where it has attention.
    """

    item_embeds: torch.Tensor | None = None
    user_hidden: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class TransRecOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, given `labels`): mean over the positions that have a target.
        logits (`torch.FloatTensor` of shape `(B, U)`): score of each of the batch's items as each user's next.
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): item embeddings of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): user embeddings, which predict each user's next item.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`):
            The input of each layer of the user encoder, `(B, L, width)`, then `user_hidden`; `None` in place of those
            that were not chosen.
        attentions (`tuple(torch.FloatTensor)`, with `output_attentions`):
            The attention weights of each layer of the user encoder, `(B, heads, L, L)`, where it has attention.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    item_embeds: torch.Tensor | None = None
    user_hidden: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


def as_outputs(recorded: Recorded, user_hidden: torch.Tensor) -> dict[str, tuple[torch.Tensor | None, ...]]:
    """Returns what was recorded by its names in an output, with the last states `(B, L, D)` behind the others.

    Raises:
        ValueError: if a layer is asked for that the user encoder does not have.
    """
    found: dict[str, tuple[torch.Tensor | None, ...]] = {}
    if recorded.hidden_states is not None:
        states = [*recorded.hidden_states, user_hidden]
        chosen = range(len(states)) if recorded.layers is None else recorded.layers
        if any(not -len(states) <= layer < len(states) for layer in chosen):
            raise ValueError(f"output_hidden_states={list(chosen)}: there are {len(states)} hidden states, from 0 on")
        kept = {layer % len(states) for layer in chosen}
        found["hidden_states"] = tuple(one if layer in kept else None for layer, one in enumerate(states))
    if recorded.attentions is not None:
        found["attentions"] = tuple(recorded.attentions)
    return found


class TransRecPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading, freezing and adapters, common to both classes."""

    config: TransRecConfig
    item_encoder: ItemEncoder
    user_encoder: UserEncoder
    get_item_features: Callable[..., torch.Tensor]
    get_user_features: Callable[..., torch.Tensor]
    base_model_prefix = "model"
    main_input_name = "item_index"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _saves_backbone = True
    _may_be_new: tuple[str, ...] = ()  # beginnings of names of weights that other checkpoints do not have
    _backbones_cache: str | os.PathLike | None = None  # where the backbones were loaded to, if not the usual cache

    def __init__(self, config: TransRecConfig):
        super().__init__(copy.deepcopy(config))  # what changes one model's must not change another's

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the device of the weights, or the one that they are brought to when they are needed."""
        device = super().device
        hooks = [getattr(module, "_hf_hook", None) for module in self.modules()] if device.type == "meta" else []
        brought_to = [hook.execution_device for hook in hooks if getattr(hook, "execution_device", None) is not None]
        return torch.device(brought_to[0]) if brought_to else device

    @torch.no_grad()
    def _init_weights(self, module):
        """Xavier-normal weights and zero biases, as NineRec, which leaves some as torch has them (`initialization`);
        backbones initialise themselves."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d) and getattr(module, "starts_as_in_torch", False):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
            init.xavier_normal_(module.weight)
        elif isinstance(module, nn.GRU):
            for weight in module.parameters():
                init.xavier_uniform_(weight)
        elif isinstance(module, UserEncoder):
            for vector in (module.mask_embedding, module.padding_embedding):
                if vector is not None:
                    init.normal_(vector, std=0.02)
        if hasattr(module, "init_own_weights"):
            module.init_own_weights()

    def resize_token_embeddings(self, *args, **kwargs):
        """As in transformers, for the text backbone's tokens."""
        if "text" not in self.item_encoder.modalities:
            raise ValueError(f"a model of {self.config.modality} has no tokens to resize; make a new model instead")
        return super().resize_token_embeddings(*args, **kwargs)

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs):
        super()._set_gradient_checkpointing(enable, **kwargs)
        for module in self.modules():
            if hasattr(module, "timm_model"):  # transformers does not reach it
                module.timm_model.set_grad_checkpointing(enable)  # type: ignore[operator]

    def save_pretrained(
        self,
        save_directory,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *args,
        save_backbone: bool = True,
        **kwargs,
    ):
        """As in transformers, but keys keep the names they have in memory, which the Trainer needs to resume.

        The save is whole or, if it fails or the process is killed, not there: see [`whole_save`]. Over an older save
        of model and processor, the processor has to be saved, too, before it can be loaded again.

        Without [`saved_with_code`], a configuration that came with code does not refer to it any more. The local path
        that a backbone was loaded from is not saved.

        Args:
            save_directory: the folder.
            is_main_process, state_dict, args, kwargs: as in transformers.
            save_backbone: whether the backbones' weights are saved. Otherwise the configuration refers to them on the
                Hub, by id, commit and hash, and [`from_pretrained`] loads them from there.

        Raises:
            ValueError: if weights of a backbone are to be left out that are not those of a commit of the Hub: it was
                trained, has adapters, or was loaded from a folder.
        """
        kwargs.setdefault("save_original_format", False)
        if self._auto_class is None:
            vars(self.config).pop("auto_map", None)
        for name in self.config.sub_configs_defaults:
            part = getattr(self.config, name)
            if part is not None and (os.path.isabs(part._name_or_path) or os.path.exists(part._name_or_path)):
                part._name_or_path = ""
        references = None
        if not (save_backbone and self._saves_backbone):
            if kwargs.get("distributed_checkpoint"):
                raise ValueError("save_backbone=False is not for distributed_checkpoint=True, which is to resume from")
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            where = reaching({"cache_dir": self._backbones_cache, **kwargs})
            references = make_references(self, state_dict, where)
            left_out = re.compile("|".join(missing_patterns(references)))
            state_dict = {key: weight for key, weight in state_dict.items() if not left_out.search(key)}
        self.config.backbone_references = references
        written_by_one = is_main_process and not kwargs.get("distributed_checkpoint")
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", Path(save_directory).name)
        try:
            with (
                whole_save(save_directory, "model", loaded_from=self.name_or_path)
                if written_by_one
                else contextlib.nullcontext(save_directory)
            ) as folder:
                super().save_pretrained(str(folder), is_main_process, state_dict, *args, **kwargs)
        finally:
            self.config.backbone_references = None  # the model has all weights

    def push_to_hub(self, *args, save_backbone: bool = True, **kwargs):
        """As in transformers, with the tags by which recommenders are found; `save_backbone` as in
        [`save_pretrained`]."""
        kwargs["tags"] = [*MODEL_TAGS, *(kwargs.get("tags") or [])]
        with contextlib.nullcontext() if save_backbone else saved_without_backbone(self):
            return super().push_to_hub(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        use_safetensors: bool | None = True,
        allow_missing_weights: bool = False,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """As in transformers, but reads weights only from safetensors, and all that the model has.

        Weights of backbones that were left out (`save_backbone=False`) are read from the Hub or its cache, at the
        commit that the checkpoint names, and only if they have the hash that it names. Backbones that have adapters
        are frozen again.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            use_safetensors: must not be `False`.
            allow_missing_weights: whether parts that the checkpoint lacks may start from random weights.
            ignore_mismatched_sizes: whether parts that have another shape in the checkpoint may.
            output_loading_info: whether to return a dictionary of missing and unexpected keys beside the model.

        Raises:
            OSError: if there are no weights as safetensors.
            ValueError: if the weights are said to lie outside the checkpoint, are far fewer than configured, have
                other shapes, or lack a part of the model; if those of a backbone that were left out are not what the
                checkpoint refers to.
        """
        check_name_or_path(pretrained_model_name_or_path)
        if check_whole(pretrained_model_name_or_path, "model", kwargs.get("subfolder")) and kwargs.get("config"):
            raise ValueError(
                f"a save in {pretrained_model_name_or_path} was interrupted, and has been ended only now, after its "
                "configuration was read: load it again"
            )
        if use_safetensors is False:
            raise ValueError("use_safetensors=False would read pickles, which can run code; only safetensors is read")
        reads_files = pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None
        with checked_weights(pretrained_model_name_or_path, kwargs) if reads_files else contextlib.nullcontext():
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # or the error would not say which
                output_loading_info=True,
                **kwargs,
            )
        model, info = loaded
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            name, saved_shape, shape = min(info["mismatched_keys"])
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path} do not fit its configuration: {name} has the shape "
                f"{tuple(saved_shape)}, not {tuple(shape)}. To start such parts anew, give "
                "ignore_mismatched_sizes=True"
            )
        missing = sorted(key for key in info["missing_keys"] if not key.startswith(cls._may_be_new or ("\0",)))
        if missing and not allow_missing_weights:
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path} lack {len(missing)} of the model's, first "
                f"{missing[0]}, which would be random: they were saved for another configuration or by another "
                "version. To start these parts anew, give allow_missing_weights=True"
            )
        if model.config.backbone_references:
            saved = weight_names(str(pretrained_model_name_or_path), kwargs) if reads_files else kwargs["state_dict"]
            load_references(model, saved, reaching(kwargs))
            model._backbones_cache = kwargs.get("cache_dir")
        own_weights(model)
        leave_out_untrainable(model.item_encoder.backbones)
        return (model, info) if output_loading_info else model

    @classmethod
    def from_encoder_pretrained(
        cls,
        text_model_name_or_path: str | None = None,
        vision_model_name_or_path: str | None = None,
        multimodal_model_name_or_path: str | None = None,
        audio_model_name_or_path: str | None = None,
        *,
        dtype="float32",
        backbone_kwargs: dict | None = None,
        **kwargs,
    ):
        r"""
        Makes a model around pretrained backbones, with a new user encoder.

        `image_mean` and `image_std` of the configuration are read from the image backbone's checkpoint.

        Args:
            text_model_name_or_path (`str`, *optional*): Hub id or folder of any text model that `AutoModel` loads.
            vision_model_name_or_path (`str`, *optional*): the same for a vision model, timm's included.
            multimodal_model_name_or_path (`str`, *optional*): one model of text and image: CLIP, SigLIP, ViLT.
            audio_model_name_or_path (`str`, *optional*): Hub id or folder of any audio model that `AutoModel` loads.
            dtype (`str` or `torch.dtype`, defaults to `"float32"`): type of the weights.
            backbone_kwargs (`dict`, *optional*): arguments of the backbones' `from_pretrained` (`revision`, …).
            kwargs: fields of [`TransRecConfig`], such as `user_encoder_type`. By default `text_pooling` is that of a
                folder of sentence-transformers.

        Example:

        ```python
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(
            text_model_name_or_path="hfl/chinese-bert-wwm",
            vision_model_name_or_path="microsoft/swin-tiny-patch4-window7-224",
            user_encoder_type="sasrec",
            hidden_size=512,
        )
        ```
        """
        named = {
            "text": text_model_name_or_path,
            "image": vision_model_name_or_path,
            "audio": audio_model_name_or_path,
            "multimodal": multimodal_model_name_or_path,
        }
        names = {part: name for part, name in named.items() if name is not None}
        if kwargs.get("backbone_references") is not None:
            raise ValueError("backbone_references is for checkpoints, written by save_pretrained; leave it out")
        if not names:
            options = ", ".join(backbone.option for backbone in BACKBONES.values())
            raise ValueError(f"name a backbone with one or several of {options}")
        fields = {part: BACKBONES[part].config_field for part in names}
        loading = backbone_kwargs or {}
        backbones = {part: load_backbone_of_commit(name, fields[part], dtype, loading) for part, name in names.items()}
        if text_model_name_or_path is not None and kwargs.get("text_pooling") is None:
            where = {name: value for name, value in loading.items() if name in HUB_ARGUMENTS}
            kwargs["text_pooling"] = read_text_pooling(text_model_name_or_path, **where)
        for part, backbone in backbones.items():
            if "image" in BACKBONES[part].reads:
                kwargs = {**load_image_normalization(names[part], backbone.config, loading), **kwargs}
        configs: dict[str, Any] = {fields[part]: backbone.config for part, backbone in backbones.items()}
        dtype = next(iter(backbones.values())).dtype
        model: Any = cls(TransRecConfig(**configs, **kwargs), backbones)  # type: ignore[call-arg]  # a subclass's
        if not any(getattr(backbone, "is_quantized", False) for backbone in backbones.values()):
            model = model.to(dtype)  # beside quantised ones, the other parts stay in the default type
        model._backbones_cache = loading.get("cache_dir")
        return model

    def new_record(
        self, output_hidden_states: bool | Sequence[int] | None = None, output_attentions: bool | None = None
    ) -> Recorded:
        """Returns what gets the states and weights that are asked for, by arguments or by the configuration."""
        config = self.config
        states: Any = (config.output_hidden_states or False) if output_hidden_states is None else output_hidden_states
        weights = config.output_attentions if output_attentions is None else output_attentions
        layers = None if isinstance(states, bool) else states
        if layers is not None and not (isinstance(layers, list | tuple) and all(type(one) is int for one in layers)):
            raise ValueError(f"output_hidden_states must be true, false or a list of layers, got {states!r}")
        if weights and config._attn_implementation != "eager":
            logger.warning_once(  # type: ignore[attr-defined]  # of transformers' loggers
                "attn_implementation=%r computes no attention weights: attentions are None; load the model with "
                'attn_implementation="eager"',
                config._attn_implementation,
            )
        return Recorded([] if states else None, [] if weights else None, layers)

    def returns_dict(self, return_dict: bool | None) -> bool:
        """Returns whether an output is returned, not a tuple, by an argument or by the configuration."""
        return bool(getattr(self.config, "return_dict", True) if return_dict is None else return_dict)

    def to_scoring_space(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps user or item embeddings `(…, D)` to vectors whose dot product is the score.

        These are the embeddings themselves, except for `normalize_scores` and `temperature`.
        """
        if self.config.normalize_scores:
            vectors = unit_parts(vectors, self.item_encoder.lengths)
        elif self.config.num_views > 1:
            vectors = vectors * self.config.num_views**-0.5  # a score is the mean of the views'
        if self.config.learn_temperature:
            with align_module_device(self.base_model):
                temperature: Any = self.base_model.log_temperature
                return vectors * (-temperature / 2).exp()
        return vectors if self.config.temperature == 1 else vectors / self.config.temperature**0.5

    def freeze_backbone(
        self, train_last_n_layers: int | None = None, freeze_modules: Sequence[str] | None = None
    ) -> None:
        """Freezes the backbones, or a part of them; the projection and the user encoder are still trained.

        Frozen modules stay in evaluation mode: their dropout is off, their batch norms keep their statistics.

        Args:
            train_last_n_layers: number of layers, from the end, that are still trained, with all that comes after
                them; of stages, where a backbone has stages of layers; in each tower where it has two, as CLIP has.
            freeze_modules: patterns of parameter names within the backbone, such as `"embeddings.*"`; those that match
                are frozen, the others are still trained. Of two backbones, `"text.*"` and `"image.*"` choose one.
        """
        backbones = self._partsto("freeze")
        if train_last_n_layers is not None and freeze_modules is not None:
            raise ValueError("give train_last_n_layers or freeze_modules, not both")
        if self.config.peft_config is not None:
            raise ValueError(
                "the model has adapters, beside which the backbone is frozen already: leave out the freezing"
            )
        freeze(backbones, train_last_n_layers, freeze_modules)
        self.train(self.training)

    def freeze_user_encoder(self) -> None:
        """Leaves the user encoder as it is, except its adapters; the item encoder is still trained.

        Without adapters it stays in evaluation mode: its dropout is off.
        """
        freeze_but_adapters(self.user_encoder)
        self.train(self.training)

    def add_user_adapter(self, placement: str = "serial", reduction: int = 4) -> None:
        """Puts bottleneck adapters into the user encoder, which change nothing until they are trained.

        They are part of the model: it is saved, loaded and pushed with them. [`freeze_user_encoder`] trains only them
        there.

        Args:
            placement: `"serial"` or `"parallel"`, as `user_adapter` of the configuration.
            reduction: how many times as narrow as the layers they are in the middle.

        Example:

        >>> from modeling_transrec import TransRecConfig, TransRecModel
        >>> model = TransRecModel(TransRecConfig(num_items=5, hidden_size=8))
        >>> model.add_user_adapter("parallel", reduction=2)
        >>> model.freeze_user_encoder()
        >>> sum(weight.numel() for weight in model.user_encoder.parameters() if weight.requires_grad)
        272
        """
        if self.config.user_adapter is not None:
            raise ValueError(f"the user encoder has {self.config.user_adapter} adapters already")
        self.config.user_adapter, self.config.user_adapter_reduction = placement, reduction
        try:
            self.config.validate_architecture()
        except ValueError:
            self.config.user_adapter = None
            raise
        add_adapters(self.user_encoder, self.config)

    @property
    def has_frozen_backbone(self) -> bool:
        """Whether there are backbones, and nothing of them is trained."""
        backbones = self.item_encoder.backbones
        return bool(backbones) and not any(is_trained(backbone) for backbone in backbones)

    def train(self, mode: bool = True):
        """As in torch, but frozen modules of a backbone stay in evaluation mode (beside adapters, batch norms do), and
        so does a user encoder that is frozen whole."""
        super().train(mode)
        if mode:
            keep_frozen_in_evaluation(self.item_encoder.backbones)
            if not is_trained(self.user_encoder):
                self.user_encoder.eval()
        return self

    def compile_backbone(self, **kwargs) -> None:
        """Compiles the layers of the backbones that are trained, in place, for inputs of any shape.

        Where the layers are alike, as in most backbones, all of them take no longer to compile than one. The outputs
        of frozen layers are computed once, see [`~training.precomputed`].

        Args:
            kwargs: those of `torch.compile`.
        """
        backbones = self._partsto("compile; leave torch_compile out")
        towers = [tower for backbone in backbones.values() for tower in towers_of(backbone)]
        layers = [layer for tower in towers for layer in layers_of(tower) or [tower] if is_trained(layer)]
        if not layers:
            logger.warning("No layer of the backbone is trained, so none is compiled")
        # Layers of several backbones, in training and in evaluation, count as versions of the same code.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for layer in layers:
            layer.compile(dynamic=True, **kwargs)

    def enable_gradient_caching(self, chunk_size: int) -> None:
        """Encodes items, then users, in chunks whose activations are computed anew in the backward pass.

        The memory for activations is then that of one chunk, whatever the batch; loss and gradients stay the same.
        With `in_batch`, a chunk of users holds the scores of its targets for all items of the batch. Users are divided
        only where there are `labels` and gradients are on. If there are more users than a chunk has, the model returns
        only the loss and `item_embeds`.

        Args:
            chunk_size: items encoded at a time, and users whose loss is computed at a time.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        if trains_batch_norm(self.item_encoder):
            raise ValueError(
                "gradient caching encodes items chunk by chunk, and this backbone's batch norm would see another "
                "batch; freeze it (freeze_modules), or take a backbone with layer norm"
            )
        self.item_encoder.chunk_size = chunk_size

    def drop_item_ids(self) -> None:
        """Drops the id part of a model of content and ids, and keeps the content part: ids do not transfer."""
        if self.config.num_items is None or self.config.modality == "id":
            raise ValueError(f"a model of {self.config.modality} has no id part beside a content part to drop")
        if self.config.num_views > 1:
            raise ValueError(
                f"fusion={self.config.fusion!r} reads ids for every item, and ids do not transfer; train a new model"
            )
        self.item_encoder.id_embedding = self.item_encoder.id_fusion = None
        self.config.num_items = None
        self.item_encoder.modalities = self.config.modality.split("+")

    def add_peft_adapter(self, peft_config) -> None:
        """Puts adapters of the `peft` library into the backbones, and trains only them there.

        They are part of the model: it is saved, loaded and pushed with them, like any other model.

        Args:
            peft_config: `peft.LoraConfig`, another of `PEFT_KINDS` in `adapters.py`, or its dictionary with
                `"peft_type"`. The modules that it names need to be in only one of several backbones.
        """
        if self.config.peft_config is not None:
            raise ValueError("the model has adapters already; merge them first: merge_peft_adapter()")
        backbones = self._partsto("put adapters into")
        self.config.peft_config = inject_adapters(list(backbones.values()), peft_config)
        self._adapters_changed()

    def merge_peft_adapter(self) -> None:
        """Adds the adapters to the backbones' own weights and takes them out: a plain model, with the same outputs."""
        if self.config.peft_config is None:
            raise ValueError("the model has no adapters to merge")
        merge_adapters(self.item_encoder.backbones)
        self.config.peft_config = None
        self._adapters_changed()

    def _adapters_changed(self) -> None:
        """Trains the adapters and nothing else of the backbones; everything, where there are none any more."""
        leave_out_untrainable(self.item_encoder.backbones)
        self.train(self.training)

    def _partsto(self, purpose: str) -> dict[str, PreTrainedModel]:
        """Returns the backbones by the names of their modalities; raises `ValueError` where there are none."""
        if not self.item_encoder.backbones:
            raise ValueError(f"an id model has no backbone to {purpose}")
        return {name: owner.backbone for name, owner in self.item_encoder.owners.items()}


@contextlib.contextmanager
def saved_without_backbone(model: TransRecPreTrainedModel) -> Iterator[None]:
    """Within this context, a model is saved with `save_backbone=False`, whoever saves it.

    Raises:
        ValueError: at once, if [`check_referable`] does.
    """
    check_referable(model)
    model._saves_backbone = False
    try:
        yield
    finally:
        del model._saves_backbone


class TransRecModel(TransRecPreTrainedModel):
    r"""
    Item encoder and user encoder, without a loss.

    Args:
        config ([`TransRecConfig`]): architecture.
        backbones (`dict[str, PreTrainedModel]`, *optional*): loaded backbones, by the names `"text"`, `"image"`,
            `"multimodal"`; see [`~TransRecPreTrainedModel.from_encoder_pretrained`].

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecModel
    >>> model = TransRecModel(TransRecConfig(num_items=5, hidden_size=8))
    >>> output = model(item_ids=torch.tensor([3, 1, 4]), item_index=torch.tensor([[-1, 0, 2], [1, 2, 0]]))
    >>> output.item_embeds.shape, output.user_hidden.shape, output.user_embeds.shape
    (torch.Size([3, 8]), torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        config = self.config
        self.item_encoder = ItemEncoder(config, backbones)
        self.user_encoder = make_user_encoder(config, self.item_encoder.lengths)
        if config.initialization == "ninerec":
            text = self.item_encoder.text
            of_text = [] if text is None else [one for one in text.projection.modules() if isinstance(one, nn.Linear)]
            for layer in [*of_text, *(one for one in self.user_encoder.modules() if isinstance(one, nn.Conv1d))]:
                layer.starts_as_in_torch = True  # type: ignore[assignment]  # read by _init_weights
        start = torch.tensor([float(config.temperature)]).log()  # FSDP takes no scalars
        self.log_temperature = nn.Parameter(start) if config.learn_temperature else None
        parts = self.item_encoder.backbones
        self._no_split_modules = {self.user_encoder.layer_class.__name__}.union(
            *(backbone._no_split_modules or () for backbone in parts)
        )
        self._keep_in_fp32_modules = set().union(*(backbone._keep_in_fp32_modules or () for backbone in parts))
        check_size(self, config.backbone_references)
        self._keys_to_ignore_on_load_missing = missing_patterns(config.backbone_references)
        self.post_init()
        if config.peft_config is not None:
            inject_adapters(self.item_encoder.backbones, config.peft_config)
        leave_out_untrainable(self.item_encoder.backbones)

    def _with_input_embeddings(self) -> PreTrainedModel | None:
        """Returns the backbone that reads tokens, of a dual encoder its text tower; without any the first one."""
        backbones = self.item_encoder.backbones
        return getattr(backbones[0], "text_model", backbones[0]) if backbones else None

    def get_input_embeddings(self):
        backbone = self._with_input_embeddings()
        return self.item_encoder.id_embedding if backbone is None else backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding):
        backbone = self._with_input_embeddings()
        if backbone is None:
            self.item_encoder.id_embedding = value
        else:
            backbone.set_input_embeddings(value)

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, as the processor gives them, to item embeddings `(U, D)`.

        Args:
            items: see [`ItemInputs`].
        """
        given = given_items(items)
        if "input_ids" in given and "attention_mask" not in given:
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        missing = self.item_encoder.missing_inputs(given)
        if missing:
            raise ValueError(f"a model of {self.config.modality} needs {', '.join(missing)}; the processor makes them")
        return self.item_encoder(**given)

    def get_user_hidden(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        is_masked: torch.Tensor | None = None,
        recorded: Recorded | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` to states at every position `(B, L, D)`.

        Args:
            item_embeddings: `(B, L, D)`, oldest item first.
            mask: `(B, L)` booleans, false at padding.
            user_ids: `(B,)` indices into the table of user ids, where the user encoder has one.
            is_masked: `(B, L)` booleans, true at items that the learned mask embedding replaces.
            recorded: gets what is computed on the way.
            timestamps: `(B, L)` times of the interactions, where the user encoder reads them.
        """
        return self._states(*self._histories(item_embeddings, mask, user_ids, is_masked, recorded, timestamps))

    def _states(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Returns the user encoder's states `(B, L, D)`, with the objective of every prefix those of each prefix."""
        by_prefix = self.config.objective == "every_prefix"
        encode = self.user_encoder.at_every_prefix if by_prefix else self.user_encoder
        return encode(item_embeddings, histories)

    def _histories(
        self, item_embeddings, mask, user_ids=None, is_masked=None, recorded=None, timestamps=None
    ) -> tuple[torch.Tensor, Histories]:
        """Returns the user encoder's arguments: checked, and with the mask embedding in place of masked items."""
        longest = self.config.max_seq_len + self.config.predicts_within
        if item_embeddings.shape[1] > longest:
            raise ValueError(
                f"histories of {item_embeddings.shape[1]} items are longer than max_seq_len="
                f"{self.config.max_seq_len}; keep only the last ones"
            )
        if is_masked is not None and self.user_encoder.mask_embedding is not None:
            with align_module_device(self.user_encoder):
                mask_embedding = self.user_encoder.mask_embedding.to(item_embeddings.dtype)
                item_embeddings = torch.where(is_masked[:, :, None], mask_embedding, item_embeddings)
        if self.user_encoder.reads_user_ids and user_ids is None:
            raise ValueError(
                f"user_encoder_type={self.config.user_encoder_type!r} needs user_ids, indices into its table of users"
            )
        if self.user_encoder.reads_timestamps and timestamps is None:
            raise ValueError(
                f"user_encoder_type={self.config.user_encoder_type!r} needs timestamps, the time of each interaction "
                "of the histories, in seconds"
            )
        return item_embeddings, Histories(mask, user_ids, is_masked, recorded, timestamps)

    def get_user_features(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` to user embeddings `(B, D)`, which predict the next item.

        Args:
            item_embeddings: `(B, L, D)`, oldest item first.
            mask: `(B, L)` booleans, false at padding.
            user_ids: `(B,)` indices into the table of user ids, where the user encoder has one.
            timestamps: `(B, L)` times of the interactions, where the user encoder reads them.
        """
        vectors, mask, _, is_masked = self._for_next_item(item_embeddings, mask, user_ids)
        return self.user_encoder.last(*self._histories(vectors, mask, user_ids, is_masked, None, timestamps))

    def _for_next_item(self, item_embeddings, mask, user_ids=None) -> tuple:
        """Returns the arguments of [`get_user_hidden`] with which each user's last state predicts the next item.

        Where the user encoder predicts items within a history, a place without an item is appended to each.
        """
        if not self.config.predicts_within:
            return item_embeddings, mask, user_ids, None
        item_embeddings, mask = F.pad(item_embeddings, (0, 0, 0, 1)), F.pad(mask, (0, 1), value=True)
        is_masked = torch.zeros_like(mask)
        is_masked[:, -1] = True  # the item to be predicted
        return item_embeddings, mask, user_ids, is_masked

    def forward(
        self,
        item_index: torch.LongTensor,
        user_ids: torch.LongTensor | None = None,
        timestamps: torch.LongTensor | None = None,
        output_hidden_states: bool | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **items: Unpack[ItemInputs],
    ) -> TransRecModelOutput | tuple:
        r"""
        Encodes the batch's distinct items, then the histories.

        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as indices into the batch's distinct items; -1 is padding, on the left.
            user_ids (`torch.LongTensor` of shape `(B,)`, *optional*):
                Indices into the table of user ids, where the user encoder has one.
            timestamps (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Times of the histories' interactions, where the user encoder reads them; any number at padding.
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the user encoder's `hidden_states` and `attentions`; by default as the configuration
                says. Weights of attention are `None` except with `attn_implementation="eager"`. A list of layers, such
                as `[0, -1]`, returns only their hidden states.
            return_dict (`bool`, *optional*):
                Whether to return a [`TransRecModelOutput`] or a tuple; by default as the configuration says.
            items: the distinct items, see [`ItemInputs`].
        """
        recorded = self.new_record(output_hidden_states, output_attentions)
        item_embeds = self.get_item_features(**items)
        vectors, mask = gather_histories(item_embeds, item_index)
        vectors, mask, _, is_masked = self._for_next_item(vectors, mask, user_ids)
        vectors, histories = self._histories(vectors, mask, user_ids, is_masked, recorded, timestamps)
        user_hidden = self._states(vectors, histories)
        user_embeds = histories.last_of(user_hidden)
        output = TransRecModelOutput(
            item_embeds=item_embeds,
            user_hidden=user_hidden,
            user_embeds=user_embeds,
            **as_outputs(recorded, user_hidden),
        )
        return output if self.returns_dict(return_dict) else output.to_tuple()


class TransRecForSequentialRecommendation(TransRecPreTrainedModel):
    r"""
    TransRec with a training loss and scores. It has no weights beside those of [`TransRecModel`], so that each loads
    the other's checkpoints.

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
    >>> model = TransRecForSequentialRecommendation(TransRecConfig(num_items=5, hidden_size=8, logq_correction=False))
    >>> output = model(
    ...     item_ids=torch.tensor([3, 1, 4]),
    ...     item_index=torch.tensor([[-1, 0], [1, 2]]),
    ...     labels=torch.tensor([[-100, 2], [2, 0]]),
    ... )
    >>> output.loss.shape, output.logits.shape
    (torch.Size([]), torch.Size([2, 3]))
    """

    # The loss is a sum divided by the Trainer's count of targets over all processes and accumulation steps.
    accepts_loss_kwargs = True

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        self.model = TransRecModel(config, backbones)
        self.config = self.model.config
        self.post_init()

    @property
    def item_encoder(self) -> ItemEncoder:
        """The item encoder of the base model."""
        return self.model.item_encoder

    @property
    def user_encoder(self) -> UserEncoder:
        """The user encoder of the base model."""
        return self.model.user_encoder

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """See [`TransRecModel.get_item_features`]."""
        return self.model.get_item_features(**items)

    def get_user_features(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See [`TransRecModel.get_user_features`]."""
        return self.model.get_user_features(item_embeddings, mask, user_ids, timestamps)

    def forward(
        self,
        item_index: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        user_ids: torch.LongTensor | None = None,
        timestamps: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[BatchInputs],
    ) -> TransRecOutput | tuple:
        r"""
        Encodes the batch's distinct items, then the histories; with `labels`, computes the loss.

        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as indices into the batch's distinct items; -1 is padding, on the left;
                -2 is a masked item.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Index of the target of each position; -100 where there is none. With `objective="next_k_items"` the
                targets after each history, of shape `(B, K)`.
            user_ids (`torch.LongTensor` of shape `(B,)`, *optional*):
                Indices into the table of user ids, where the user encoder has one.
            timestamps (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Times of the histories' interactions, where the user encoder reads them; any number at padding.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of targets to divide the summed loss by; by default those in `labels`.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): see [`TransRecModel`].
            inputs: the distinct items, see [`ItemInputs`], and what the loss reads, see [`LossInputs`].

        With `objective="masked_item"` or `"other_items"` and `labels`, the next item is not predicted: `user_embeds`
        and `logits` are `None`. Where gradient caching divides the users (with `labels`, gradients on and more users
        than a chunk has), these two, `user_hidden` and what is computed on the way are `None`.
        """
        items, loss_inputs = split_batch(inputs)
        loss = logits = None
        recorded = self.new_record(output_hidden_states, output_attentions)
        if labels is None:
            encoded = self.model(
                item_index=item_index,
                user_ids=user_ids,
                timestamps=timestamps,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
                **items,
            )
        else:
            item_embeds = self.model.get_item_features(**items)
            synthetic = None
            if self.config.synthetic_negatives and self.training:
                synthetic = self.to_scoring_space(self.item_encoder.synthetic(**given_items(items)))
            candidates = make_candidates(
                self.config, self.to_scoring_space(item_embeds), item_index, labels, loss_inputs, synthetic
            )
            of_users = UserInputs(user_ids, timestamps)
            encoded, loss = self._summed_loss(item_embeds, item_index, labels, of_users, candidates, recorded)
            num_targets = (labels != IGNORE_INDEX).sum()
            if self.config.auxiliary_loss_type is not None:
                auxiliary = self._auxiliary_loss(item_embeds, loss_inputs)
                loss = loss + self.config.auxiliary_weight * auxiliary * num_targets
            loss = loss / (num_targets.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if encoded.user_embeds is not None:
            logits = self.to_scoring_space(encoded.user_embeds) @ self.to_scoring_space(encoded.item_embeds).T
        output = TransRecOutput(loss=loss, logits=logits, **encoded)
        return output if self.returns_dict(return_dict) else output.to_tuple()

    def _summed_loss(
        self,
        item_embeds: torch.Tensor,
        item_index: torch.Tensor,
        labels: torch.Tensor,
        of_users: UserInputs,
        candidates: Candidates,
        recorded: Recorded,
    ) -> tuple[TransRecModelOutput, torch.Tensor]:
        """Encodes the histories and computes the configuration's loss, summed over the targets.

        With gradient caching, this is done for one chunk of users at a time, and the backward pass computes the
        activations of a chunk anew.
        """
        config, loss = self.config, LOSSES[self.config.loss_type]
        options = {name: getattr(config, name) for name in loss.options}

        def hidden_and_loss(users: slice, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            vectors, mask = gather_histories(item_embeds, item_index[users])
            is_masked = item_index[users] == MASK_INDEX if config.objective == "masked_item" else None
            known = of_users[users]
            hidden = self.model.get_user_hidden(vectors, mask, known.user_ids, is_masked, recorded, known.timestamps)
            predicting = hidden
            if config.objective == "next_k_items":
                last = Histories(mask).last_of(hidden)  # (B, D)
                predicting = last[:, None].expand(-1, labels.shape[1], -1)  # (B, K, D)
            states, targets, positions = at_targets(predicting, labels)
            compared = candidates.of(users, positions)
            return hidden, loss.function(self.to_scoring_space(states), targets, positions[0], compared, **options)

        def only_loss(*args) -> torch.Tensor:
            return hidden_and_loss(*args)[1]

        chunk_size, count = self.item_encoder.chunk_size, len(labels)
        if chunk_size is not None and chunk_size < count and torch.is_grad_enabled():
            chunks = [slice(start, start + chunk_size) for start in range(0, count, chunk_size)]
            # checkpoint() restores the random state of dropout on the devices of its arguments.
            parts = [checkpoint(only_loss, users, labels[users], use_reentrant=False) for users in chunks]
            return TransRecModelOutput(item_embeds=item_embeds), torch.stack(parts).sum()
        user_hidden, total = hidden_and_loss(slice(None), labels)
        predicts_next = not config.predicts_within
        user_embeds = Histories(item_index != PADDING_INDEX).last_of(user_hidden) if predicts_next else None
        on_the_way = as_outputs(recorded, user_hidden)
        encoded = TransRecModelOutput(
            item_embeds=item_embeds, user_hidden=user_hidden, user_embeds=user_embeds, **on_the_way
        )
        return encoded, total

    def _auxiliary_loss(self, item_embeds: torch.Tensor, inputs: LossInputs) -> torch.Tensor:
        """Computes the configuration's auxiliary loss, the mean over the users.

        With gradient caching the views of a chunk of users are encoded at a time.

        Args:
            item_embeds: `(U, D)`.
            inputs: with the views.
        """
        config, views = self.config, inputs["view_index"]  # (2, B, L)

        def encode(users: slice) -> torch.Tensor:
            vectors, mask = gather_histories(item_embeds, views[:, users].flatten(0, 1))
            return self.get_user_features(vectors, mask).unflatten(0, (2, -1))

        chunk_size, count = self.item_encoder.chunk_size, views.shape[1]
        if chunk_size is not None and chunk_size < count and torch.is_grad_enabled():
            chunks = [slice(start, start + chunk_size) for start in range(0, count, chunk_size)]
            states = torch.cat([checkpoint(encode, users, use_reentrant=False) for users in chunks], dim=1)
        else:
            states = encode(slice(None))  # (2, B, D)
        name: Any = config.auxiliary_loss_type  # never None here
        return AUXILIARY_LOSSES[name].function(*states, inputs["view_target"], config.auxiliary_temperature)


class AutoModelForSequentialRecommendation(_BaseAutoModelClass):
    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())  # type: ignore[assignment]  # as all of them


AutoModelForSequentialRecommendation = auto_class_update(  # type: ignore[misc]  # which returns the same class
    AutoModelForSequentialRecommendation, head_doc="sequential recommendation"
)
