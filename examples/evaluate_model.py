"""Evaluate a checkpoint by full ranking; the options: `accelerate launch examples/evaluate_model.py --help`.

    accelerate launch examples/evaluate_model.py --model_name_or_path outputs/has_pt --output_file results.json

What needs no training, to compare with: `--model_name_or_path random` or `popularity`. The same as `transrec
evaluate`, on as many processes as `accelerate launch` starts.
"""

from modeling_transrec.cli.evaluate import main


if __name__ == "__main__":
    main()
