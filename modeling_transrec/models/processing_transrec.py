"""The processor: raw item fields to model inputs."""

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin, Unpack

from .backbones import image_normalization, unused_positions
from .checkpoint_files import named_errors
from .configuration_transrec import TransRecConfig
from .modalities import MODALITIES, Modality, as_tensor
from .multimodal_encoders import reads_last_position
from .processor_options import CallOptions, TransRecProcessorKwargs
from .whole_saves import check_whole, whole_save


LANGUAGES = ("en", "zh")
# The parts that are saved in files of their own, by modality, in the order of the processor's arguments.
_SAVED_PARTS = {modality.name: modality.part for modality in MODALITIES.values() if modality.is_saved}


class _NoTokenizer:
    """Stands where a processor has no tokenizer: the Trainer asks every processor for these."""

    eos_token_id = bos_token_id = pad_token_id = None


class TransRecProcessor(ProcessorMixin):
    r"""
    Turns items into model inputs: texts into tokens, images into pixels, sounds into samples or spectrograms, item ids
    into indices of the id table; any of them together. Saved beside the model, it makes a checkpoint usable without
    the data it was trained on.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): tokenizer of the text backbone.
        image_processor (`BaseImageProcessor`, *optional*):
            Image processor of the image backbone; its images must all have one size.
        feature_extractor (`SequenceFeatureExtractor`, *optional*): feature extractor of the audio backbone.
        item_ids (`list[str]`, *optional*): items of the id table, in its order.
        user_ids (`list[str]`, *optional*): users of the user-id table (DSSM), in its order.
        language (`str`, defaults to `"en"`): which text of an item is read, `"en"` (`text_en`) or `"zh"` (`text_zh`).
        max_text_length (`int`, defaults to 30): longest text in tokens, special tokens included; NineRec's limit.
        do_lower_case (`bool`, defaults to `True`): lower-case texts before the tokenizer, as NineRec does.
        item_prefix (`str`, defaults to `""`): set before every text, as it is; `"passage: "` for E5. Some sentence
            encoders tell documents from queries by it. Items are documents, and histories are not texts.
        max_audio_seconds (`float`, defaults to 10.0): only so much of a sound, from its beginning, is read.

    Example:

    >>> from modeling_transrec import TransRecProcessor
    >>> processor = TransRecProcessor(item_ids=["b7", "a1"])
    >>> processor(item_ids=["a1", "b7", "a1"])["item_ids"]
    tensor([1, 0, 1])
    """

    valid_processor_kwargs: Any = TransRecProcessorKwargs
    tokenizer: Any = _NoTokenizer()
    image_processor: Any = None
    feature_extractor: Any = None
    _loaded_from: str | os.PathLike | None = None

    def __init__(
        self,
        tokenizer=None,
        image_processor=None,
        feature_extractor=None,
        item_ids: list[str] | None = None,
        user_ids: list[str] | None = None,
        language: str = "en",
        max_text_length: int = 30,
        do_lower_case: bool = True,
        item_prefix: str = "",
        max_audio_seconds: float = 10.0,
        modality: str | None = None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"TransRecProcessor has no option {', '.join(map(repr, kwargs))}")
        given = {
            "tokenizer": tokenizer,
            "image_processor": image_processor,
            "feature_extractor": feature_extractor,
            "item_ids": item_ids,
        }
        found = "+".join(name for name, one in MODALITIES.items() if given[one.part] is not None)
        if not found:
            parts = ", ".join(f"{one.part} ({name})" for name, one in MODALITIES.items())
            raise ValueError(f"give {parts}, or several of them")
        if modality not in (None, found):  # written by `save_pretrained`, which thereby says what to load
            raise ValueError(f"modality={modality!r}, but what was given makes a processor of {found}")
        self.modality = found
        if language not in LANGUAGES:
            raise ValueError(f"language={language!r} is unknown; choose from {', '.join(map(repr, LANGUAGES))}")
        self.item_ids, self._item_id_index = _numbered("item_ids", item_ids)
        self.user_ids, self._user_id_index = _numbered("user_ids", user_ids)
        self.language = language
        self.max_text_length = max_text_length
        self.do_lower_case = do_lower_case
        self.item_prefix = item_prefix
        self.max_audio_seconds = max_audio_seconds
        self.chat_template = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        saved = tuple(_SAVED_PARTS[name] for name in self.modalities if name in _SAVED_PARTS)
        for part in saved:
            self.check_argument_for_proper_class(part, given[part])
            setattr(self, part, given[part])
        for one in self.read:
            one.check(self)
        self.get_attributes = functools.partial(list, saved)  # type: ignore[method-assign]  # each has its own parts

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """Returns the parts that lie in the folder, `None` for those that the processor has not."""
        modality = (processor_dict or {}).get("modality") or "text"
        arguments: list[Any] = []
        for part, name in _SAVED_PARTS.items():
            if part not in modality.split("+"):
                arguments.append(None)
                continue
            one = type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _, name=name: [name])})
            arguments += super(TransRecProcessor, cast(Any, one))._get_arguments_from_pretrained(
                pretrained_model_name_or_path,
                processor_dict,
                **kwargs,
                **MODALITIES[part].loading,
            )
        return arguments

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads as transformers does.

        Raises:
            ValueError: if its files are damaged, or the model beside it was saved over an older save, and the
                processor was not.
        """
        check_whole(pretrained_model_name_or_path, "processor", kwargs.get("subfolder"))
        with named_errors(pretrained_model_name_or_path):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._loaded_from = pretrained_model_name_or_path
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves as transformers does; without code, what came with code does not refer to it any more.

        The save is whole or not there, as a model's is.
        """
        if self._auto_class is None:
            parts = [getattr(self, name) for name in self.get_attributes()]
            for one in (self, *parts):
                vars(one).pop("auto_map", None)
                getattr(one, "init_kwargs", {}).pop("auto_map", None)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", Path(save_directory).name)
        with whole_save(save_directory, "processor", loaded_from=self._loaded_from) as folder:
            saved = super().save_pretrained(str(folder), *args, **kwargs)
        return [str(Path(save_directory, Path(name).relative_to(folder))) for name in saved]

    @property
    def modalities(self) -> list[str]:
        """The modalities of an item that are read, keys of [`MODALITIES`]."""
        return self.modality.split("+")

    @property
    def read(self) -> list[Modality]:
        """The modalities that are read, as objects."""
        return [MODALITIES[name] for name in self.modalities]

    @property
    def fingerprint(self) -> str:
        """What [`prepare`] depends on, as text: two processors with the same one make the same of an item."""
        parts = [type(self.tokenizer).__name__, self.to_json_string()]
        if "text" in self.modalities:
            backend = getattr(self.tokenizer, "backend_tokenizer", None)
            if backend is None:
                described = {"vocabulary": self.tokenizer.get_vocab(), "options": str(self.tokenizer.init_kwargs)}
                parts.append(json.dumps(described, sort_keys=True))
            else:
                parts.append(_described(backend.to_str()))
        return "\n".join(parts)

    @property
    def item_columns(self) -> list[str]:
        """The columns of the items table that are read."""
        return [modality.column(self) for modality in self.read]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        names = []
        for modality in self.read:
            names += [*modality.inputs, *([f"{modality.name}_index"] if modality.is_sparse else [])]
        return names

    def shape_of(self, modality: str) -> tuple[int, ...]:
        """Returns the shape of one stored content of a modality, such as `(3, height, width)` of an image."""
        if modality not in self._shapes:
            self._shapes[modality] = MODALITIES[modality].shape(self)
        return self._shapes[modality]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images=None,
        audio=None,
        item_ids: str | Sequence[str] | None = None,
        **kwargs: Unpack[TransRecProcessorKwargs],
    ) -> BatchFeature:
        """Turns items into model inputs.

        Args:
            text: item texts; blank or `None` where an item has none.
            images: `PIL.Image` or image file as bytes, one an item; `None` where an item has none.
            audio: samples at the feature extractor's sampling rate, `{"array": …, "sampling_rate": …}` or an audio
                file as bytes, one an item; `None` where an item has none.
            item_ids: item ids.
            kwargs: options of this call, such as `max_length=12` or `images_kwargs={"size": …}`, see
                [`TransRecProcessorKwargs`]. Training, evaluation and catalogues prepare items by what is saved with
                the processor, so that they agree.

        Returns: the model's item inputs, see [`ItemInputs`]; images stay bytes, which the model normalises.

        Raises:
            TypeError: for an option that there is not.
            ValueError: if an argument is missing, or the arguments are of different numbers of items.

        >>> processor = TransRecProcessor(train_tokenizer(["red rope", "a small blue lamp"]))
        >>> processor(text=["red rope", "a small blue lamp"], max_length=4)["input_ids"].shape
        torch.Size([2, 4])
        """
        options = CallOptions(self, kwargs)
        given = {"text": text, "images": images, "audio": audio, "item_ids": item_ids}
        arguments = [modality.argument for modality in self.read]
        missing = [name for name in arguments if given[name] is None]
        if missing:
            raise ValueError(f"this processor belongs to a model of {self.modality}: pass {'=…, '.join(missing)}=…")
        columns: dict[str, Sequence] = {}
        for name, column in zip(arguments, self.item_columns, strict=True):
            single = isinstance(given[name], str | bytes | dict | np.ndarray | Image.Image)
            columns[column] = [given[name]] if single else list(given[name])
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{len(values)} of {name}" for name, values in columns.items())
            raise ValueError(f"{', '.join(arguments)} must be of as many items: {lengths}")
        prepared = options.processor.prepare(options.with_sampling_rate(columns))
        return options.finish(options.processor.pad(prepared))

    def prepare(self, items: Mapping[str, Sequence]) -> dict[str, list]:
        """Turns columns of the items table into stored, unpadded inputs; see `stored` of each of [`MODALITIES`].

        It has the form that `datasets.Dataset.map(…, batched=True)` takes, so that items are prepared once.
        """
        prepared: dict[str, list] = {}
        for modality in self.read:
            prepared |= modality.prepare(self, items[modality.column(self)])
        return prepared

    def pad(self, stored: Mapping[str, Sequence]) -> BatchFeature:
        """Turns stored inputs of [`prepare`], or precomputed features or states in their place, into model inputs."""
        batch: dict[str, torch.Tensor] = {}
        for modality in self.read:
            batch |= modality.pad(self, stored)
        if "item_features" in stored:  # of one model for several modalities
            batch["item_features"] = as_tensor(stored["item_features"])
        return BatchFeature(batch)

    def without_item_ids(self) -> "TransRecProcessor":
        """Returns the same processor for content only: what a model of content and ids keeps on another catalogue."""
        return self._with_ids(None)

    def with_item_ids(self, item_ids: Sequence[str]) -> "TransRecProcessor":
        """Returns the same processor for content and these ids, see [`~TransRecPreTrainedModel.add_item_ids`]."""
        return self._with_ids(list(item_ids))

    def _with_ids(self, item_ids: list[str] | None) -> "TransRecProcessor":
        parts = {name: getattr(self, name) for name in self.get_attributes()}
        options = ("user_ids", "language", "max_text_length", "do_lower_case", "item_prefix", "max_audio_seconds")
        return type(self)(**parts, item_ids=item_ids, **{name: getattr(self, name) for name in options})

    def user_index(self, user_ids: Iterable[str]) -> list[int]:
        """Returns users' indices in the table of user ids (DSSM)."""
        known, wanted = self._user_id_index, [str(one) for one in user_ids]
        unknown = [user_id for user_id in wanted if user_id not in known]
        if unknown:
            raise ValueError(
                f"user {unknown[0]!r} is not among the {len(known)} users that this model was trained on; a model of "
                "user ids cannot serve new users, the other user encoders can"
            )
        return [known[user_id] for user_id in wanted]

    def item_id_index(self, item_id: str) -> int:
        """Returns an item's index in the id table."""
        item_id = str(item_id)
        if item_id not in self._item_id_index:
            raise ValueError(
                f"item {item_id!r} is not among the {len(self._item_id_index)} items that this id model was trained "
                "on; an id model cannot encode new items, a content model can"
            )
        return self._item_id_index[item_id]


