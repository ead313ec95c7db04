"""Fine-tune a recommender on a data set, from a pretrained checkpoint, around a pretrained backbone, or from scratch.

Without options, on the sample that the package brings, in a minute on a CPU:

    transrec finetune

From a pretrained checkpoint (HasPT), or an id model (IDRec) to compare with:

    transrec finetune --model_name_or_path outputs/pretrained --output_dir outputs/has_pt
    transrec finetune --modality id --learning_rate 1e-3 --output_dir outputs/idrec

With images beside the text and another user encoder, or with a preset, a named set of options:

    transrec finetune --modality text+image --user_encoder_type gru4rec --output_dir outputs/both
    transrec finetune --preset bili_food-bert --data_dir /data/NineRec --output_dir outputs/bili_food

A checkpoint of last month, on what is new since then, a fifth of the histories being of before:

    transrec finetune --model_name_or_path outputs/may --since 2024-06-01 --replay_share 0.2 --output_dir outputs/june

On your own data: --dataset_config_name NAME --data_dir FOLDER; see `transrec prepare-data --help`. At the end a table
shows the model beside what needs no training, on the validation split; with --transition_weight auto also with the
platform's counted transitions. The test split is read only with --do_predict true, when training is over, or by
`transrec evaluate`. The command runs in one process; on several GPUs:

    accelerate launch --multi_gpu -m modeling_transrec.cli.finetune --output_dir outputs/model
"""

from collections.abc import Sequence

from ..data.arguments import DataArguments, TargetArguments
from ..hub.publish import read_facts
from ..hub.results import show_results
from ..training.arguments import TransRecTrainingArguments
from ..training.model_arguments import ModelArguments
from ..training.train import train
from . import OptionError
from .options import parse_arguments


def train_and_show(data_type: type[DataArguments], args: Sequence[str] | None, description: str | None) -> None:
    """Trains as the options say, and prints the card's results."""
    types = (ModelArguments, data_type, TransRecTrainingArguments)
    model_args, data_args, training_args = parse_arguments(types, args, description, has_presets=True)
    if getattr(data_args, "since", None) is not None and model_args.model_name_or_path is None:
        raise OptionError("--since trains a checkpoint on what is new; name it by --model_name_or_path")
    trainer = train(model_args, data_args, training_args)
    results = read_facts(training_args.output_dir).results if trainer.is_world_process_zero() else []
    if results:
        print(f"\n{show_results(results)}", flush=True)


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec finetune`."""
    train_and_show(TargetArguments, args, __doc__)


if __name__ == "__main__":
    main()
