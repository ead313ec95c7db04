"""Presets of published systems, as their papers and public code set them.

They reproduce a system's parts with the options of this library, written down 2026-11. Backbones are named beside
them, for instance by `--text_model_name_or_path`. A batch is counted in users, whose every position is a sample; the
systems' own code counts prefixes.

- `unisrec`, `unisrec-pretrain`: UniSRec (Hou et al., KDD 2022), the first on one platform, the second on several at
  once, with negatives of all of them. Its layers are 256 wide within, ours four times `hidden_size`.
- `vqrec`, `vqrec-pretrain`: VQ-Rec (Hou et al., WWW 2023), the same. One quantiser serves all platforms, and with
  `--permute_codes true` each has its own.
- `transrec-mixture`: TransRec for mixture of modality (Wang et al., APWeb-WAIM 2024), with a causal user encoder and
  plain pooling of tokens; theirs reads both sides and pools by attention.
- `odmt`: ODMT (Ji et al., ACM MM 2023) as run on Amazon's Office: three views of 768 each, frozen backbones of text
  and image; a teacher gets no gradient of its students.
- `clue`: CLUE (Cheng et al., ICDM 2021), whose code is not public: sizes and rates are those of AdaptSSR (Yu et al.,
  NeurIPS 2023) on the same data; the training loss beside its term is ours.
- `icsrec`: ICSRec (Qin et al., WSDM 2024) as run on Amazon's Beauty; it takes the last position of every prefix as a
  sample, we every position, and compares dot products, we cosines.
"""

from typing import Any


_EXPERTS: dict[str, Any] = {
    "item_projection": "moe",
    "num_experts": 8,
    "expert_dropout_prob": 0.2,
    "gate_noise": True,
}
_CODES: dict[str, Any] = {"item_projection": "codes", "num_codebooks": 32, "codebook_size": 256}
_COMMON: dict[str, Any] = {
    "modality": "text",
    "freeze_backbone": True,
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
_PRETRAIN: dict[str, Any] = {
    **_COMMON,
    "loss_type": "in_batch",
    "logq_correction": False,
    "mix_platforms": True,
    "platform_sampling_exponent": 1.0,
    "per_device_train_batch_size": 1024,
}
SYSTEM_PRESETS: dict[str, dict[str, Any]] = {
    "unisrec": {**_COMMON, **_EXPERTS, "auxiliary_loss_type": "none"},
    "unisrec-pretrain": {
        **_PRETRAIN,
        **_EXPERTS,
        "auxiliary_loss_type": "sequence_contrastive",
        "auxiliary_weight": 1e-3,
        "auxiliary_temperature": 0.07,
    },
    "vqrec": {**_COMMON, **_CODES, "synthetic_negatives": 0.0},
    "vqrec-pretrain": {**_PRETRAIN, **_CODES, "synthetic_negatives": 0.75},
    "transrec-mixture": {
        "modality": "text+image",
        "fusion": "mixture",
        "train_last_n_layers": 2,
        "user_encoder_type": "sasrec",
        "objective": "next_k_items",
        "num_next_items": 5,
        "loss_type": "bce",
        "num_negatives": 1,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_dropout_prob": 0.1,
        "max_seq_len": 25,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 512,
        "num_train_epochs": 50,
    },
    "odmt": {
        "modality": "text+image+id",
        "freeze_backbone": True,
        "item_projection": "linear",
        "fusion": "id_aware",
        "loss_type": "distilled_in_batch",
        "distillation_temperature": 0.4,
        "distillation_warmup_epochs": 40,
        "user_encoder_type": "sasrec",
        "hidden_size": 2304,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_dropout_prob": 0.1,
        "max_seq_len": 12,
        "max_text_length": 30,
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
        "max_grad_norm": 5.0,
        "per_device_train_batch_size": 128,
        "num_train_epochs": 40,
    },
    "clue": {
        "user_encoder_type": "sasrec",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_seq_len": 150,
        "auxiliary_loss_type": "user_contrastive",
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 128,
        "num_train_epochs": 20,
    },
    "icsrec": {
        "modality": "id",
        "user_encoder_type": "sasrec",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_dropout_prob": 0.5,
        "max_seq_len": 50,
        "loss_type": "full_softmax",
        "auxiliary_loss_type": "intents",
        "num_intents": 256,
        "intent_weight": 0.3333,
        "auxiliary_weight": 0.3,
        "auxiliary_temperature": 1.0,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0,
        "per_device_train_batch_size": 256,
        "num_train_epochs": 300,
        "early_stopping_patience": 40,
    },
}