def _numbered(name: str, ids: Iterable[str] | None) -> tuple[list[str] | None, dict[str, int]]:
    """Ids as a list of strings, and each one's place in it."""
    if ids is None:
        return None, {}
    if isinstance(ids, Sequence):  # a column of a data set: read at once, not row by row
        ids = ids[:]
    ids = [str(one) for one in ids]
    rows = {one: row for row, one in enumerate(ids)}
    if len(rows) != len(ids):
        raise ValueError(f"{name} must be distinct")
    return ids, rows


def check_processor(processor: TransRecProcessor, config: TransRecConfig) -> None:
    """Raises `ValueError` where a processor and a model do not belong together.

    Texts may become longer than the backbone has positions; padding may be another where the backbone reads it; images
    may be normalised otherwise than the image processor says.
    """
    if "text" in processor.modalities:
        _check_texts(processor, config)
    if "image" in processor.modalities:
        options = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        images = processor.image_processor
        theirs = image_normalization({name: getattr(images, name) for name in options if hasattr(images, name)})
        ours = {name: getattr(config, name) or [0.5, 0.5, 0.5] for name in theirs}
        if any(abs(a - b) > 1e-4 for name in theirs for a, b in zip(theirs[name], ours[name], strict=True)):
            fields = ", ".join(f"{name}={values}" for name, values in theirs.items())
            raise ValueError(
                f"the image processor normalises images by {theirs}, and the model by {ours}; make the model with "
                f"TransRecConfig(…, {fields})"
            )


