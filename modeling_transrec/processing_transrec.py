"""The processor: raw item fields to model inputs."""

import functools
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin


LANGUAGES = ("en", "zh")


class _NoTokenizer:
    """Stands where a processor has no tokenizer: the Trainer asks every processor for these."""

    eos_token_id = bos_token_id = pad_token_id = None


class TransRecProcessor(ProcessorMixin):
    r"""
    Turns items into model inputs: texts into tokens, for a text model, or item ids into rows of the id table, for an
    id model. Saved beside the model, it makes a checkpoint usable without the data it was trained on.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): tokenizer of the text backbone.
        item_ids (`list[str]`, *optional*): the id model's items, in the order of its table.
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

    def __init__(
        self,
        tokenizer=None,
        item_ids: list[str] | None = None,
        language: str = "en",
        max_text_length: int = 30,
        do_lower_case: bool = True,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"TransRecProcessor has no option {', '.join(map(repr, kwargs))}")
        if (tokenizer is None) == (item_ids is None):
            raise ValueError("give a tokenizer (text model) or item_ids (id model), one of them")
        if language not in LANGUAGES:
            raise ValueError(f"language={language!r} is unknown; choose from {', '.join(map(repr, LANGUAGES))}")
        if tokenizer is not None:
            self.check_argument_for_proper_class("tokenizer", tokenizer)
            least = tokenizer.num_special_tokens_to_add() + 1
            if max_text_length < least:
                raise ValueError(f"max_text_length must be at least {least} for this tokenizer, got {max_text_length}")
            if tokenizer.pad_token is None:  # decoders such as GPT-2 have none; padding is masked out anyway
                tokenizer.pad_token = tokenizer.eos_token
            self.tokenizer = tokenizer
        else:
            item_ids = list(item_ids)
            self._rows = {item_id: row for row, item_id in enumerate(item_ids)}
            if len(self._rows) != len(item_ids):
                raise ValueError("item_ids must be distinct")
        self.item_ids = item_ids
        self.language = language
        self.max_text_length = max_text_length
        self.do_lower_case = do_lower_case
        self.chat_template = None
        parts = () if tokenizer is None else ("tokenizer",)
        self.get_attributes = functools.partial(list, parts)  # what ProcessorMixin saves and loads

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        if (processor_dict or {}).get("item_ids") is not None:
            return [None]
        return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)

    @property
    def modality(self) -> str:
        """`"text"` or `"id"`."""
        return "text" if self.item_ids is None else "id"

    @property
    def text_column(self) -> str:
        """The column of the items table that holds the texts."""
        return f"text_{self.language}"

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"] if self.item_ids is None else ["item_ids"]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        item_ids: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Items to model inputs: `input_ids` and `attention_mask` `(U, T)`, padded to the longest; or `item_ids`.

        Args:
            text: item texts, for a text model.
            item_ids: item ids, for an id model.
            return_tensors: `"pt"`, the only form the model takes.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        name, values = ("text", text) if self.item_ids is None else ("item_ids", item_ids)
        if values is None:
            raise ValueError(f"this processor belongs to a model of {self.modality}: pass {name}=…")
        values = [values] if isinstance(values, str) else list(values)
        column = self.text_column if name == "text" else "item_id"
        return self.pad(self.prepare({column: values}))

    def prepare(self, items: dict[str, Sequence]) -> dict[str, list]:
        """Columns of the items table to unpadded inputs: `input_ids` (a list of its own length each) or `item_ids`.

        It has the form that `datasets.Dataset.map(…, batched=True)` takes, so that items are prepared once.
        """
        if self.item_ids is not None:
            return {"item_ids": [self._row(item_id) for item_id in items["item_id"]]}
        texts = [text or "" for text in items[self.text_column]]
        if self.do_lower_case:
            texts = [text.lower() for text in texts]
        tokens = self.tokenizer(
            texts, truncation=True, max_length=self.max_text_length, padding=False, return_attention_mask=False
        )["input_ids"]
        return {"input_ids": [ids or [self._empty_text_token] for ids in tokens]}

    def pad(self, features: dict[str, list]) -> BatchFeature:
        """Unpadded inputs of [`prepare`] to tensors, padded to the longest of them."""
        if self.item_ids is not None:
            return BatchFeature({"item_ids": torch.tensor(features["item_ids"], dtype=torch.long)})
        # On the right, whatever the tokenizer's habit: backbones with absolute positions count them from the left.
        padded = self.tokenizer.pad(
            {"input_ids": features["input_ids"]},
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return BatchFeature({name: padded[name] for name in self.model_input_names})

    def _row(self, item_id: str) -> int:
        if item_id not in self._rows:
            raise ValueError(
                f"item {item_id!r} is not among the {len(self._rows)} items that this id model was trained on; an id "
                "model cannot encode new items, a text model can"
            )
        return self._rows[item_id]

    @property
    def _empty_text_token(self) -> int:
        """What stands for a text without tokens, where the tokenizer adds no special ones."""
        for name in ("eos_token_id", "unk_token_id", "pad_token_id"):
            if getattr(self.tokenizer, name, None) is not None:
                return getattr(self.tokenizer, name)
        raise ValueError("the tokenizer has no eos, unk or pad token to stand for an empty text")


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
