"""Pretrain TransRec on a source data set.

On the embedded synthetic sample, in a minute on a CPU:

    accelerate launch examples/pretrain.py --output_dir outputs/pretrained

On NineRec, from a pretrained text backbone:

    accelerate launch examples/pretrain.py --dataset_config_name Bili_500K --data_dir /data/NineRec --language zh \
        --text_model_name_or_path hfl/chinese-bert-wwm --hidden_size 1024 --loss_type bce \
        --learning_rate 5e-5 --backbone_learning_rate 1e-5 --num_train_epochs 30 --bf16 --output_dir outputs/bili500k

The same with the paper's hyper-parameters by name, from configs/; what the command line says comes first:

    accelerate launch examples/pretrain.py --preset bili_500k-bert --data_dir /data/NineRec --num_train_epochs 30

All options of transformers' TrainingArguments hold; see --help.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from modeling_transrec import TransRecTrainingArguments
from modeling_transrec.cli.arguments import DataArguments, ModelArguments, parse_arguments
from modeling_transrec.cli.experiment import train


@dataclass
class PretrainingDataArguments(DataArguments):
    sample: ClassVar[str] = "Sample_Source"


def main(args: list[str] | None = None) -> None:
    types = (ModelArguments, PretrainingDataArguments, TransRecTrainingArguments)
    model_args, data_args, training_args = parse_arguments(types, args, presets=Path(__file__).parent / "configs")
    train(model_args, data_args, training_args)


if __name__ == "__main__":
    main()
