"""Recommend items; the options: `accelerate launch examples/recommend.py --help`.

    accelerate launch examples/recommend.py --model_name_or_path outputs/has_pt
    accelerate launch examples/recommend.py --model_name_or_path outputs/has_pt --history "t0001 t0002"
    accelerate launch examples/recommend.py --model_name_or_path outputs/has_pt --output_dir recommendations

The same as `transrec recommend`.
"""

from modeling_transrec.cli.recommend import main


if __name__ == "__main__":
    main()
