"""Ranks candidates by how likely a language model finds their titles after a prompt: a baseline, not a recommender.

Papers: Geng et al., "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict
Paradigm" (P5), RecSys 2022, which trains a T5 on such prompts; Li et al., "Exploring the Upper Limits of Text-Based
Collaborative Filtering Using Large Language Models" (TCF), arXiv 2305.11700, which prompts one that is not trained.

Shapes: `B` users, `L` history length, `C` candidates, `T` tokens of a title, `V` vocabulary.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..models.batch import UserInputs
from ..models.checkpoint_files import check_name_or_path
from .content import ContentKNN
from .scoring import CatalogueScorer


PROMPT = "A user liked, in this order: {history}. Next the user will like:"


class LanguageModelRanker:
    """Scores candidates by the likelihood of their titles, given a prompt with the titles of the history.

    The prompt is read once for each user and its state shared by all candidates, which are read in batches.
    [`SampledRankingEvaluator`] compares it, as a [`LanguageModelScorer`], with a model of ours on the same candidates.

    Args:
        model: an encoder-decoder language model of transformers, or a causal one with a key-value cache, which
            Mamba, RWKV and XLNet lack.
        tokenizer: the model's.
        titles: of the catalogue's items, in its order; an item without one must have its id here.
        prompt: text with `{history}`, in whose place the titles stand.
        max_history: titles of the history's end that are read, as many of them as the model has positions for.
        per_token: whether the mean log-likelihood of a title's tokens is the score, not their sum, which prefers short
            titles.
        batch_size: candidates that are read at a time.

    Raises:
        ValueError: if the prompt has no place for the history, or a title is empty.

    Example:

    >>> from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
    >>> from modeling_transrec import SAMPLE_BACKBONE
    >>> tokenizer = AutoTokenizer.from_pretrained(SAMPLE_BACKBONE)
    >>> size = {"vocab_size": len(tokenizer), "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 64}
    >>> config = GPT2Config(**size, bos_token_id=None, eos_token_id=None)
    >>> ranker = LanguageModelRanker(GPT2LMHeadModel(config), tokenizer, ["red rope", "blue lamp", "old shoe"])
    >>> ranker(torch.tensor([[0, 1]]), torch.tensor([[2, 1]])).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        titles: Sequence[str],
        prompt: str = PROMPT,
        max_history: int = 10,
        per_token: bool = True,
        batch_size: int = 32,
    ):
        if "{history}" not in prompt:
            raise ValueError(f"prompt must have {{history}}, in whose place the titles stand; got {prompt!r}")
        empty = [place for place, title in enumerate(titles) if not (title or "").strip()]
        if empty:
            raise ValueError(f"item {empty[0]} of the catalogue has no title; give its id in place of one")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.titles = list(titles)
        self.prompt = prompt
        self.max_history = max_history
        self.per_token = per_token
        self.batch_size = batch_size
        self._likelihoods = LIKELIHOODS[bool(model.config.is_encoder_decoder)]

    @classmethod
    def from_pretrained(cls, name: str, titles: Sequence[str], **kwargs) -> "LanguageModelRanker":
        """Loads a language model and its tokenizer, a Hub id or folder, from safetensors only.

        Args:
            name: the model.
            titles: of the catalogue's items.
            kwargs: other arguments of the class.
        """
        check_name_or_path(name)
        is_encoder_decoder = AutoConfig.from_pretrained(name).is_encoder_decoder
        auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
        model = auto_class.from_pretrained(name, use_safetensors=True)
        return cls(model, AutoTokenizer.from_pretrained(name), titles, **kwargs)

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on beside the model; of the titles a hash, which tells languages apart."""
        return {
            "prompt": self.prompt,
            "max_history": self.max_history,
            "per_token": self.per_token,
            "titles": hashlib.sha256("\n".join(self.titles).encode()).hexdigest()[:16],
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def prompt_of(self, history: Sequence[int]) -> str:
        """Returns the prompt of a history of indices into the catalogue, oldest first."""
        titles = [self.titles[item] for item in history if item >= 0][-self.max_history :]
        return self.prompt.replace("{history}", "; ".join(titles))

    @torch.no_grad()
    def __call__(self, histories: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Returns scores `(B, C)` of candidates `(B, C)` after histories `(B, L)`, padded with -1."""
        rows = []
        for history, chosen in zip(histories.tolist(), candidates.tolist(), strict=True):
            titles = [self.titles[item] for item in chosen]
            prompt = self._fitting_prompt([item for item in history if item >= 0][-self.max_history :], titles)
            rows.append(self._likelihoods(self.model, self.tokenizer, prompt, titles, self))
        return torch.stack(rows).cpu()

    def _fitting_prompt(self, history: list[int], titles: Sequence[str]) -> str:
        """Returns the prompt of as much of a history's end as the model has positions for, beside the longest title.

        Raises:
            ValueError: if it has none for a single title of the history.
        """
        limit = getattr(self.model.config, "max_position_embeddings", None)
        prompt = self.prompt_of(history)
        if limit is None or limit < 1:  # such as -1 of XLNet
            return prompt
        longest = 0 if self.model.config.is_encoder_decoder else max(map(len, self.tokenizer([*titles])["input_ids"]))
        while len(self.tokenizer(prompt)["input_ids"]) + longest >= limit:
            if len(history) <= 1:
                raise ValueError(
                    f"the language model reads {limit} tokens, and a prompt with one title and a candidate's title "
                    "are more; give a shorter prompt, or another model"
                )
            history = history[1:]
            prompt = self.prompt_of(history)
        return prompt

    def scored(self, logits: torch.Tensor, tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Returns the scores `(C,)` of titles from the logits `(C, T, V)` of their tokens `(C, T)` and their mask."""
        found = logits.float().log_softmax(dim=-1).gather(-1, tokens[:, :, None]).squeeze(-1) * is_token
        return found.sum(dim=1) / (is_token.sum(dim=1) if self.per_token else 1)


class LanguageModelScorer(CatalogueScorer):
    """Scores a catalogue, or candidates only, by a language model.

    Args:
        ranker: has the catalogue's titles.
    """

    def __init__(self, ranker: LanguageModelRanker):
        nothing = torch.zeros(len(ranker.titles), 0)
        super().__init__(ContentKNN({}), nothing)  # type: ignore[arg-type]  # of which it takes nothing
        self.ranker = ranker

    def scores(self, histories: torch.Tensor, user_inputs: UserInputs | None = None) -> torch.Tensor:
        """Scores as any scorer does; every title of the catalogue is read for every user."""
        return self.scores_of(histories, torch.arange(len(self.ranker.titles)).expand(len(histories), -1))

    def scores_of(
        self,
        histories: torch.Tensor,
        candidates: torch.Tensor,
        user_inputs: UserInputs | None = None,
        is_candidate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scores candidates as any scorer does; only the candidates' titles are read, and nothing is re-ranked."""
        return self.ranker(histories, candidates)


def _padded(lists: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads tokens with 0 on the right, `(C, T)`, and makes their mask."""
    longest = max(map(len, lists))
    tokens = torch.tensor([[*one, *[0] * (longest - len(one))] for one in lists], device=device)
    is_token = torch.arange(longest, device=device) < torch.tensor([*map(len, lists)], device=device)[:, None]
    return tokens, is_token


def _name_of_cache(model: Any) -> str:
    """Returns the name of a model's argument, and output, for the state of what was read: transformers 5.24 has
    renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def causal_likelihoods(
    model: Any, tokenizer: Any, prompt: str, titles: Sequence[str], ranker: LanguageModelRanker
) -> torch.Tensor:
    """Scores titles `(C,)` as the continuation of a prompt, by a causal language model.

    Raises:
        ValueError: if the model returns no cache that can be repeated for several titles.
    """
    prefix = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    lists = [tokenizer(f" {title}", add_special_tokens=False)["input_ids"] for title in titles]
    read, name = model(prefix, use_cache=True), _name_of_cache(model)
    layers = getattr(read.get(name), "layers", ())
    if not layers or not all(hasattr(layer, "batch_repeat_interleave") for layer in layers):
        raise ValueError(
            f"{type(model).__name__} has no key-value cache, which the candidates of a user share; choose another "
            "language model, such as a GPT-2, Llama or Qwen"
        )
    first, scores = read.logits[:, -1:], []  # (1, 1, V)
    for start in range(0, len(lists), ranker.batch_size):
        tokens, is_token = _padded(lists[start : start + ranker.batch_size], prefix.device)
        logits = first.expand(len(tokens), -1, -1)
        if tokens.shape[1] > 1:
            state = copy.deepcopy(read[name])  # reading adds to it
            state.batch_repeat_interleave(len(tokens))
            mask = torch.cat([torch.ones_like(prefix).expand(len(tokens), -1), is_token[:, :-1].long()], dim=1)
            after = model(tokens[:, :-1], attention_mask=mask, use_cache=True, **{name: state}).logits
            logits = torch.cat([logits, after], dim=1)  # (C, T, V)
        scores.append(ranker.scored(logits, tokens, is_token))
    return torch.cat(scores)


def encoder_decoder_likelihoods(
    model: Any, tokenizer: Any, prompt: str, titles: Sequence[str], ranker: LanguageModelRanker
) -> torch.Tensor:
    """Scores titles `(C,)` as the answer to a prompt, by a language model of encoder and decoder."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    encoded, scores = model.get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"]), []
    lists = tokenizer(list(titles))["input_ids"]
    for start in range(0, len(lists), ranker.batch_size):
        tokens, is_token = _padded(lists[start : start + ranker.batch_size], model.device)
        count = len(tokens)
        repeated = type(encoded)(last_hidden_state=encoded.last_hidden_state.expand(count, -1, -1))
        mask = inputs["attention_mask"].expand(count, -1)
        logits = model(
            encoder_outputs=repeated, attention_mask=mask, labels=tokens.masked_fill(~is_token, -100)
        ).logits
        scores.append(ranker.scored(logits, tokens, is_token))
    return torch.cat(scores)


# By whether a language model has an encoder beside its decoder.
LIKELIHOODS: dict[bool, Callable[..., torch.Tensor]] = {False: causal_likelihoods, True: encoder_decoder_likelihoods}
