"""Turns checkpoints of the code of NineRec, IDvs.MoRec, MicroLens and PixelRec into checkpoints of this package.

A file of theirs holds weights and nothing else: what cannot be told from the weights' shapes (the backbone's
configuration, attention heads, whether items are masked) is asked for. Each weight must have a place here; the
converted model is compared with a plain transcription of theirs on a batch before it is returned.

Shapes: `B` users, `L` history length, `D` hidden size, `V` items.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, ViTImageProcessorPil

from ..models.backbones import build_backbone, pooler_free_kwargs
from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecForSequentialRecommendation
from ..models.pooling import TEXT_POOLINGS, default_text_pooling
from ..models.processing_transrec import TransRecProcessor


Weights = dict[str, torch.Tensor]

MAX_DIFFERENCE = 1e-4  # between the outputs of a converted model and of the transcription, float32
MAX_TEXT_LENGTH = 30
IMAGE_SIZE = 224
# What stands for a masked item in their BERT4Rec of texts.
MASK_SENTENCES = {"zh": "这是一个遮罩句", "en": "this is a mask sentence"}


@dataclass(frozen=True)
class Source:
    """
    A code whose checkpoints can be converted: where its weights lie.

    Args:
        user_encoder: prefix of the user encoder.
        ids: name of the id table, whose first row is of padding.
        text, text_head: prefixes of the text backbone and of the linear layer after it.
        image, image_heads: prefixes of the image backbone, and of the linear layer after it.
        image_model: prefix within the image backbone that transformers' own class does not have.
        projection: row of [`~projections.PROJECTIONS`] that its head is.
    """

    user_encoder: str
    ids: str
    text: str = ""
    text_head: str = ""
    image: str = ""
    image_heads: Sequence[str] = ()
    projection: str = "gelu"


_HEADS_OF_IMAGES = ("cv_encoder.image_net.classifier.", "cv_encoder.image_net.fc.", "cv_encoder.cv_proj.")
# By the name of `--source`.
SOURCES = {
    "ninerec": Source(
        user_encoder="user_encoder.",
        ids="id_embedding.weight",
        text="nlp_encoder.text_encoders.title.nlp_model.",
        text_head="nlp_encoder.text_encoders.title.fc.",
        image="cv_encoder.image_net.",
        image_heads=_HEADS_OF_IMAGES,
    ),
    "morec": Source(
        user_encoder="user_encoder.",
        ids="id_embedding.weight",
        text="bert_encoder.text_encoders.title.bert_model.",
        text_head="bert_encoder.text_encoders.title.fc.",
        image="cv_encoder.image_net.",
        image_heads=_HEADS_OF_IMAGES,
    ),
    "microlens": Source(
        user_encoder="user_encoder.",
        ids="id_encoder.weight",
        text="text_encoder.text_encoders.bert_model.",
        text_head="text_encoder.text_encoders.pooler.",
        projection="linear",  # no activation behind it
    ),
    "pixelrec": Source(user_encoder="", ids="item_embedding.weight"),
}
# What has no place here, by a pattern of its names, and why.
_REFUSED = {
    r"(^|\.)trm_encoder\.": "this transformer has biases in its attention and GELU, as none of this package has",
    r"(^|\.)dense\.(weight|bias)$": "a linear layer follows its recurrent layers, as in none of this package",
    r"(^|\.)mlp_layers\.": "it is a DSSM or YouTube DNN, which is not converted; user_encoder_type='dnn' trains one",
    r"(^|\.)user_embedding\.": "it is a DSSM, which is not converted; user_encoder_type='dssm' trains one",
    r"moe_adaptor\.": "it is a UniSRec, whose mixture of whitening experts this package does not have",
    r"fusion_module\.": "it fuses text and image by layers of its own",
    r"(image|video)_encoder\.": "how this code reads images or videos is not known here",
    r"visual_encoder\.": "a ReLU follows its head, as in none of this package",
}
# Weights that their models do not use.
_UNUSED = (
    r"^(optimizer|rng_state)",
    r"(^|\.)pooler\.dense\.(weight|bias)$",
    r"(^|\.)position_ids$",
    r"(^|\.)relative_position_index$",
    r"^user_encoder\.final_layer\.",
)
# Their names in a user encoder, by pattern, and ours.
_BLOCK = r"transformer_encoder\.transformer_blocks\.(\d+)"
_SASREC = {
    r"transformer_encoder\.position_embedding\.(weight)": r"position_embedding.\1",
    r"transformer_encoder\.layer_norm\.(weight|bias)": r"layer_norm.\1",
    rf"{_BLOCK}\.multi_head_attention\.w_Q\.(weight)": r"layers.\1.attention.query.\2",
    rf"{_BLOCK}\.multi_head_attention\.w_K\.(weight)": r"layers.\1.attention.key.\2",
    rf"{_BLOCK}\.multi_head_attention\.w_V\.(weight)": r"layers.\1.attention.value.\2",
    rf"{_BLOCK}\.multi_head_attention\.fc\.(weight)": r"layers.\1.attention.output.\2",
    rf"{_BLOCK}\.multi_head_attention\.layer_norm\.(weight|bias)": r"layers.\1.attention_norm.\2",
    rf"{_BLOCK}\.feed_forward\.w_1\.(weight|bias)": r"layers.\1.up.\2",
    rf"{_BLOCK}\.feed_forward\.w_2\.(weight|bias)": r"layers.\1.down.\2",
    rf"{_BLOCK}\.feed_forward\.layer_norm\.(weight|bias)": r"layers.\1.layer_norm.\2",
}
_NEXTITNET = {
    r"residual_blocks\.(\d+)\.conv1\.(weight|bias)": r"layers.\1.convolutions.0.\2",
    r"residual_blocks\.(\d+)\.conv2\.(weight|bias)": r"layers.\1.convolutions.1.\2",
    r"residual_blocks\.(\d+)\.ln1\.(weight|bias)": r"layers.\1.layer_norms.0.\2",
    r"residual_blocks\.(\d+)\.ln2\.(weight|bias)": r"layers.\1.layer_norms.1.\2",
}
_GRU4REC = {r"gru_layers\.weight_(ih|hh)_l(\d+)": r"layers.\2.gru.weight_\1_l0"}


class Converted(NamedTuple):
    """A converted checkpoint.

    Args:
        model: the model, in evaluation mode.
        processor: its processor.
        unused: names of weights that were left out, since their models do not read them.
        difference: largest difference of its user embeddings and item embeddings from the transcription's.
    """

    model: TransRecForSequentialRecommendation
    processor: TransRecProcessor
    unused: list[str]
    difference: float


def read_weights(path: str | os.PathLike) -> Weights:
    """Reads the weights of a `.pt` or `.pth` file: plain tensors only, no code is run.

    Raises:
        ValueError: for a file that is no checkpoint, or has none of the usual keys.
    """
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        known: list[Any] = [(_Anything, name) for name in unsafe if name.startswith("REC.")]  # PixelRec's options
        with torch.serialization.safe_globals(known):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{os.fspath(path)}: there is no such file") from None
    except Exception as error:  # of the pickle, the archive, the operating system
        raise ValueError(
            f"{os.fspath(path)} is no checkpoint that can be read without running code: {error}"
        ) from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise ValueError(f"{os.fspath(path)} has no weights under model_state_dict or state_dict")
    weights = {str(name).removeprefix("module."): tensor for name, tensor in found.items()}  # DDP's
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"{os.fspath(path)}: {bad[0]} has values that are no finite numbers")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


class _Anything:
    """Stands for the options of PixelRec's code, which are pickled beside its weights and not read."""

    def __setstate__(self, state: Any) -> None:
        del state


