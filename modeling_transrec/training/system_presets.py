"""Presets of published systems, as their papers and public code set them.

They reproduce a system's parts with the options of this library, written down 2026-11. Backbones are named beside
them, for instance by `--text_model_name_or_path`. A batch is counted in users, whose every position is a sample; the
systems' own code counts prefixes.

- `unisrec`, `unisrec-pretrain`: UniSRec (Hou et al., KDD 2022), the first on one platform, the second on several at
  once, with negatives of all of them. Its layers are 256 wide within, ours four times `hidden_size`.
"""

from typing import Any


_UNISREC: dict[str, Any] = {
    "modality": "text",
    "freeze_backbone": True,
    "item_projection": "moe",
    "num_experts": 8,
    "expert_dropout_prob": 0.2,
    "gate_noise": True,
    "user_encoder_type": "sasrec",
    "hidden_size": 300,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.5,
    "max_seq_len": 50,
    "max_text_length": 64,
    "normalize_scores": True,
    "temperature": 0.07,
    "loss_type": "full_softmax",
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "weight_decay": 0,
    "per_device_train_batch_size": 256,
    "num_train_epochs": 300,
    "metric_for_best_model": "ndcg@10",
    "early_stopping_patience": 10,
}
SYSTEM_PRESETS: dict[str, dict[str, Any]] = {
    "unisrec": _UNISREC,
    "unisrec-pretrain": {
        **_UNISREC,
        "loss_type": "in_batch",
        "logq_correction": False,
        "mix_platforms": True,
        "platform_sampling_exponent": 1.0,
        "per_device_train_batch_size": 1024,
    },
}
