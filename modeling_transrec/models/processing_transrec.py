"""The processor: raw item fields to model inputs."""

import functools
import io
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from .configuration_transrec import READ_THE_LAST_PLACE, TransRecConfig


logger = logging.getLogger(__name__)

LANGUAGES = ("en", "zh")
_LARGEST_PICTURE = 2**13  # height or width, in pixels
_NO_IMAGE = -1  # in `image_index`: the item has no image


class _NoTokenizer:
    """Stands where a processor has no tokenizer: the Trainer asks every processor for these."""

    eos_token_id = bos_token_id = pad_token_id = None


class TransRecProcessor(ProcessorMixin):
    r"""
    Turns items into model inputs: texts into tokens, covers into pixels, item ids into rows of the id table; any of
    them together. Saved beside the model, it makes a checkpoint usable without the data it was trained on.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): tokenizer of the text backbone.
        image_processor (`BaseImageProcessor`, *optional*):
            Image processor of the vision backbone; its pictures must all have one size.
        item_ids (`list[str]`, *optional*): items of the id table, in its order.
        user_ids (`list[str]`, *optional*): users of the user-id table (DSSM), in its order.
        language (`str`, defaults to `"en"`): which text of an item is read, `"en"` (`text_en`) or `"zh"` (`text_zh`).
        max_text_length (`int`, defaults to 30): longest text in tokens, special tokens included; NineRec's limit.
        do_lower_case (`bool`, defaults to `True`): lower-case texts before the tokenizer, as NineRec does.

    Example:

    >>> from modeling_transrec import TransRecProcessor
    >>> processor = TransRecProcessor(item_ids=["b7", "a1"])
    >>> processor(item_ids=["a1", "b7", "a1"])["item_ids"]
    tensor([1, 0, 1])
    """

    tokenizer = _NoTokenizer()
    image_processor = None

    def __init__(
        self,
        tokenizer=None,
        image_processor=None,
        item_ids: list[str] | None = None,
        user_ids: list[str] | None = None,
        language: str = "en",
        max_text_length: int = 30,
        do_lower_case: bool = True,
        modality: str | None = None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"TransRecProcessor has no option {', '.join(map(repr, kwargs))}")
        parts = {"text": tokenizer, "image": image_processor, "id": item_ids}
        found = "+".join(name for name, part in parts.items() if part is not None)
        if not found:
            raise ValueError(
                "give a tokenizer (text), an image_processor (image) or item_ids (id), or several of them"
            )
        if modality not in (None, found):  # written by `save_pretrained`, which thereby says what to load
            raise ValueError(f"modality={modality!r}, but what was given makes a processor of {found}")
        self.modality = found
        if language not in LANGUAGES:
            raise ValueError(f"language={language!r} is unknown; choose from {', '.join(map(repr, LANGUAGES))}")
        for name, part in (("tokenizer", tokenizer), ("image_processor", image_processor)):
            if part is not None:
                self.check_argument_for_proper_class(name, part)
                setattr(self, name, part)
        if tokenizer is not None:
            least = tokenizer.num_special_tokens_to_add() + 1
            if max_text_length < least:
                raise ValueError(f"max_text_length must be at least {least} for this tokenizer, got {max_text_length}")
            if tokenizer.pad_token is None:  # decoders such as GPT-2 have none; padding is masked out anyway
                tokenizer.pad_token = tokenizer.eos_token
            if tokenizer.pad_token is None:
                raise ValueError("the tokenizer has no pad token, nor an eos token to stand for it; set its pad_token")
        if image_processor is not None:
            _check_picture_size(image_processor)
        self.item_ids, self._item_rows = _numbered("item_ids", item_ids)
        self.user_ids, self._user_rows = _numbered("user_ids", user_ids)
        self.language = language
        self.max_text_length = max_text_length
        self.do_lower_case = do_lower_case
        self.chat_template = None
        saved = tuple(name for name, part in parts.items() if name != "id" and part is not None)
        self.get_attributes = functools.partial(list, tuple(_PART_NAMES[name] for name in saved))

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """The tokenizer and image processor that lie in the folder, `None` for what the processor has not."""
        modality = (processor_dict or {}).get("modality") or "text"
        arguments = []
        for part, name in _PART_NAMES.items():
            if part not in modality.split("+"):
                arguments.append(None)
                continue
            one = type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _, name=name: [name])})
            arguments += super(TransRecProcessor, one)._get_arguments_from_pretrained(
                pretrained_model_name_or_path,
                processor_dict,
                **kwargs,
                **({"backend": "pil"} if part == "image" else {}),
            )
        return arguments

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers; without code, what came with code does not refer to it any more."""
        if self._auto_class is None:
            parts = [getattr(self, name) for name in self.get_attributes()]
            described = [vars(self), *(vars(part) for part in parts)]
            for fields in (*described, *(part.init_kwargs for part in parts if hasattr(part, "init_kwargs"))):
                fields.pop("auto_map", None)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def modalities(self) -> list[str]:
        """What of an item is read, of `"text"`, `"image"` and `"id"`."""
        return self.modality.split("+")

    @property
    def fingerprint(self) -> str:
        """What [`prepare`] depends on, as text: two processors with the same one make the same of an item."""
        parts = [type(self.tokenizer).__name__, self.to_json_string()]
        if "text" in self.modalities:
            backend = getattr(self.tokenizer, "backend_tokenizer", None)
            described = {"vocabulary": self.tokenizer.get_vocab(), "options": str(self.tokenizer.init_kwargs)}
            if backend is not None:  # it remembers how it was last called
                described = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
            parts.append(json.dumps(described, sort_keys=True))
        return "\n".join(parts)

    @property
    def text_column(self) -> str:
        """The column of the items table that holds the texts."""
        return f"text_{self.language}"

    @property
    def item_columns(self) -> list[str]:
        """The columns of the items table that are read."""
        columns = {"text": self.text_column, "image": "image", "id": "item_id"}
        return [columns[name] for name in self.modalities]

    @property
    def model_input_names(self) -> list[str]:
        texts = ["input_ids", "attention_mask", "has_text"]
        names = {"text": texts, "image": ["pixel_values", "image_index"], "id": ["item_ids"]}
        return [name for modality in self.modalities for name in names[modality]]

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """`(3, H, W)` of every picture after resizing and cropping."""
        shapes = {self._resize([Image.new("RGB", size)])[0].shape for size in ((64, 48), (48, 64))}
        if len(shapes) > 1:
            raise ValueError(
                f"{type(self.image_processor).__name__} makes pictures of different sizes, and a batch needs one; "
                'give it a fixed one, such as size={"height": 224, "width": 224}'
            )
        return shapes.pop()

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images=None,
        item_ids: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Items to model inputs.

        Args:
            text: item texts; blank or `None` where an item has none.
            images: `PIL.Image` or image file as bytes, one an item; `None` where an item has none.
            item_ids: item ids.
            return_tensors: `"pt"`, the only form the model takes.

        Returns: `input_ids` and `attention_mask` `(U, T)`, padded to the longest, and `has_text` `(U,)`, false where
        an item has none; `pixel_values` `(P, 3, H, W)` of the `P` items that have a picture and `image_index` `(U,)`,
        each item's row there or -1; `item_ids` `(U,)`.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        given = {"text": text, "image": images, "id": item_ids}
        arguments = {"text": "text", "image": "images", "id": "item_ids"}
        missing = [arguments[name] for name in self.modalities if given[name] is None]
        if missing:
            raise ValueError(f"this processor belongs to a model of {self.modality}: pass {'=…, '.join(missing)}=…")
        columns = {}
        for name, column in zip(self.modalities, self.item_columns, strict=True):
            single = isinstance(given[name], str | bytes | Image.Image)
            columns[column] = [given[name]] if single else list(given[name])
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError(f"text, images and item_ids must be of as many items: {_lengths(columns)}")
        return self.normalize(self.pad(self.prepare(columns)))

    def prepare(self, items: dict[str, Sequence]) -> dict[str, list]:
        """Columns of the items table to unpadded inputs.

        `input_ids`: a list of its own length each; `has_text`: whether there is one, not blank; `pixels`: bytes of
        the picture, resized, or `None`; `item_ids`. It has the form that `datasets.Dataset.map(…, batched=True)`
        takes, so that items are prepared once.
        """
        prepared = {}
        if "text" in self.modalities:
            texts = [text or "" for text in items[self.text_column]]
            if self.do_lower_case:
                texts = [text.lower() for text in texts]
            tokens = self.tokenizer(
                texts, truncation=True, max_length=self.max_text_length, padding=False, return_attention_mask=False
            )["input_ids"]
            none = self.tokenizer.num_special_tokens_to_add()
            prepared["has_text"] = [
                len(ids) > none and bool(text.strip()) for ids, text in zip(tokens, texts, strict=True)
            ]
            prepared["input_ids"] = [ids or [self._empty_text_token] for ids in tokens]
        if "image" in self.modalities:
            prepared["pixels"] = [self._pixels(image) for image in items["image"]]
        if "id" in self.modalities:
            prepared["item_ids"] = [self._item_row(item_id) for item_id in items["item_id"]]
        return prepared

    def pad(self, features: dict[str, list]) -> BatchFeature:
        """Unpadded inputs of [`prepare`], or precomputed features or states in their place, to the model's tensors.

        Pictures stay bytes, a quarter of what floats take on the way to the device; [`normalize`] them there.
        """
        batch = {}
        if "input_ids" in features:
            padded = pad_right(features["input_ids"], self.tokenizer.pad_token_id)
            batch["input_ids"], batch["attention_mask"] = map(torch.from_numpy, padded)
        if "has_text" in features:
            batch["has_text"] = torch.tensor(features["has_text"], dtype=torch.bool)
        if "pixels" in features:
            pixels, batch["image_index"] = _present(features["pixels"])
            flat = np.frombuffer(bytearray().join(pixels), dtype=np.uint8)  # writable, without another copy
            batch["pixel_values"] = torch.from_numpy(flat.reshape(-1, *self.image_shape))
        if "item_ids" in features:
            batch["item_ids"] = torch.tensor(features["item_ids"], dtype=torch.long)
        for name in ("text_features", "item_features"):
            if name in features:
                batch[name] = torch.from_numpy(np.asarray(features[name], dtype=np.float32))
        if "image_features" in features:
            vectors, batch["image_index"] = _present(features["image_features"])
            batch["image_features"] = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        if "text_states" in features:
            batch["text_states"] = _states(features["text_states"])
        if "image_states" in features:
            states, batch["image_index"] = _present(features["image_states"])
            batch["image_states"] = _states(np.stack(states)) if states else torch.zeros(0)
        return BatchFeature(batch)

    def normalize(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The batch with its pictures rescaled and normalised by the image processor's constants, where it has any.

        `pixel_values` `(P, 3, H, W)` become float32 from uint8, on the device that they are on.
        """
        if "pixel_values" not in batch:
            return batch
        processor, values = self.image_processor, batch["pixel_values"].float()
        if getattr(processor, "do_rescale", True):
            values *= processor.rescale_factor
        if getattr(processor, "do_normalize", True):
            for channel, mean, std in zip(values.unbind(1), processor.image_mean, processor.image_std, strict=True):
                channel.sub_(mean).div_(std)
        return type(batch)({**batch, "pixel_values": values})

    def without_item_ids(self) -> "TransRecProcessor":
        """The same for content alone: what a model of content and ids keeps on another catalogue."""
        parts = {name: getattr(self, name) for name in self.get_attributes()}
        options = ("user_ids", "language", "max_text_length", "do_lower_case")
        return type(self)(**parts, **{name: getattr(self, name) for name in options})

    def user_rows(self, user_ids: Iterable[str]) -> list[int]:
        """Rows of the user-id table (DSSM)."""
        rows = []
        for user_id in user_ids:
            if user_id not in (self._user_rows or {}):
                raise ValueError(
                    f"user {user_id!r} is not among the {len(self._user_rows or {})} users that this model was "
                    "trained on; a model of user ids cannot serve new users, the other user encoders can"
                )
            rows.append(self._user_rows[user_id])
        return rows

    def _item_row(self, item_id: str) -> int:
        if item_id not in self._item_rows:
            raise ValueError(
                f"item {item_id!r} is not among the {len(self._item_rows)} items that this id model was trained on; "
                "an id model cannot encode new items, a content model can"
            )
        return self._item_rows[item_id]

    def _pixels(self, image) -> bytes | None:
        """A picture, as `PIL.Image`, bytes, or the dictionary of an undecoded `datasets.Image`; resized to bytes."""
        if isinstance(image, dict):
            image = image["bytes"] if image["bytes"] is not None else image["path"]
        if image is None:
            return None
        if not isinstance(image, Image.Image):
            name = image if isinstance(image, str) else "a picture"
            try:
                image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
                image.load()
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                logger.warning("%s cannot be read and counts as missing: %s", name, error)
                return None
        return self._resize([image.convert("RGB")])[0].tobytes()

    def _resize(self, images: list[Image.Image]) -> np.ndarray:
        """The image processor's resizing and cropping alone: `(P, 3, H, W)` of uint8."""
        resized = self.image_processor(images, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.asarray(resized["pixel_values"]).astype(np.uint8)

    @property
    def _empty_text_token(self) -> int:
        """What stands for a text without tokens, where the tokenizer adds no special ones."""
        for name in ("eos_token_id", "unk_token_id", "pad_token_id"):
            if getattr(self.tokenizer, name, None) is not None:
                return getattr(self.tokenizer, name)
        raise ValueError("the tokenizer has no eos, unk or pad token to stand for an empty text")


_PART_NAMES = {"text": "tokenizer", "image": "image_processor"}  # in the order of the processor's arguments


def _numbered(name: str, ids: Iterable[str] | None) -> tuple[list[str] | None, dict[str, int] | None]:
    """Ids as a list, and each one's place in it."""
    if ids is None:
        return None, None
    ids = list(ids)
    rows = {one: row for row, one in enumerate(ids)}
    if len(rows) != len(ids):
        raise ValueError(f"{name} must be distinct")
    return ids, rows


def _check_picture_size(image_processor) -> None:
    """Refuses pictures that no memory could hold."""
    for name in ("size", "crop_size"):
        for side, pixels in dict(getattr(image_processor, name, None) or {}).items():
            if pixels is not None and pixels > _LARGEST_PICTURE:
                raise ValueError(
                    f"the image processor's {name} must be at most {_LARGEST_PICTURE}, got {side}={pixels}"
                )


def pad_right(lists: Sequence[Sequence[int]], filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts' tokens to one array `(U, T)`, and its mask, 1 at tokens.

    As a tokenizer's `pad`, which loops over the texts in Python; on the right, whatever the tokenizer's habit, since
    backbones with absolute positions count from the left.

    >>> pad_right([[5], [1, 2]], filler=0)
    (array([[5, 0],
           [1, 2]]), array([[1, 0],
           [1, 1]]))
    """
    lengths = np.array([*map(len, lists)], dtype=np.int64)
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_token.shape, filler, dtype=np.int64)
    padded[is_token] = np.fromiter(itertools.chain.from_iterable(lists), np.int64, lengths.sum())
    return padded, is_token.astype(np.int64)


def _present(values: Sequence) -> tuple[list, torch.Tensor]:
    """The values that are not `None`, and for each place the row of its value among them, or -1."""
    has_value = np.array([value is not None for value in values], dtype=bool)
    rows = np.where(has_value, has_value.cumsum() - 1, _NO_IMAGE)
    return [value for value in values if value is not None], torch.from_numpy(rows)


def _states(values: np.ndarray) -> torch.Tensor:
    """Stored hidden states at their own precision; numpy has no bfloat16, whose bits are kept as uint16."""
    states = torch.from_numpy(values)
    return states.view(torch.bfloat16) if states.dtype == torch.uint16 else states


def _lengths(columns: dict[str, list]) -> str:
    return ", ".join(f"{len(values)} of {name}" for name, values in columns.items())


def check_texts(processor: TransRecProcessor, config: TransRecConfig) -> None:
    """Raises `ValueError` where texts may become longer than the backbone has positions, or padding is another."""
    backbone = config.text_config or config.multimodal_config
    positions = getattr(getattr(backbone, "text_config", backbone), "max_position_embeddings", None)
    if positions is not None and processor.max_text_length > positions:
        raise ValueError(
            f"max_text_length {processor.max_text_length} is more than the {positions} positions of the text backbone"
        )
    if getattr(config.multimodal_config, "model_type", None) in READ_THE_LAST_PLACE:
        theirs, ours = backbone.text_config.pad_token_id, processor.tokenizer.pad_token_id
        if theirs != ours:
            raise ValueError(
                f"the text tower reads padding, and has pad_token_id={theirs} where the tokenizer's is {ours}; set "
                f"model.config.multimodal_config.text_config.pad_token_id = {ours}"
            )


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> PreTrainedTokenizerFast:
    """A lower-casing sub-word tokenizer trained on these texts, for backbones trained from scratch.

    Byte-pair encoding (Sennrich et al., ACL 2016) over BERT's words and single Chinese characters, `[CLS]` before and
    `[SEP]` after a text. Unlike the WordPiece trainer's, its result depends on the texts alone, so every process and
    every resumed run gets the same one.

    Example:

    >>> tokenizer = train_tokenizer(["jump rope", "jump suit", "红烧肉"], vocab_size=60)
    >>> tokenizer.tokenize("Jump rope 肉")
    ['jump', 'rope', '肉']
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special["mask_token"] = "[MASK]"
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    around = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
