"""Defines what all TransRec models have: new weights, saving, loading, frozen parts, adapters, the scoring space."""

import contextlib
import copy
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .adapters import adapter_keys, can_be_merged, inject_adapters, merge_adapters
from .backbone_references import (
    check_referable,
    load_backbone_of_commit,
    load_references,
    make_references,
    missing_patterns,
)
from .backbones import layers_of, load_image_normalization, towers_of
from .checkpoint_files import (
    HUB_ARGUMENTS,
    check_name_or_path,
    checked_weights,
    own_weights,
    reaching,
    weight_names,
)
from .configuration_transrec import TransRecConfig
from .freezing import freeze, is_trained, keep_frozen_in_evaluation, leave_out_untrainable, trains_batch_norm
from .histories import Recorded
from .item_encoders import ItemEncoder
from .modalities import BACKBONES
from .offloading import align_module_device
from .quantised_weights import has_quantised_layers, in_full_precision, skip_loading_quantised
from .sentence_folders import read_text_pooling
from .user_adapters import add_adapters, choose_platform, freeze_but_adapters
from .user_encoders import UserEncoder
from .whitening import scale_segments
from .whole_saves import check_whole, whole_save


logger = logging.getLogger(__name__)

MODEL_TAGS = ("recommendation", "sequential-recommendation")


class TransRecPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading, freezing and adapters, common to both classes."""

    config: TransRecConfig
    item_encoder: ItemEncoder
    user_encoder: UserEncoder
    get_item_features: Callable[..., torch.Tensor]
    get_user_features: Callable[..., torch.Tensor]
    base_model_prefix = "model"
    name_or_path: str
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
        places = [getattr(hook, "execution_device", None) for hook in hooks]
        return next((torch.device(place) for place in places if place is not None), device)

    @torch.no_grad()
    def _init_weights(self, module):
        """Makes Xavier-normal weights and zero biases, as NineRec, which leaves some as torch has them
        (`initialization`); backbones initialise themselves."""
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
        """Resizes as transformers does, for the text backbone's tokens."""
        if "text" not in self.item_encoder.modalities:
            raise ValueError(f"a model of {self.config.modality} has no tokens to resize; make a new model instead")
        return super().resize_token_embeddings(*args, **kwargs)

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for module in self.modules():
            timm_model: Any = getattr(module, "timm_model", None)  # transformers does not reach it
            if timm_model is not None:
                timm_model.set_grad_checkpointing(enable)

    def save_pretrained(
        self,
        save_directory,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *args,
        save_backbone: bool = True,
        **kwargs,
    ):
        """Saves as transformers does, but keys keep the names they have in memory, which the Trainer needs to resume.

        The save is whole or, if it fails or the process is killed, not there: see [`whole_save`]. Over an older save
        of model and processor, the processor has to be saved, too, before it can be loaded again.

        Quantised layers are saved in full precision, with the values that they compute with. Without
        [`saved_with_code`], a configuration that came with code does not refer to it any more. The local path
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
        quantised = []
        if has_quantised_layers(self) and getattr(self, "hf_quantizer", None) is None:  # else transformers saves it
            state_dict = in_full_precision(self, self.state_dict() if state_dict is None else state_dict)
            parts = (getattr(self.config, name) for name in self.config.sub_configs_defaults)
            quantised = [
                (part, vars(part).pop("quantization_config")) for part in parts if hasattr(part, "quantization_config")
            ]
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
            for part, how in quantised:
                part.quantization_config = how

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """Loads as torch does, but skips quantised layers: they are frozen, and in full precision in checkpoints."""
        with skip_loading_quantised(self):
            return super().load_state_dict(state_dict, strict, assign)

    def push_to_hub(self, *args, save_backbone: bool = True, **kwargs):  # type: ignore[override]  # theirs is wrapped
        """Uploads as transformers does, with the tags by which recommenders are found; `save_backbone` as in
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
        """Loads as transformers does, but reads weights only from safetensors, and all that the model has.

        Weights of backbones that were left out (`save_backbone=False`) are read from the Hub or its cache, at the
        commit that the checkpoint names, and only if they have the hash that it names. Backbones that have adapters
        are frozen again.

        Of a model with platforms, `platform` chooses one, and only its adapters are trained.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            use_safetensors: must not be `False`.
            allow_missing_weights: whether parts that the checkpoint lacks may start from random weights.
            ignore_mismatched_sizes: whether parts that have another shape in the checkpoint may.
            output_loading_info: whether to return a dictionary of missing and unexpected keys beside the model.

        Raises:
            OSError: if there are no weights as safetensors.
            ValueError: if the weights are said to lie outside the checkpoint, are far fewer than configured, have
                other shapes, or lack a part of the model; if those of adapters are missing, whatever is allowed; if
                those of a backbone that were left out are not what the checkpoint refers to.
        """
        check_name_or_path(pretrained_model_name_or_path)
        if check_whole(pretrained_model_name_or_path, "model", kwargs.get("subfolder")) and kwargs.get("config"):
            raise ValueError(
                f"a save in {pretrained_model_name_or_path} was interrupted, and has been ended only now, after its "
                "configuration was read: load it again"
            )
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        if folder.is_dir() and kwargs.get("config") is None and not (folder / "config.json").exists():
            found = ", ".join(sorted(one.name for one in folder.iterdir())[:5]) or "nothing"
            raise OSError(f"{folder} is no checkpoint: it has no config.json, but {found}")
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
        not_loaded = {*missing, *(name for name, *_ in info["mismatched_keys"])}
        if model.config.peft_config is not None and (of_adapters := not_loaded & adapter_keys(model)):
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path} lack {len(of_adapters)} of its adapters', or have "
                f"them in another shape, first {min(of_adapters)}; adapters are not started anew in loading: load it "
                "with peft_config=None, and put new ones in with add_peft_adapter()"
            )
        if model.config.backbone_references:
            saved = weight_names(str(pretrained_model_name_or_path), kwargs) if reads_files else kwargs["state_dict"]
            load_references(model, saved, reaching(kwargs))
            model._backbones_cache = kwargs.get("cache_dir")
        own_weights(model)
        leave_out_untrainable(model.item_encoder.backbones)
        for projection in model.item_encoder.quantisers.values():
            projection.leave_out_untrainable()
        if model.config.platforms is not None:
            model.set_platform(model.config.platform)
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
            vectors = scale_segments(vectors, self.item_encoder.segments)
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
        self._configure(user_adapter=placement, user_adapter_reduction=reduction)
        add_adapters(self.user_encoder, self.config)

    def add_platform(self, name: str, placement: str = "serial", reduction: int = 4) -> None:
        """Adds adapters for a platform, and chooses it.

        They lie in the user encoder, beside the items' projection and behind their embeddings. All that is not the
        platform's is frozen: what the source and the platforms before it get stays as it is, to the bit, however long
        the new one is trained. The adapters change nothing until then.

        Args:
            name: of the platform, by which it is chosen.
            placement, reduction: as in [`add_user_adapter`]; those of the first platform hold for all.

        Raises:
            ValueError: if there is a platform of this name, adapters are no platform's or of another form, or the
                model has ids, which the other platforms do not have.

        Example:

        >>> from modeling_transrec import TransRecConfig, TransRecModel
        >>> text = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> model = TransRecModel(TransRecConfig(text_config=text))
        >>> model.add_platform("books")
        >>> model.add_platform("games")
        >>> model.config.platforms, model.config.platform
        (['books', 'games'], 'games')
        >>> model.set_platform("books")
        """
        config = self.config
        if config.num_items is not None:
            raise ValueError(
                f"a model of {config.modality} knows the items of one platform, and platforms share one model; drop "
                "the ids before, or train one of content"
            )
        if config.user_adapter is not None and config.platforms is None:
            raise ValueError(f"the user encoder has {config.user_adapter} adapters, which are no platform's")
        form = (config.user_adapter, config.user_adapter_reduction)
        if config.platforms is not None and form != (placement, reduction):
            raise ValueError(f"the platforms' adapters are {form[0]} and {form[1]} times as narrow, all of them")
        platforms = [*(config.platforms or ()), name]
        self._configure(
            user_adapter=placement, user_adapter_reduction=reduction, platforms=platforms, platform=platforms[-1]
        )
        add_adapters(self.user_encoder, config)
        add_adapters(self.item_encoder, config)
        self.set_platform(name)

    def set_platform(self, name: str) -> None:
        """Uses a platform's adapters, and trains only them; those of `"source"` are none.

        Raises:
            ValueError: if there is no such platform, or the model has none.
        """
        if self.config.platforms is None:
            raise ValueError(f"the model has no platforms to choose {name!r} from: add_platform() before")
        self._configure(platform=name)
        choose_platform(self.base_model, self.config.platform_index)
        self.train(self.training)

    def _configure(self, **fields) -> None:
        """Sets fields of the configuration that fit it, or none of them.

        Raises:
            ValueError: if they do not fit.
        """
        before = {name: getattr(self.config, name) for name in fields}
        try:
            for name, value in fields.items():
                setattr(self.config, name, value)
            self.config.validate_architecture()
        except Exception as error:  # a value of the wrong type is no ValueError
            for name, value in before.items():
                setattr(self.config, name, value)
            raise ValueError(str(error)) from error

    def _check_unshared(self, change: str) -> None:
        """Raises `ValueError` where platforms share what a change would train."""
        if self.config.platforms is not None:
            names = ", ".join(self.config.platforms)
            raise ValueError(
                f"{change} would change what the platforms {names} share, which stays as it is: do it before the "
                "first platform is added"
            )

    @property
    def has_frozen_backbone(self) -> bool:
        """Whether there are backbones, and nothing of them is trained."""
        backbones = self.item_encoder.backbones
        return bool(backbones) and not any(is_trained(backbone) for backbone in backbones)

    def train(self, mode: bool = True):
        """Sets the mode as torch does, but frozen modules of a backbone stay in evaluation mode (beside adapters,
        batch norms do), and so does a user encoder that is frozen whole."""
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
        if self.config.num_items is None or not self.config.contents:
            raise ValueError(f"a model of {self.config.modality} has no id part beside a content part to drop")
        if self.config.num_views > 1:
            raise ValueError(
                f"fusion={self.config.fusion!r} reads ids for every item, and ids do not transfer; train a new model"
            )
        self.item_encoder.id_embedding = self.item_encoder.id_fusion = None
        self.config.num_items = None
        self.item_encoder.modalities = self.config.contents

    def add_item_ids(self, num_items: int) -> None:
        """Puts a table of ids beside the content of a model that has none: UniSRec's transductive fine-tuning.

        Ids are added to the item embeddings and start from zero, so that they change nothing until they are trained.

        Args:
            num_items: entries of the table, one for each item of the catalogue.

        Example:

        >>> from modeling_transrec import TransRecConfig, TransRecModel
        >>> text = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> model = TransRecModel(TransRecConfig(text_config=text))
        >>> model.add_item_ids(5)
        >>> model.config.modality, int(model.item_encoder.id_embedding.weight.count_nonzero())
        ('text+id', 0)
        """
        if self.config.num_items is not None:
            raise ValueError(f"the model has ids of {self.config.num_items} items already: drop_item_ids() before")
        if self.config.platforms is not None:
            raise ValueError("a model that several platforms share has no ids, which are those of one of them")
        self._configure(num_items=num_items, id_fusion="sum")
        weight = next(self.user_encoder.parameters())
        self.item_encoder.add_ids(self.config, num_items, weight.device, weight.dtype)

    def permute_codes(self) -> None:
        """Makes a model of codes ready for another catalogue as VQ-Rec does, see [`CodesProjection`].

        Its quantiser is forgotten, so that the next training learns one for its catalogue, and which row of the table
        each code takes; [`merge_code_permutation`] ends this. A model with platforms keeps its codes.
        """
        self._check_unshared("permute_codes")
        if self.config.permute_codes:
            raise ValueError("the codes are permuted already: merge_code_permutation() before")
        self._configure(permute_codes=True)
        for projection in self.item_encoder.quantisers.values():
            projection.permute()

    def merge_code_permutation(self) -> None:
        """Puts the rows of the table in the order of the codes, and trains the table again; outputs stay the same.

        A model with platforms keeps its codes.
        """
        self._check_unshared("merge_code_permutation")
        if not self.config.permute_codes:
            raise ValueError("no codes are permuted: permute_codes() before")
        self._configure(permute_codes=False)
        for projection in self.item_encoder.quantisers.values():
            projection.merge_permutation()

    def add_peft_adapter(self, peft_config) -> None:
        """Puts adapters of the `peft` library, or bottlenecks, into the backbones, and trains only them there.

        They are part of the model: it is saved, loaded and pushed with them, like any other model. A model with
        platforms gets none: its backbones are frozen.

        Args:
            peft_config: `peft.LoraConfig`, another of `PEFT_KINDS` in `adapters.py`, or its dictionary with
                `"peft_type"`; or `{"peft_type": "BOTTLENECK"}` with `placement`, `reduction` and `target_modules`, see
                [`bottleneck_config`]. The modules that it names need to be in only one of several backbones.
        """
        self._check_unshared("a peft adapter")
        if self.config.peft_config is not None:
            raise ValueError("the model has adapters already; merge them first: merge_peft_adapter()")
        backbones = self._partsto("put adapters into")
        self.config.peft_config = inject_adapters(list(backbones.values()), peft_config)
        self._adapters_changed()

    def merge_peft_adapter(self) -> None:
        """Adds the adapters to the backbones' own weights and takes them out: a plain model, with the same outputs."""
        if self.config.peft_config is None:
            raise ValueError("the model has no adapters to merge")
        if not can_be_merged(self.config.peft_config):
            raise ValueError("bottleneck adapters are networks of their own, and cannot be merged into the backbone")
        merge_adapters(self.item_encoder.backbones)
        self.config.peft_config = None
        self._adapters_changed()

    def _adapters_changed(self) -> None:
        """Trains the adapters and nothing else of the backbones; everything, where there are none any more.

        Of a model with platforms, only the chosen platform's adapters are still trained.
        """
        leave_out_untrainable(self.item_encoder.backbones)
        if self.config.platforms is not None:
            choose_platform(self.base_model, self.config.platform_index)
        self.train(self.training)

    def _partsto(self, purpose: str) -> dict[str, PreTrainedModel]:
        """Returns the backbones by the names of their modalities; raises `ValueError` where there are none."""
        if not self.item_encoder.backbones:
            raise ValueError(f"an id model has no backbone to {purpose}")
        return {name: owner.backbone for name, owner in self.item_encoder.owners.items()}


@contextlib.contextmanager
def saved_without_backbone(model: TransRecPreTrainedModel) -> Iterator[None]:
    """Saves models, within this context, with `save_backbone=False`, whoever saves it.

    Raises:
        ValueError: at once, if [`check_referable`] does.
    """
    check_referable(model)
    model._saves_backbone = False
    try:
        yield
    finally:
        del model._saves_backbone
