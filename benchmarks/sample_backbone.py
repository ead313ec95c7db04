"""Makes the small text backbone that comes with the embedded sample, a folder of sentence-transformers.

    python benchmarks/sample_backbone.py

It is trained by next-item prediction on Sample_Source, so that content kNN can be tried offline on Sample_Target.
"""

import json
import tempfile
from pathlib import Path

from modeling_transrec import (
    DataArguments,
    ModelArguments,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainingArguments,
    train,
)
from modeling_transrec.ninerec.sample import SAMPLE_BACKBONE


BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
FILES = {
    "modules.json": MODULES,
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True},
    "1_Pooling/config.json": {"word_embedding_dimension": BERT["hidden_size"], "pooling_mode_mean_tokens": True},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model_args = ModelArguments(text_config=json.dumps(BERT), text_pooling="mean", hidden_size=64)
        training_args = TransRecTrainingArguments(folder, num_train_epochs=10, use_cpu=True, seed=0)
        train(model_args, DataArguments(dataset_config_name="Sample_Source"), training_args)
        backbone = TransRecModel.from_pretrained(folder).item_encoder.text.backbone
        tokenizer = TransRecProcessor.from_pretrained(folder).tokenizer
        backbone.save_pretrained(SAMPLE_BACKBONE)
        tokenizer.save_pretrained(SAMPLE_BACKBONE)
    for name, content in FILES.items():
        file = Path(SAMPLE_BACKBONE, name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
