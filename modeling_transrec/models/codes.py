"""Codes of items: features as a few whole numbers, which look up the item embedding.

A quantiser, learnt once on a catalogue's features, turns the features of any item into one code of each codebook; the
item embedding is the mean of the codes' embeddings. Codes, not items, have the embeddings, so that these move to other
catalogues, and new items get codes by the same quantiser, which is saved with the model.

Shapes: `U` distinct items of the batch, `D` hidden size, `H` width of a backbone, `C` codebooks, `S` codes of each.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .item_projection import ItemProjection


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


SINKHORN_STEPS, TEMPERATURE = 3, 0.7  # VQ-Rec's


class CodesProjection(ItemProjection):
    """Turns features into codes, and codes into item embeddings: VQ-Rec.

    Choose it where the text's own geometry misleads: codes keep which items are alike, and what that means for users
    is learnt. It needs a frozen backbone, since no gradient goes through the choice of codes, and a quantiser, which
    [`TransRecTrainer`] fits on its catalogue unless a checkpoint brings one (`fit_quantisers` does so without it).
    One quantiser serves all catalogues, so that codes keep their meaning. VQ-Rec learns a quantiser for each one, and
    then which row of the table each of its codes takes: so does a model with `permute_codes`, whose table is not
    trained meanwhile. The choice is the best row for each code by Gumbel-Sinkhorn (Mena et al., ICLR 2018).

    Paper: Hou et al., "Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders"
    (VQ-Rec), WWW 2023; the quantiser is optimised product quantisation, Ge et al., CVPR 2013.

    Args:
        width: `H`.
        hidden_size: `D`.
        config: the model's, with `num_codebooks`, `codebook_size` and `permute_codes`.

    Raises:
        ValueError: if the features cannot be divided among the codebooks.

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> config = TransRecConfig(num_items=1, item_projection="codes", num_codebooks=2, codebook_size=4)
    >>> layers = CodesProjection(4, 3, config)
    >>> layers.take(torch.eye(4), torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [9.0, 9.0]]]).repeat(1, 2, 1))
    >>> layers.codes(torch.tensor([[0.1, 0.9, 8.0, 7.0]]))
    tensor([[1, 1]])
    """

    quantises = True
    options: ClassVar[tuple[str, ...]] = ("num_codebooks", "codebook_size", "synthetic_negatives", "permute_codes")

    rotation: torch.Tensor
    centroids: torch.Tensor

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__()
        books, size = config.num_codebooks, config.codebook_size
        if width % books:
            raise ValueError(
                f"num_codebooks={books} must divide the {width} numbers of the backbone's features; choose another"
            )
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("centroids", torch.zeros(books, size, width // books))
        self.embedding = nn.Embedding(books * size, hidden_size)
        self.permutation = nn.Parameter(torch.zeros(books, size, size)) if config.permute_codes else None
        self.leave_out_untrainable()
        self._knows_codes = False  # saves a look at the device

    def init_own_weights(self) -> None:
        """Sets the quantiser to none, and rows to any codes."""
        init.copy_(self.rotation, torch.eye(len(self.rotation)))
        init.zeros_(self.centroids)
        if self.permutation is not None:
            init.normal_(self.permutation)

    def leave_out_untrainable(self) -> None:
        """Trains the rows of the table, or which of them the codes take."""
        self.embedding.requires_grad_(self.permutation is None)

    def permute(self) -> None:
        """Forgets the quantiser, and from now on trains which row of the table each code of the next one takes."""
        weight, (books, size) = self.embedding.weight, self.centroids.shape[:2]
        self.permutation = nn.Parameter(torch.randn(books, size, size).to(weight.device, weight.dtype))
        self.leave_out_untrainable()
        with torch.no_grad():
            self.centroids.zero_()
        self._knows_codes = False

    @torch.no_grad()
    def merge_permutation(self) -> None:
        """Takes the rows in the order of the codes for the table, which is trained from now on."""
        training, self.training = self.training, False
        self.embedding.weight.copy_(self.table())
        self.training, self.permutation = training, None
        self.leave_out_untrainable()

    def table(self) -> torch.Tensor:
        """Returns the embeddings of all codes, `(C S, D)`."""
        if self.permutation is None:
            return self.embedding.weight
        with torch.autocast(self.permutation.device.type, enabled=False):
            scores = self.permutation.float()
            if self.training:
                scores = scores - torch.empty_like(scores).exponential_().log()  # Gumbel noise
            scores = scores / TEMPERATURE
            for _ in range(SINKHORN_STEPS):
                scores = scores - scores.logsumexp(dim=2, keepdim=True)
                scores = scores - scores.logsumexp(dim=1, keepdim=True)
            soft = scores.exp()
            chosen = torch.zeros_like(soft).scatter_(2, soft.argmax(dim=2, keepdim=True), 1.0)
            rows = self.embedding.weight.float().unflatten(0, self.centroids.shape[:2])  # (C, S, D)
            mixed = (chosen - soft.detach() + soft) @ rows  # the gradient is that of the soft choice
        return mixed.flatten(0, 1).to(self.embedding.weight.dtype)

    @property
    def is_fitted(self) -> bool:
        """Whether there is a quantiser."""
        self._knows_codes = self._knows_codes or bool(self.centroids.any())
        return self._knows_codes

    @torch.no_grad()
    def take(self, rotation: torch.Tensor, centroids: torch.Tensor) -> None:
        """Takes a quantiser: features are rotated by a matrix `(H, H)`, then compared with `(C, S, H / C)`."""
        self.rotation.copy_(rotation)
        self.centroids.copy_(centroids)

    @torch.no_grad()
    def codes(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the nearest code of each codebook, `(U, C)`, of features `(U, H)`.

        Raises:
            ValueError: if there is no quantiser yet.
        """
        if not torch.compiler.is_exporting() and not self.is_fitted:
            raise ValueError(
                "item_projection='codes' has no quantiser yet: train the model with TransRecTrainer, or call "
                "fit_quantisers(model, items, processor)"
            )
        with torch.autocast(features.device.type, enabled=False):
            parts = (features.float() @ self.rotation.float()).chunk(len(self.centroids), dim=-1)
            books = self.centroids.float()
            nearest = [
                (part @ book.T - book.square().sum(-1) / 2).argmax(-1) for part, book in zip(parts, books, strict=True)
            ]
        return torch.stack(nearest, dim=-1)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns the mean `(U, D)` of the embeddings of codes `(U, C)`."""
        books, size = self.centroids.shape[:2]
        index = codes + size * torch.arange(books, device=codes.device)
        return nn.functional.embedding(index, self.table()).mean(dim=-2)

    def synthesize(self, features: torch.Tensor, probability: float) -> torch.Tensor:
        """Returns embeddings `(U, D)` of items that do not exist: codes of which some are others at random."""
        codes = self.codes(features)
        others = torch.randint_like(codes, self.centroids.shape[1])
        is_replaced = torch.rand(codes.shape, device=codes.device) < probability
        return self.embed(others.where(is_replaced, codes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `(U, H)` to `(U, D)`."""
        return self.embed(self.codes(features))
