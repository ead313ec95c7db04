"""Keeps what an evaluation needs of its scores beside ranks: losses, and what a function of the user returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import concatenate, gather_object, recursively_apply, send_to_device

from .ranking import lines_in_cache


class Observation:
    """
    Collects, block by block, what is to be known of the scores of a ranking; see [`FullRankingEvaluator.evaluate`].

    Args:
        targets: `(N,)` each user's target, as an index into the catalogue.
        preprocess: called with scores `(B, V)`, where items that are no candidates have -inf, and targets `(B,)`;
            returns a tensor of a line a user, or a tuple, list or dictionary of such tensors.
        on_block: called after each block of users.

    Example:

    >>> observation = Observation(np.array([2, 0]), preprocess=lambda scores, targets: scores.argmax(1))
    >>> scores = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, -torch.inf]])
    >>> observation(torch.tensor([[0], [2]]), np.array([0, 1]), scores, torch.zeros(2, 2))
    >>> observation.losses().round(2), observation.made()
    (array([1.1 , 0.31], dtype=float32), array([0, 0]))
    """

    def __init__(
        self,
        targets: np.ndarray,
        preprocess: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
        on_block: Callable[[], object] | None = None,
    ):
        self.targets = targets
        self.preprocess = preprocess
        self.on_block = on_block
        self._losses = torch.zeros(len(targets))  # not block by block, see [`FullRankingEvaluator.evaluate`]
        self._users = [np.zeros(0, np.int64)]
        self._made: list[Any] = []

    def __call__(self, histories: torch.Tensor, users: np.ndarray, scores: torch.Tensor, ranks: torch.Tensor) -> None:
        """Looks at a block of users that has been ranked."""
        targets = torch.from_numpy(self.targets[users]).long().to(scores.device)
        lines = lines_in_cache(scores)  # of which cross_entropy makes as many numbers again
        parts = zip(scores.split(lines), targets.split(lines), strict=True)
        losses = torch.cat([F.cross_entropy(*part, reduction="none") for part in parts])
        if self.preprocess is not None:
            self._made.append(send_to_device(self.preprocess(scores.contiguous(), targets), "cpu"))
        self.add(users, losses)

    def add(self, users: np.ndarray, losses: torch.Tensor) -> None:
        """Takes a block of users whose losses `(B,)` are known; nothing else is asked for, without `preprocess`."""
        self._losses[torch.from_numpy(users)] = losses.to("cpu", self._losses.dtype)
        self._users.append(users)
        if self.on_block is not None:
            self.on_block()

    def losses(self) -> np.ndarray:
        """Returns each user's loss `(N,)`: the cross-entropy of the target among the candidates."""
        if PartialState().num_processes > 1:
            mine = np.concatenate(self._users)
            for users, losses in gather_object([(mine, self._losses[mine])]):
                self._losses[users] = losses
        return self._losses.numpy()

    def made(self) -> Any:
        """Returns what `preprocess` made of all users, as arrays, in the order of the split."""
        parts = list(zip(self._users[1:], self._made, strict=True))
        if PartialState().num_processes > 1:
            parts = gather_object(parts)
        order = torch.from_numpy(np.argsort(np.concatenate([users for users, _ in parts])))
        return recursively_apply(lambda values: values[order].numpy(), concatenate([made for _, made in parts]))
