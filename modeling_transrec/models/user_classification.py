"""A model that tells labels of users from their histories: a user embedding and a head.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `D` hidden size, `C` labels.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from .batch import ItemInputs
from .configuration_transrec import TransRecConfig
from .modeling_transrec import TransRecHeadModel


@dataclass
class UserClassificationOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, given `labels`): mean over the users.
        logits (`torch.FloatTensor` of shape `(B, C)`): score of each label.
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): item embeddings of the batch's distinct items.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): user embeddings.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    item_embeds: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None


class TransRecForUserClassification(TransRecHeadModel):
    r"""
    TransRec with a linear head on the user embedding, for labels of users: age, gender, interests, churn.

    It loads the checkpoints of recommenders, whose user embeddings then meet a new head, as the classification heads
    of transformers do; `num_labels` or `id2label` say how many labels there are. With one label it is a regression;
    with labels `(B, C)` of floats, each label is a yes or no of its own (`problem_type="multi_label_classification"`).

    Choose it to use what histories say of users beside what they take next (PeterRec's second use). It trains with
    transformers' `Trainer` and a [`UserLabelCollator`][modeling_transrec.data.user_labels.UserLabelCollator].

    Paper: Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and Recommendation",
    SIGIR 2020.

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecForUserClassification
    >>> model = TransRecForUserClassification(TransRecConfig(num_items=5, hidden_size=8, num_labels=3))
    >>> output = model(
    ...     item_ids=torch.tensor([3, 1, 4]),
    ...     item_index=torch.tensor([[-1, 0], [1, 2]]),
    ...     labels=torch.tensor([2, 0]),
    ... )
    >>> output.loss.shape, output.logits.shape
    (torch.Size([]), torch.Size([2, 3]))
    """

    accepts_loss_kwargs = False  # the loss is a mean over users
    _may_be_new = ("classifier.",)

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config, backbones)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        num_labels: Any = self.config.num_labels  # never None, once the configuration is made
        self.classifier = nn.Linear(self.config.width, num_labels)
        self.post_init()

    def forward(
        self,
        item_index: torch.LongTensor,
        labels: torch.Tensor | None = None,
        user_ids: torch.LongTensor | None = None,
        timestamps: torch.LongTensor | None = None,
        return_dict: bool | None = None,
        **items: Unpack[ItemInputs],
    ) -> UserClassificationOutput | tuple:
        r"""
        Encodes the batch's distinct items, then the histories, and scores the labels.

        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as indices into the batch's distinct items; -1 is padding, on the left.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*):
                Each user's label; floats `(B,)` with one label, or `(B, C)` where a user may have several.
            user_ids (`torch.LongTensor` of shape `(B,)`, *optional*):
                Indices into the table of user ids, where the user encoder has one.
            timestamps (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Times of the histories' interactions, where the user encoder reads them.
            return_dict (`bool`, *optional*):
                Whether to return a [`UserClassificationOutput`] or a tuple; by default as the configuration says.
            items: the distinct items, see [`ItemInputs`].
        """
        encoded = self.model(
            item_index=item_index, user_ids=user_ids, timestamps=timestamps, return_dict=True, **items
        )
        logits = self.classifier(self.dropout(encoded.user_embeds))
        loss = None if labels is None else self._loss(logits.float(), labels)
        output = UserClassificationOutput(loss, logits, encoded.item_embeds, encoded.user_embeds)
        return output if self.returns_dict(return_dict) else output.to_tuple()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss of the problem that the configuration names, or that the labels' shape and type say."""
        several = labels.ndim == 2 and labels.is_floating_point() and logits.shape[1] > 1
        usual = "regression" if logits.shape[1] == 1 else "single_label_classification"
        problem = self.config.problem_type or ("multi_label_classification" if several else usual)
        if problem == "regression":
            if labels.numel() != logits.numel():
                raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
            return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
        if problem == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels)
