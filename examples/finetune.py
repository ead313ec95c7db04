"""Fine-tune a recommender; the options and more examples: `accelerate launch examples/finetune.py --help`.

Without options, on the embedded synthetic sample, from scratch:

    accelerate launch examples/finetune.py

From a pretrained checkpoint (HasPT), or an id model (IDRec) to compare with:

    accelerate launch examples/finetune.py --model_name_or_path outputs/pretrained --output_dir outputs/has_pt
    accelerate launch examples/finetune.py --modality id --learning_rate 1e-3 --output_dir outputs/idrec

On your own data: `--dataset_config_name NAME --data_dir FOLDER`. The same as `transrec finetune`, on as many processes
as `accelerate launch` starts.
"""

from modeling_transrec.cli.finetune import main


if __name__ == "__main__":
    main()
