"""Export a checkpoint for other runtimes: its encoders as graphs, or the item encoder as a SentenceTransformer.

    transrec export outputs/has_pt --format onnx --output_dir outputs/onnx

transrec serve outputs/onnx --backend onnx and Recommender.from_pretrained("outputs/onnx", backend="onnx") load it,
with the catalogue that the checkpoint was saved with; without one, or with --quantize int8, name a data set or call
.index(items) first. Needs pip install "modeling_transrec[export]" for ONNX, "modeling_transrec[sentence-transformers]"
for sentence-transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..export.folders import FORMATS, QUANTIZATIONS, check_export
from ..serving.recommender import Recommender
from . import OptionError
from .options import CheckpointArguments, parse_arguments, with_checkpoint_named


@dataclass
class ExportArguments(CheckpointArguments):
    """Says what is exported, and how."""

    output_dir: str = field(metadata={"help": "New or empty folder to write into."})
    format: str = field(default="onnx", metadata={"help": "What is written.", "choices": FORMATS})
    quantize: str | None = field(
        default=None,
        metadata={"help": "Weights of 8 and 16 bits in the backbones, for ONNX.", "choices": QUANTIZATIONS},
    )
    _argument_group_name = "export"


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec export`."""
    (arguments,) = parse_arguments((ExportArguments,), with_checkpoint_named(args), __doc__)
    try:
        check_export(Path(arguments.output_dir), arguments.format, arguments.quantize)
        kwargs = {"dtype": "float32", **arguments.loading_kwargs()}
        recommender = Recommender.from_pretrained(arguments.model_name_or_path, **kwargs)
        recommender.export(arguments.output_dir, arguments.format, arguments.quantize)
    except (ImportError, ValueError) as error:
        raise OptionError(str(error)) from error
    print(f"{arguments.model_name_or_path} is exported to {arguments.output_dir} ({arguments.format})")


if __name__ == "__main__":
    main()
