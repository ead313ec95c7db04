"""Pretrain TransRec on a source data set.

On the embedded synthetic sample, in a minute on a CPU:

    accelerate launch examples/pretrain.py --output_dir outputs/pretrained

On NineRec, from a pretrained text backbone:

    accelerate launch examples/pretrain.py --dataset_config_name Bili_500K --data_dir /data/NineRec --language zh \
        --text_model_name_or_path hfl/chinese-bert-wwm --hidden_size 1024 --loss_type bce \
        --learning_rate 5e-5 --backbone_learning_rate 1e-5 --num_train_epochs 30 --bf16 --output_dir outputs/bili500k

All options of transformers' TrainingArguments hold; see --help.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from modeling_transrec import TransRecTrainingArguments
from modeling_transrec.experiment import DataArguments, ModelArguments, train


@dataclass
class PretrainingDataArguments(DataArguments):
    dataset_config_name: str = field(default="Sample_Source", metadata={"help": "Source data set; Bili_500K, …"})


def main(args: list[str] | None = None) -> None:
    parser = HfArgumentParser(
        (ModelArguments, PretrainingDataArguments, TransRecTrainingArguments), allow_abbrev=False
    )
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(args)
    train(model_args, data_args, training_args)


if __name__ == "__main__":
    main()
