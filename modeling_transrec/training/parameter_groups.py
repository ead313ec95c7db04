"""The parameters that an optimizer trains, in groups of one learning rate and weight decay."""

from collections.abc import Collection

from torch import nn

from ..models.pretrained_model import TransRecPreTrainedModel
from .arguments import TransRecTrainingArguments


def parameter_groups(
    model: nn.Module, unwrapped: TransRecPreTrainedModel, args: TransRecTrainingArguments, decayed: Collection[str]
) -> list[dict]:
    """Returns the groups of the parameters that are trained, for an optimizer of torch.

    Args:
        model: the model as it is trained, maybe wrapped by an engine.
        unwrapped: the model itself.
        args: backbones have their own `backbone_learning_rate` and `backbone_weight_decay`, where these are given;
            with `projection_like_backbone` so has what follows them. A sparse id table is in no group.
        decayed: names of the parameters that have weight decay.
    """
    item_encoder = unwrapped.item_encoder
    like_backbone: list[nn.Module] = [*item_encoder.backbones]
    if args.projection_like_backbone:
        like_backbone += [part.projection for part in item_encoder.parts]
    of_backbone = {id(parameter) for module in like_backbone for parameter in module.parameters()}
    sparse = item_encoder.id_embedding if args.sparse_id_table else None
    table = None if sparse is None else sparse.weight
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter is table:
            continue
        rate, decay = args.learning_rate, args.weight_decay
        if id(parameter) in of_backbone:
            rate = rate if args.backbone_learning_rate is None else args.backbone_learning_rate
            decay = decay if args.backbone_weight_decay is None else args.backbone_weight_decay
        groups.setdefault((rate, decay if name in decayed else 0.0), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
