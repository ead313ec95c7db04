"""What the parts of `chaos.py` share: a case, what came of it, and the folder in which all happens."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from chaos_children import Limits, run_child

from modeling_transrec import Recommender, TransRecForSequentialRecommendation, TransRecProcessor, train_tokenizer
from modeling_transrec.ninerec.tools.export import export
from tests.tiny import NUM_ITEMS, WORDS, tiny_config


HELD, REFUSED, LOST, TRACEBACK, HARMFUL = OUTCOMES = ("held", "refused", "lost", "traceback", "harmful")


@dataclass
class Found:
    """What came of a case.

    Args:
        outcome: one of `OUTCOMES`, where the case is one.
        note: what was wrong, or the sentence with which it was refused.
        counts: outcomes, where a case is many.
    """

    outcome: str
    note: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def about(self, what: str) -> "Found":
        """Returns the same with what was done in front of the note."""
        return replace(self, note=f"{what}: {self.note}" if self.note else "")


@dataclass
class Case:
    """One thing to try; its kind and name tell it from all others."""

    kind: str
    name: str
    run: Callable[[], Found]


class Workplace:
    """The folder that all cases work in, with the data and the recommenders that they start from.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path):
        self.root, self._numbers = root.resolve(), itertools.count()
        self.end_server: Callable[[], None] = lambda: None  # of the Hub that cases talk to
        (self.root / "data").mkdir(parents=True)
        self.outside.mkdir()
        made = run_child(self._make, self.root, limits=Limits(seconds=300))
        if made.error is not None or made.value != "made":
            raise RuntimeError(f"the data of the cases cannot be made: {made}")

    @property
    def outside(self) -> Path:
        """A folder of which nobody may read."""
        return self.root / "outside"

    def fresh(self, is_pushed: bool = False) -> Path:
        """Returns a new folder; that of uploads has the name of their repository."""
        folder = self.root / f"{'pushed' if is_pushed else 'case'}-{next(self._numbers):05d}"
        folder.mkdir()
        return folder

    def items(self, count: int = NUM_ITEMS) -> datasets.Dataset:
        """Items with titles."""
        rng = np.random.default_rng(0)
        titles = [" ".join(rng.choice(WORDS, size=1 + row % 9)) + f" no{row}" for row in range(count)]
        ids = [f"i{row:03d}" for row in range(count)]
        return datasets.Dataset.from_dict({"item_id": ids, "text_en": titles, "text_zh": titles[::-1]})

    def interactions(self) -> dict[str, list]:
        """A table of users, items and times."""
        rng = np.random.default_rng(1)
        rows = [
            (f"u{user}", f"i{item:03d}", 1_600_000_000 + 1000 * time)
            for user in range(40)
            for time, item in enumerate(rng.permutation(NUM_ITEMS)[: 6 + user % 7])
        ]
        return dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))

    def _make(self) -> str:
        """Writes the tables of a shop, and recommenders that differ in every part."""
        datasets.Dataset.from_dict(self.interactions()).to_csv(self.root / "data/shop_interactions.csv")
        self.items().to_csv(self.root / "data/shop_items.csv")
        first = self._recommender(0, 80, "en")
        first.index(self.items(30)).save_pretrained(self.root / "first")
        second = self._recommender(1, 120, "zh")
        second.index(self.items(), histories=self.interactions()).save_pretrained(self.root / "second")
        first.index(self.items(25), histories=_of(self.interactions(), 25)).save_pretrained(self.root / "indexed")
        first.index(self.items(), histories=self.interactions()).save_pretrained(self.root / "counted")
        export("shop", self.root / "exported", data_dir=str(self.root / "data"))
        return "made"

    def _recommender(self, seed: int, vocab_size: int, language: str) -> Recommender:
        tokenizer = train_tokenizer(iter(self.items()["text_en"][:]), vocab_size=vocab_size)
        torch.manual_seed(seed)
        model = TransRecForSequentialRecommendation(tiny_config("text", tokenizer))
        return Recommender(model.eval(), TransRecProcessor(tokenizer, language=language))


def _of(interactions: dict[str, list], num_items: int) -> dict[str, list]:
    """Returns the interactions with the first items."""
    kept = [row for row, item_id in enumerate(interactions["item_id"]) if int(item_id[1:]) < num_items]
    return {name: [values[row] for row in kept] for name, values in interactions.items()}


def counted(found: list[Found]) -> dict[str, Any]:
    """Returns how often each outcome was found, and how often anything was tried."""
    counts: Counter = Counter()
    for one in found:
        counts.update(one.counts or {one.outcome: 1})
    return {"tried": sum(counts.values()), **{name: counts[name] for name in OUTCOMES}}
