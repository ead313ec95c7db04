"""Fine-tune TransRec on a target data set.

Without arguments, on the embedded synthetic sample, from scratch:

    accelerate launch examples/finetune.py

From a pretrained checkpoint (HasPT), or an id model (IDRec) to compare with:

    accelerate launch examples/finetune.py --model_name_or_path outputs/pretrained --output_dir outputs/has_pt
    accelerate launch examples/finetune.py --modality id --learning_rate 1e-3 --output_dir outputs/idrec

With covers, alone or beside the text, behind another user encoder; `--preset NAME` starts from a file of configs/:

    accelerate launch examples/finetune.py --modality text+image --user_encoder_type gru4rec --output_dir outputs/both

On your own data: `--dataset_config_name NAME --data_dir FOLDER`. The test split is not read here; see evaluate.py.
All options of transformers' TrainingArguments hold; see --help.
"""

from pathlib import Path

from modeling_transrec import TransRecTrainingArguments
from modeling_transrec.cli.arguments import DataArguments, ModelArguments, parse_arguments
from modeling_transrec.cli.experiment import train


def main(args: list[str] | None = None) -> None:
    types = (ModelArguments, DataArguments, TransRecTrainingArguments)
    model_args, data_args, training_args = parse_arguments(types, args, presets=Path(__file__).parent / "configs")
    train(model_args, data_args, training_args)


if __name__ == "__main__":
    main()
