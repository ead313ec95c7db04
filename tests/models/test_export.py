"""Both towers as graphs of `torch.export`, for inputs of any size; and quantised."""

import pytest
import torch
from torch import nn

from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..checks import perturb


ANY = torch.export.Dim.AUTO
ANY_LENGTH = [name for name in USER_ENCODERS if name not in ("gru4rec", "dssm")]  # DSSM reads no history
ANY_LENGTH = [*ANY_LENGTH, pytest.param("gru4rec", marks=pytest.mark.slow)]


class ItemTower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model.get_item_features(**inputs)


class UserTower(ItemTower):
    def forward(self, item_embeddings, mask, timestamps):
        known = {"timestamps": timestamps} if self.model.config.reads_timestamps else {}
        return self.model.get_user_features(item_embeddings, mask, **known)


@pytest.mark.parametrize("kind", ["text", "image", "text+image", "id", "text+id"])
def test_the_item_tower_is_exported_for_any_size(kind, make_model, processor_of):
    model, processor = perturb(make_model(kind)), processor_of[kind]

    def inputs(texts):
        from ..tiny import tiny_image

        images = [None if text is None else tiny_image(place) for place, text in enumerate(texts)]
        given = {"text": texts, "images": images, "item_ids": [f"i{place:03d}" for place in range(len(texts))]}
        names = [modality.argument for modality in processor.read]
        return dict(processor(**{name: given[name] for name in names}))

    example = inputs(["red rope", "blue lamp tent", None])
    sizes = {name: {0: ANY, 1: ANY} if tensor.ndim == 2 else {0: ANY} for name, tensor in example.items()}
    graph = torch.export.export(ItemTower(model), (example,), dynamic_shapes=(sizes,)).module()
    for texts in (["red", None, "old small lamp soap tent", "blue"], ["green rope", "red", None, "new", "soap shoe"]):
        other = inputs(texts)
        torch.testing.assert_close(graph(other), model.get_item_features(**other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("user_encoder_type", ANY_LENGTH)
def test_the_user_tower_is_exported_for_any_size(user_encoder_type, make_model):
    model = perturb(make_model("id", user_encoder_type=user_encoder_type))

    def histories(users, length):
        torch.manual_seed(length)
        mask = torch.arange(length)[None] >= torch.randint(length, (users, 1))
        return torch.randn(users, length, 16) * mask[:, :, None], mask, mask.cumsum(1) * 1000

    sizes = ({0: ANY, 1: ANY}, {0: ANY, 1: ANY}, {0: ANY, 1: ANY})
    graph = torch.export.export(UserTower(model), histories(3, 5), dynamic_shapes=sizes).module()
    for users, length in ((4, 7), (2, 20), (9, 3)):
        inputs = histories(users, length)
        torch.testing.assert_close(graph(*inputs), UserTower(model)(*inputs), atol=1e-5, rtol=0)
