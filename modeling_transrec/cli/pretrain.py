"""Pretrain a recommender on a source data set, to fine-tune it later on another one.

Without options, on the sample that the package brings, in a minute on a CPU:

    transrec pretrain --output_dir outputs/pretrained

On NineRec, from a pretrained text backbone:

    transrec pretrain --dataset_config_name Bili_500K --data_dir /data/NineRec --language zh \\
        --text_model_name_or_path hfl/chinese-bert-wwm --hidden_size 1024 --loss_type bce \\
        --learning_rate 5e-5 --backbone_learning_rate 1e-5 --num_train_epochs 30 --bf16 --output_dir outputs/bili500k

On several sources at once, the best epoch chosen on a data set that is neither a source nor the target:

    transrec pretrain --dataset_config_name Bili_500K Shop --validation_dataset_config_name QB --data_dir /data \\
        --text_model_name_or_path hfl/chinese-bert-wwm --output_dir outputs/pretrained

With the paper's hyper-parameters by name, and the run that makes a named checkpoint:

    transrec pretrain --preset bili_500k-bert --data_dir /data/NineRec --num_train_epochs 30
    transrec pretrain --preset sasrec-bert-bili2m --data_dir /data/NineRec --output_dir outputs/sasrec-bert-bili2m

The command runs in one process; on several GPUs:

    accelerate launch --multi_gpu -m modeling_transrec.cli.pretrain --preset bili_500k-bert --data_dir /data/NineRec
"""

from collections.abc import Sequence

from ..data.arguments import SourceArguments
from .finetune import train_and_show


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec pretrain`."""
    train_and_show(SourceArguments, args, __doc__)


if __name__ == "__main__":
    main()
