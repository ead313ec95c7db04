"""Pretrain a recommender; the options and more examples: `accelerate launch examples/pretrain.py --help`.

On the embedded synthetic sample, in a minute on a CPU:

    accelerate launch examples/pretrain.py --output_dir outputs/pretrained

On NineRec, with the paper's hyper-parameters by name; what the command line says comes first:

    accelerate launch examples/pretrain.py --preset bili_500k-bert --data_dir /data/NineRec --num_train_epochs 30

The same as `transrec pretrain`, on as many processes as `accelerate launch` starts.
"""

from modeling_transrec.cli.pretrain import main


if __name__ == "__main__":
    main()
