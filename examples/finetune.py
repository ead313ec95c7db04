"""Fine-tune TransRec on a target data set.

Without arguments, on the embedded synthetic sample, from scratch:

    accelerate launch examples/finetune.py

From a pretrained checkpoint (HasPT), or an id model (IDRec) to compare with:

    accelerate launch examples/finetune.py --model_name_or_path outputs/pretrained --output_dir outputs/has_pt
    accelerate launch examples/finetune.py --modality id --learning_rate 1e-3 --output_dir outputs/idrec

On your own data: `--dataset_config_name NAME --data_dir FOLDER`. The test split is not read here; see evaluate.py.
All options of transformers' TrainingArguments hold; see --help.
"""

from transformers import HfArgumentParser

from modeling_transrec import TransRecTrainingArguments
from modeling_transrec.experiment import DataArguments, ModelArguments, train


def main(args: list[str] | None = None) -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, TransRecTrainingArguments), allow_abbrev=False)
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(args)
    train(model_args, data_args, training_args)


if __name__ == "__main__":
    main()
