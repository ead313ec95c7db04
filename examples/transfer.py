r"""The main job: what does pretraining on one platform give on another?

On the embedded synthetic sample, as `make run` does:

    accelerate launch examples/transfer.py --output_dir outputs/sample

On real data in NineRec's layout; `--dataset_config_name` is the target:

    accelerate launch examples/transfer.py --source Bili_500K --dataset_config_name Bili_Food \
        --data_dir /data/NineRec --language zh --text_model_name_or_path hfl/chinese-bert-wwm

The same as `transrec transfer`, on as many processes as `accelerate launch` starts.
"""

from modeling_transrec.cli.transfer import main


if __name__ == "__main__":
    main()
