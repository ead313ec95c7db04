"""Fine-tune a recommender on a data set, from a pretrained checkpoint, around a pretrained backbone, or from scratch.

Without options, on the sample that the package brings, in a minute on a CPU:

    transrec finetune

From a pretrained checkpoint (HasPT), or an id model (IDRec) to compare with:

    transrec finetune --model_name_or_path outputs/pretrained --output_dir outputs/has_pt
    transrec finetune --modality id --learning_rate 1e-3 --output_dir outputs/idrec

With images beside the text and another user encoder, or with a preset, a named set of options:

    transrec finetune --modality text+image --user_encoder_type gru4rec --output_dir outputs/both
    transrec finetune --preset bili_food-bert --data_dir /data/NineRec --output_dir outputs/bili_food

On your own data: --dataset_config_name NAME --data_dir FOLDER; see `transrec prepare-data --help`. The test split is
not read here; `transrec evaluate` reads it. The command runs in one process; on several GPUs:

    accelerate launch --multi_gpu -m modeling_transrec.cli.finetune --output_dir outputs/model
"""

from collections.abc import Sequence

from ..data.arguments import DataArguments
from ..training.arguments import TransRecTrainingArguments
from ..training.model_arguments import ModelArguments
from ..training.train import train
from .options import parse_arguments


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec finetune`."""
    types = (ModelArguments, DataArguments, TransRecTrainingArguments)
    train(*parse_arguments(types, args, __doc__, has_presets=True))


if __name__ == "__main__":
    main()