def convert_checkpoint(
    path: str | os.PathLike,
    source: str,
    *,
    user_encoder_type: str | None = None,
    num_attention_heads: int | None = None,
    max_seq_len: int | None = None,
    text_model_name_or_path: str | None = None,
    vision_model_name_or_path: str | None = None,
    item_ids: Sequence[str] | None = None,
    language: str = "zh",
    text_pooling: str | None = None,
) -> Converted:
    """Converts a checkpoint of the authors' code.

    Args:
        path: their `.pt` or `.pth` file.
        source: a name in [`SOURCES`].
        user_encoder_type: `"sasrec"` or `"bert4rec"`, whose weights have the same names; others are recognised.
        num_attention_heads: of these two; 2 in all of NineRec's.
        max_seq_len: longest history `L` of GRU4Rec and NextItNet, which read the padding before shorter ones; 20 in
            NineRec.
        text_model_name_or_path: Hub id or folder of the text backbone: its configuration and tokenizer are read.
        vision_model_name_or_path: the same of the image backbone; its configuration is read.
        item_ids: of a model with ids the `V` items, in the order of its table.
        language: of the texts, `"zh"` or `"en"`.
        text_pooling: by default the first token, and the mean for decoders such as OPT.

    Raises:
        ValueError: for weights that have no place in a model of this package, or if something that the file does not
            hold is missing.

    Example:

    ```python
    converted = convert_checkpoint(
        "epoch-23.pt",
        "ninerec",
        user_encoder_type="sasrec",
        num_attention_heads=2,
        text_model_name_or_path="hfl/chinese-bert-wwm-ext",
    )
    converted.model.save_pretrained("sasrec-bert-bili500k")
    converted.processor.save_pretrained("sasrec-bert-bili500k")
    ```
    """
    if source not in SOURCES:
        raise ValueError(f"source={source!r} is unknown; choose one of {', '.join(SOURCES)}")
    conversion = _Conversion(SOURCES[source], read_weights(path), os.fspath(path))
    conversion.read_user_encoder(user_encoder_type, num_attention_heads, max_seq_len)
    conversion.read_ids(item_ids)
    conversion.read_texts(text_model_name_or_path, language, text_pooling)
    conversion.read_images(vision_model_name_or_path)
    return conversion.finish()


