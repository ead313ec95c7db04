"""Convert a checkpoint of the code of NineRec, IDvs.MoRec, MicroLens or PixelRec to one of this package.

    transrec convert epoch-23.pt --source ninerec --output_dir sasrec-bert --user_encoder_type sasrec \\
        --num_attention_heads 2 --text_model_name_or_path hfl/chinese-bert-wwm-ext

A model of item ids, whose names are read from the data set that it was trained on:

    transrec convert epoch-40.pt --source ninerec --output_dir gru4rec-id --max_seq_len 20 \\
        --dataset_config_name Bili_Food --data_dir /data/NineRec
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.arguments import DataArguments
from ..hub.authors_checkpoints import SOURCES, convert_checkpoint
from ..models.processing_transrec import LANGUAGES
from . import OptionError


def main(args: Sequence[str] | None = None) -> int:
    """Runs `transrec convert`; returns the exit status, 1 for a checkpoint that cannot be converted."""
    parser = argparse.ArgumentParser(
        prog="transrec convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="FILE.pt", help="the authors' file; it is read without running code")
    parser.add_argument("--source", required=True, choices=SOURCES, help="whose code wrote it")
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="gets the model and its processor")
    parser.add_argument(
        "--user_encoder_type", choices=("sasrec", "bert4rec"), help="which of the two: their weights look the same"
    )
    parser.add_argument("--num_attention_heads", type=int, metavar="N", help="of these two; 2 in all of NineRec's")
    parser.add_argument("--max_seq_len", type=int, metavar="N", help="of GRU4Rec and NextItNet; 20 in NineRec")
    parser.add_argument("--text_model_name_or_path", metavar="NAME", help="backbone that it was trained with")
    parser.add_argument("--vision_model_name_or_path", metavar="NAME", help="backbone that it was trained with")
    parser.add_argument("--text_pooling", choices=("cls", "mean"), help="by default cls, and mean for decoders")
    parser.add_argument("--language", choices=LANGUAGES, default="zh", help="of the texts (default: zh)")
    parser.add_argument("--dataset_config_name", metavar="NAME", help="of a model of ids: the data set")
    parser.add_argument("--data_dir", metavar="FOLDER", help="where its files lie")
    options = vars(parser.parse_args(args))
    path, output_dir = options.pop("checkpoint"), Path(options.pop("output_dir"))
    name, data_dir = options.pop("dataset_config_name"), options.pop("data_dir")
    if data_dir is not None and name is None:
        raise OptionError("--data_dir is the folder of a data set; name the set, too: --dataset_config_name")
    try:
        if name is not None:
            data = DataArguments(dataset_config_name=name, data_dir=data_dir)
            options["item_ids"] = data.load_items(options["max_seq_len"] or 20)["item_id"][:]
        converted = convert_checkpoint(path, **options)
    except (ValueError, OSError) as error:
        print(f"transrec convert: {error}", file=sys.stderr)
        return 1
    converted.model.save_pretrained(output_dir)
    converted.processor.save_pretrained(output_dir)
    if converted.unused:
        print(f"left out, since their model does not read them: {', '.join(converted.unused)}")
    print(f"{output_dir}: differs from theirs by at most {converted.difference:.1e} on a batch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
