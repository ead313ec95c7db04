"""Tiny configurations and batches of every kind, in the form in which transformers' common tests ask for them."""

import torch
from transformers.testing_utils import torch_device

from modeling_transrec import TransRecConfig
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..tiny import IMAGE_SIZE, TINY_VIT, tiny_clip_config, tiny_text_config


NUM_USERS, LENGTH, WIDTH, VOCABULARY, NUM_TOKENS = 4, 5, 16, 99, 7
ITEMS: dict[str, dict] = {
    "id": {"num_items": 40},
    "text": {"text_config": {**tiny_text_config(VOCABULARY), "num_hidden_layers": 2}},
    "decoder": {"text_config": {**tiny_text_config(VOCABULARY, "gpt2"), "n_layer": 2}},
    "image": {"vision_config": {**TINY_VIT, "num_hidden_layers": 2}},
    "text+image": {
        "text_config": {**tiny_text_config(VOCABULARY), "num_hidden_layers": 2},
        "vision_config": {**TINY_VIT, "num_hidden_layers": 2},
    },
    "text+id": {"text_config": {**tiny_text_config(VOCABULARY), "num_hidden_layers": 2}, "num_items": 40},
    "clip": {"multimodal_config": tiny_clip_config(VOCABULARY)},
}


class TransRecModelTester:
    """Makes configurations and batches. Each user has items of its own, so that a batch can be cut at its rows.

    Args:
        parent: the test.
        items: what an item is, a row of `ITEMS`.
        user_encoder: a row of `USER_ENCODERS`.
    """

    def __init__(self, parent, items: str = "text", user_encoder: str = "sasrec"):
        self.parent, self.items, self.user_encoder = parent, items, user_encoder
        self.batch_size, self.seq_length, self.hidden_size = NUM_USERS, LENGTH, WIDTH
        self.num_hidden_layers = self.num_attention_heads = 2
        self.image_size, self.is_training = IMAGE_SIZE, True
        self.num_items = NUM_USERS * LENGTH  # of a batch

    def get_config(self) -> TransRecConfig:
        users = {"num_users": 9} if USER_ENCODERS[self.user_encoder].reads_user_ids else {}
        return TransRecConfig(
            **ITEMS[self.items],
            user_encoder_type=self.user_encoder,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_seq_len=8,
            **users,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[TransRecConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        return config, self.inputs(config)

    prepare_config_and_inputs = prepare_config_and_inputs_for_common

    def inputs(self, config: TransRecConfig) -> dict[str, torch.Tensor]:
        generator, count = torch.Generator().manual_seed(0), self.num_items
        modalities = config.modality.split("+")
        item_index = torch.arange(NUM_USERS * LENGTH).reshape(NUM_USERS, LENGTH) % count
        item_index[1, :2] = -1
        item_index[3, :3] = -1
        inputs = {"item_index": item_index}
        if "text" in modalities:
            mask = torch.ones(count, NUM_TOKENS, dtype=torch.long)
            mask[::3, 4:] = 0
            tokens = torch.randint(5, VOCABULARY, (count, NUM_TOKENS), generator=generator) * mask
            if self.items == "clip":  # reads the text at the end-of-text token
                tokens[torch.arange(count), mask.sum(dim=1) - 1] = 3
            inputs |= {"input_ids": tokens, "attention_mask": mask, "has_text": torch.arange(count) % 6 != 4}
        if "image" in modalities:
            inputs["pixel_values"] = torch.rand(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
            inputs["image_index"] = torch.where(torch.arange(count) % 5 == 3, -1, torch.arange(count))
        if "id" in modalities:
            inputs["item_ids"] = torch.randperm(40, generator=generator)[:count]
        if config.num_users is not None:
            inputs["user_ids"] = torch.randint(9, (NUM_USERS,), generator=generator)
        if config.reads_timestamps:
            inputs["timestamps"] = torch.arange(NUM_USERS * LENGTH).reshape(NUM_USERS, LENGTH) * 3600
        return {name: values.to(torch_device) for name, values in inputs.items()}

    def labels(self, config: TransRecConfig, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns what a batch has in addition where a loss is computed."""
        item_index = inputs["item_index"]
        popularity = torch.full((self.num_items,), 1 / self.num_items).log().to(item_index.device)
        if config.objective == "masked_item":
            labels = torch.full_like(item_index, -100)
            labels[:, -2] = item_index[:, -2]
            masked = item_index.clone()
            masked[:, -2] = -2
            return {"item_index": masked, "labels": labels, "item_log_popularity": popularity}
        labels = torch.cat([item_index[:, 1:], item_index[:, :1].clamp(min=0)], dim=1)
        labels = labels.masked_fill(item_index < 0, -100)
        if config.objective == "last_item":
            labels[:, :-1] = -100
        return {"labels": labels, "item_log_popularity": popularity}