class _Conversion:
    """A checkpoint that is being converted: each method takes the weights that it knows out of `left`."""

    def __init__(self, source: Source, weights: Weights, path: str):
        self.source, self.path = source, path
        self.left = dict(weights)
        self.unused = [name for name in weights if any(re.search(pattern, name) for pattern in _UNUSED)]
        for name in self.unused:
            del self.left[name]
        self.fields: dict[str, Any] = {"loss_type": "bce", "item_projection": source.projection}
        self.parts: dict[str, Any] = {}  # of the processor
        self.state: Weights = {}  # under our names, without the backbones'
        self.backbones: dict[str, PreTrainedModel] = {}
        self.theirs: Weights = {}  # the user encoder's, under their names
        self.heads: Weights = {}
        self.table: torch.Tensor | None = None  # their id table, (V + 1, D) or, with a row of the mask, (V + 2, D)

    def check(self, holds: Any, sentence: str) -> None:
        if not holds:
            raise ValueError(f"{self.path}: {sentence}")

    def given(self, value: str | None, sentence: str) -> str:
        """Returns an option that is needed, and raises `ValueError` if it was left out."""
        self.check(value, sentence)
        return value or ""

    def refuse(self, names: Iterable[str]) -> None:
        """Raises `ValueError` for weights of which it is known why they have no place."""
        for name in names:
            for pattern, reason in _REFUSED.items():
                no_place = f"{name} has no place in a model of this package: {reason}"
                self.check(re.search(pattern, name) is None, no_place)

    def take(self, prefix: str) -> Weights:
        """Takes all weights with a prefix, without it."""
        found = {name: self.left.pop(name) for name in [*self.left] if prefix and name.startswith(prefix)}
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}

    def read_user_encoder(self, kind: str | None, num_attention_heads: int | None, max_seq_len: int | None) -> None:
        prefix = self.source.user_encoder
        names = {name.removeprefix(prefix): name for name in self.left if name.startswith(prefix)}
        tables = {"sasrec": _SASREC, "nextitnet": _NEXTITNET, "gru4rec": _GRU4REC}
        found = [one for one, table in tables.items() if any(_renamed(name, table) for name in names)]
        backbones = tuple(prefix for prefix in (self.source.text, self.source.image) if prefix)
        self.refuse(name for name in self.left if not name.startswith(backbones))
        self.check(len(found) == 1, "its user encoder is none of SASRec, BERT4Rec, NextItNet and GRU4Rec")
        for name, whole in names.items():
            renamed = _renamed(name, tables[found[0]])
            if renamed is not None:
                self.theirs[name] = self.left.pop(whole)
                is_convolution = "convolutions" in renamed and renamed.endswith("weight")
                tensor = self.theirs[name].squeeze(2) if is_convolution else self.theirs[name]
                self.state[f"model.user_encoder.{renamed}"] = tensor
        numbers = (re.search(r"layers\.(\d+)\.", name) for name in self.state)
        self.fields["num_hidden_layers"] = 1 + max(int(found[1]) for found in numbers if found)
        if found == ["sasrec"]:
            self.check(
                kind in ("sasrec", "bert4rec"),
                "SASRec and BERT4Rec have weights of the same names; say which one it is: --user_encoder_type",
            )
            self.check(num_attention_heads, "its attention heads are not in the file; give --num_attention_heads")
            rows, width = self.theirs["transformer_encoder.position_embedding.weight"].shape
            self.fields |= {"user_encoder_type": kind, "num_attention_heads": num_attention_heads}
            self.fields |= {"hidden_size": width, "max_seq_len": rows - (kind == "bert4rec")}  # one is of the mask
            return
        self.check(kind in (None, *found), f"it is a {found[0]}, not a {kind}")
        self.check(max_seq_len, "its longest history is not in the file; give --max_seq_len")
        self.fields |= {"user_encoder_type": found[0], "max_seq_len": max_seq_len, "padding_embedding": True}
        self.fields["hidden_size"] = next(iter(self.state.values())).shape[1]
        if found == ["nextitnet"]:
            self.fields["num_hidden_layers"] //= 2  # each of two dilated blocks
        self.fields["num_attention_heads"] = 1

    def read_ids(self, item_ids: Sequence[str] | None) -> None:
        self.table = self.left.pop(self.source.ids, None)
        if self.table is None:
            self.check(item_ids is None, "it has no id table; leave out the items")
            return
        items = self.table[1 : -1 if self.masks_items else None]
        self.check(
            item_ids is not None,
            f"it has a table of {len(items):,} ids, but not their names; name the data set that it was trained on, in "
            "the same files: --dataset_config_name",
        )
        assert item_ids is not None
        self.check(
            len(item_ids) == len(items),
            f"it has a table of {len(items):,} ids, and the data set has {len(item_ids):,} items: it was trained on "
            "another one, or on another selection of users",
        )
        self.fields |= {"num_items": len(items), "id_fusion": "sum"}
        self.parts["item_ids"] = [str(one) for one in item_ids]
        self.state["model.item_encoder.id_embedding.weight"] = items

    def read_texts(self, name: str | None, language: str, text_pooling: str | None) -> None:
        weights, head = self.take(self.source.text), self.take(self.source.text_head)
        if not weights:
            self.check(name is None, "it has no text backbone; leave out --text_model_name_or_path")
            return
        name = self.given(name, "its text backbone's configuration is not in the file; give --text_model_name_or_path")
        self.backbones["text"] = self.restore_backbone(AutoConfig.from_pretrained(name), weights)
        self.parts |= {"tokenizer": AutoTokenizer.from_pretrained(name), "language": language}
        self.parts["max_text_length"] = MAX_TEXT_LENGTH
        self.fields |= {"text_config": self.backbones["text"].config, "text_pooling": text_pooling}
        self.read_head("text", head)

    def read_images(self, name: str | None) -> None:
        head: Weights = {}
        for prefix in self.source.image_heads:
            head |= self.take(prefix)
        weights = self.take(self.source.image)
        if not weights:
            self.check(name is None, "it has no image backbone; leave out --vision_model_name_or_path")
            return
        needed = "its image backbone's configuration is not in the file; give --vision_model_name_or_path"
        name = self.given(name, needed)
        config = AutoConfig.from_pretrained(name)
        if config.model_type == "timm_wrapper":
            weights = {f"timm_model.{name}": tensor for name, tensor in weights.items()}
        self.backbones["image"] = self.restore_backbone(config, weights)
        self.parts["image_processor"] = ViTImageProcessorPil(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            resample=2,  # bilinear
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_convert_rgb=True,
        )
        self.fields |= {
            "vision_config": self.backbones["image"].config,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        }
        self.read_head("image", head)

    def restore_backbone(self, config, weights: Weights) -> PreTrainedModel:
        """Loads their weights as transformers does, which knows the names of its own earlier versions."""
        kwargs = pooler_free_kwargs(config)
        backbone_class: Any = type(build_backbone(config))
        backbone, info = backbone_class.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, dtype="float32", **kwargs
        )
        for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            wrong = sorted(map(str, info[what]))
            self.check(
                not wrong,
                f"its weights are not those of this {config.model_type} ({what.replace('_', ' ')}: "
                f"{', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}); name the backbone that it was trained with",
            )
        return backbone.eval()

    def read_head(self, part: str, head: Weights) -> None:
        self.check(head.keys() == {"weight", "bias"}, f"the linear layer after its {part} backbone was not found")
        layers = "layers.0" if self.source.projection == "gelu" else "layers"
        for name, tensor in head.items():
            self.state[f"model.item_encoder.{part}.projection.{layers}.{name}"] = tensor
            self.heads[f"{part}.{name}"] = tensor

    @property
    def masks_items(self) -> bool:
        return self.fields["user_encoder_type"] == "bert4rec"

    def finish(self) -> Converted:
        left = sorted(self.left)
        self.check(
            not left, f"{len(left)} weights have no place in a model of this package, such as {', '.join(left[:3])}"
        )
        self.check(self.backbones or self.table is not None, "it has no item encoder that is known here")
        processor = TransRecProcessor(**self.parts)
        model = TransRecForSequentialRecommendation(TransRecConfig(**self.fields), dict(self.backbones)).eval()
        with torch.no_grad():
            self._add_vectors()
            found = model.load_state_dict(self.state, strict=False)
            missing = [name for name in found.missing_keys if ".backbone." not in name]
            self.check(
                not missing and not found.unexpected_keys, f"no weights were found for {', '.join(missing[:3])}"
            )
            difference = self._difference(model)
        self.check(
            difference <= MAX_DIFFERENCE,
            f"the converted model's outputs differ from theirs by {difference:.1e}; this is a fault of the conversion",
        )
        return Converted(model, processor, self.unused, difference)

    def _add_vectors(self) -> None:
        """Computes the vectors that stand for what is missing, masked or padding, which theirs encodes as items."""
        of_padding = []
        if "text" in self.backbones:
            self.state["model.item_encoder.text.projection.missing"] = self._encode_texts([""])[0]
            tokens = torch.zeros(1, MAX_TEXT_LENGTH, dtype=torch.long)
            of_padding.append(self._encode_tokens(tokens, tokens))
        if "image" in self.backbones:
            blank = self._encode_images(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
            self.state["model.item_encoder.image.projection.missing"] = blank[0]
            of_padding.append(blank)
        if self.table is not None:
            of_padding.append(self.table[:1])
        if self.fields.get("padding_embedding"):
            self.state["model.user_encoder.padding_embedding"] = torch.cat(of_padding).sum(dim=0)
        if self.masks_items:
            self.check(
                len(of_padding) == 1 and "image" not in self.backbones, "only of texts or ids is its mask known"
            )
            sentence = MASK_SENTENCES[self.parts.get("language", "zh")]
            mask = self._encode_texts([sentence])[0] if self.table is None else self.table[-1]
            self.state["model.user_encoder.mask_embedding"] = mask

    def _tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        lowered = [text.lower() for text in texts]
        padded = {"padding": "max_length", "truncation": True, "max_length": MAX_TEXT_LENGTH}
        found = self.parts["tokenizer"](lowered, return_tensors="pt", **padded)
        return found["input_ids"], found["attention_mask"]

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Encodes texts as theirs does, to `(U, D)`."""
        return self._encode_tokens(*self._tokenize(texts))

    def _encode_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        backbone = self.backbones["text"]
        before = backbone.config._attn_implementation
        backbone.set_attn_implementation("eager")  # which attends even where all is padding, as theirs
        hidden = backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        backbone.set_attn_implementation(before)
        pooling = TEXT_POOLINGS[self.fields["text_pooling"] or default_text_pooling(backbone.config.model_type)]
        return self._project("text", pooling(hidden, attention_mask))

    def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encodes normalised images `(U, 3, height, width)` as theirs does, to `(U, D)`."""
        output = self.backbones["image"](pixel_values=pixels)
        pooled = output.get("pooler_output")
        return self._project("image", output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1))

    def _project(self, part: str, features: torch.Tensor) -> torch.Tensor:
        projected = F.linear(features, self.heads[f"{part}.weight"], self.heads[f"{part}.bias"])
        return F.gelu(projected) if self.source.projection == "gelu" else projected

    def _difference(self, model: TransRecForSequentialRecommendation) -> float:
        """Returns the largest difference of item and user embeddings from theirs on a batch."""
        generator = torch.Generator().manual_seed(0)
        items: dict[str, torch.Tensor] = {}
        expected = []
        if "text" in self.backbones:
            texts = [*MASK_SENTENCES.values(), "a b c d"]
            items["input_ids"], items["attention_mask"] = self._tokenize(texts)
            expected.append(self._encode_texts(texts))
        if "image" in self.backbones:
            items["pixel_values"] = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
            expected.append(self._encode_images(items["pixel_values"]))
        if self.table is not None:
            items["item_ids"] = torch.arange(3) % self.fields["num_items"]
            expected.append(self.table[1 + items["item_ids"]])
        embeddings = torch.stack(expected).sum(dim=0)  # of several modalities theirs takes the sum
        differences = [(model.get_item_features(**items) - embeddings).abs().max()]
        longest = self.fields["max_seq_len"]
        lengths = torch.tensor([longest, max(longest // 2, 1), 1])
        mask = torch.arange(longest) >= longest - lengths[:, None]
        histories = torch.randn(3, longest, self.fields["hidden_size"], generator=generator) * mask[:, :, None]
        transcription = _TRANSCRIPTIONS[self.fields["user_encoder_type"]]
        theirs = transcription(self.theirs, histories, mask, self.fields, self.state)
        differences.append((model.model.get_user_features(histories, mask) - theirs).abs().max())
        return float(max(differences))


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    """Returns the name that a weight has here; `None` if the table does not know it."""
    for pattern, target in table.items():
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(target)
    return None


# Transcriptions of their user encoders: histories `(B, L, D)` padded on the left, and mask `(B, L)`, to the states at
# the last position `(B, D)`.


def _transformer(weights: Weights, histories, mask, fields: Mapping[str, Any], state: Weights) -> torch.Tensor:
    start = "transformer_encoder."
    is_bert = fields["user_encoder_type"] == "bert4rec"
    if is_bert:
        masked = state["model.user_encoder.mask_embedding"].expand(len(histories), 1, -1)
        histories, mask = torch.cat([histories, masked], dim=1), F.pad(mask, (0, 1), value=True)

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    length, width = histories.shape[1:]
    allowed = mask[:, None, None, :].expand(-1, 1, length, -1)
    allowed = allowed if is_bert else allowed & torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.where(allowed, 0.0, -1e9)
    hidden = norm(f"{start}layer_norm", histories + weights[f"{start}position_embedding.weight"])
    for layer in range(fields["num_hidden_layers"]):
        block = f"{start}transformer_blocks.{layer}."
        attention, inner = f"{block}multi_head_attention.", f"{block}feed_forward."
        query, key, value = (
            F.linear(hidden, weights[f"{attention}w_{name}.weight"])
            .unflatten(-1, (fields["num_attention_heads"], -1))
            .transpose(1, 2)
            for name in "QKV"
        )
        shares = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + bias).softmax(dim=-1)
        attended = F.linear((shares @ value).transpose(1, 2).flatten(2), weights[f"{attention}fc.weight"])
        hidden = norm(f"{attention}layer_norm", hidden + attended)
        wide = F.linear(hidden, weights[f"{inner}w_1.weight"], weights[f"{inner}w_1.bias"]).relu()
        wide = F.linear(wide, weights[f"{inner}w_2.weight"], weights[f"{inner}w_2.bias"])
        hidden = norm(f"{inner}layer_norm", hidden + wide)
    return hidden[:, -1]


def _nextitnet(weights: Weights, histories, mask, fields: Mapping[str, Any], state: Weights) -> torch.Tensor:
    hidden = histories.where(mask[:, :, None], state["model.user_encoder.padding_embedding"])
    for block in range(2 * fields["num_hidden_layers"]):
        inner = hidden
        for number in (1, 2):
            name, dilation = f"residual_blocks.{block}.", (1, 4)[block % 2] * number
            image = F.pad(inner.transpose(1, 2), (2 * dilation, 0))[:, :, None]  # (B, D, 1, L)
            kernel, bias = weights[f"{name}conv{number}.weight"], weights[f"{name}conv{number}.bias"]
            inner = F.conv2d(image, kernel, bias, dilation=dilation).squeeze(2).transpose(1, 2)
            scale, shift = weights[f"{name}ln{number}.weight"], weights[f"{name}ln{number}.bias"]
            inner = F.layer_norm(inner, inner.shape[-1:], scale, shift, 1e-8).relu()
        hidden = hidden + inner
    return hidden[:, -1]


def _gru4rec(weights: Weights, histories, mask, fields: Mapping[str, Any], state: Weights) -> torch.Tensor:
    width = histories.shape[-1]
    gru = nn.GRU(width, width, fields["num_hidden_layers"], bias=False, batch_first=True)
    gru.load_state_dict({name.removeprefix("gru_layers."): tensor for name, tensor in weights.items()})
    return gru(histories.where(mask[:, :, None], state["model.user_encoder.padding_embedding"]))[0][:, -1]


_TRANSCRIPTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "sasrec": _transformer,
    "bert4rec": _transformer,
    "nextitnet": _nextitnet,
    "gru4rec": _gru4rec,
}