def _check_texts(processor: TransRecProcessor, config: TransRecConfig) -> None:
    backbone = config.text_config or config.multimodal_config
    positions = getattr(getattr(backbone, "text_config", backbone), "max_position_embeddings", None)
    if positions is not None and processor.max_text_length > positions - unused_positions(backbone):
        raise ValueError(
            f"max_text_length {processor.max_text_length} is more than the {positions - unused_positions(backbone)} "
            "positions of the text backbone; give the processor a smaller max_text_length"
        )
    if reads_last_position(config.multimodal_config):
        theirs, ours = (
            config.backbone_config("multimodal_config").text_config.pad_token_id,
            processor.tokenizer.pad_token_id,
        )
        if theirs != ours:
            raise ValueError(
                f"the text tower reads padding, and has pad_token_id={theirs} where the tokenizer's is {ours}; set "
                f"model.config.multimodal_config.text_config.pad_token_id = {ours}"
            )


@functools.lru_cache(maxsize=1)  # a tenth of a second with 30,000 tokens, and a catalogue asks for it twice
def _described(backend: str) -> str:
    """Returns what a tokenizer says of itself, without how it was last called, which it remembers."""
    return json.dumps({**json.loads(backend), "truncation": None, "padding": None}, sort_keys=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> PreTrainedTokenizerFast:
    """Trains a lower-casing sub-word tokenizer on these texts, for backbones trained from scratch.

    Byte-pair encoding (Sennrich et al., ACL 2016) over BERT's words and single Chinese characters, `[CLS]` before and
    `[SEP]` after a text. Unlike the WordPiece trainer's, its result depends only on the texts, so every process and
    every resumed run gets the same one.

    Example:

    >>> tokenizer = train_tokenizer(["jump rope", "jump suit", "红烧肉"], vocab_size=60)
    >>> tokenizer.tokenize("Jump rope 肉")
    ['jump', 'rope', '肉']
    """
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    around = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
