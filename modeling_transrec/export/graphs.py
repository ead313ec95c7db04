"""Writes the parts of a model as graphs: of `torch.export`, or of ONNX, in float32 or with weights of 8 bits."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .towers import ITEM_TOWER, Tower


ONNX_NEEDED = 'ONNX needs pip install "modeling_transrec[export]"'
_SCOPES, _BACKBONE = "pkg.torch.onnx.name_scopes", ".backbone"  # of nodes, in the exporter's metadata
_LARGEST_FILE = 1_900_000_000  # bytes; a file of ONNX has at most 2 GB, and larger weights lie beside it


def write_torch_export(towers: dict[str, Tower], folder: Path) -> None:
    """Writes each part as `NAME.pt2`, to be loaded by `torch.export.load`."""
    for name, tower in towers.items():
        torch.export.save(tower.export(), folder / f"{name}.pt2")


def write_onnx(towers: dict[str, Tower], folder: Path, quantize: str | None = None) -> None:
    """Writes each part as `NAME.onnx`.

    Args:
        towers: the parts.
        folder: an existing folder.
        quantize: `"int8"` for weights of 8 bits, with a scale for each 16 of them, in the linear layers of the item
            tower's backbones. All else stays in float32.

    Raises:
        ImportError: if ONNX's packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{ONNX_NEEDED} ({error})") from error
    for name, tower in towers.items():
        program, path = _translate(tower), folder / f"{name}.onnx"
        nodes = [*program.model.graph]
        outside = [node.name for node in nodes if _BACKBONE not in node.metadata_props.get(_SCOPES, "")]
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of code and folders of this machine
        is_large = _size(tower) > _LARGEST_FILE
        if quantize is None or name != ITEM_TOWER:
            program.save(path, external_data=is_large)
            continue
        with tempfile.TemporaryDirectory() as aside:
            whole = Path(aside, path.name)
            program.save(whole, external_data=is_large)
            _quantize(whole, path, outside, is_large)


def _size(tower: Tower) -> int:
    """Returns the number of bytes of a part's weights."""
    return sum(value.numel() * value.element_size() for value in tower.module.state_dict().values())


def _translate(tower: Tower) -> Any:
    """Returns a part as a program of ONNX, by the exporter of torch."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        return torch.onnx.export(
            tower.module,
            kwargs={"inputs": tower.inputs},
            dynamic_shapes={"inputs": tower.sizes},
            input_names=[*tower.inputs],
            output_names=tower.outputs,
            custom_translation_table={torch.ops.aten.remainder.Scalar: _remainder},
            verbose=False,
        )


def _remainder(dividend, divisor):
    """Translates `dividend % divisor` of integers, also where the divisor is a size; the exporter's own does not."""
    from onnxscript import opset18 as op

    return op.Mod(dividend, op.CastLike(divisor, dividend))


def _quantize(source: Path, target: Path, outside: Sequence[str], is_large: bool) -> None:
    """Writes a graph in which products with weights have weights of 8 bits, but for the nodes named by `outside`.

    Each 16 weights have a scale and an offset. Activations stay floats: with integers in their place, as in dynamic
    quantisation, several times as many of the ten best items are others.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=16, is_symmetric=False, nodes_to_exclude=[*outside]
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), is_large)
