"""Writes the parts of a model as graphs: of `torch.export`, or of ONNX, in float32 or with weights of 8 bits."""

import ast
import re
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from .towers import ITEM_TOWER, Tower


ONNX_NEEDED = 'ONNX needs pip install "modeling_transrec[export]"'
_SCOPES = "pkg.torch.onnx.name_scopes"  # modules that a node is of, in the exporter's metadata
_BLOCK_SIZE = 16  # weights that share a scale and an offset
_LARGE_TABLE = 1_000_000  # weights, from which on a table is worth fewer bits
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
        quantize: `"int8"` for fewer bits in the item tower's backbones: 8, with a scale and an offset for each 16
            weights, in tables of tokens and in the linear layers of the first half of the blocks; 16-bit floats in the
            other linear layers. All else stays in float32.

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
        first_half, rest = _by_depth(program.model.graph)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of code and folders of this machine
        is_large = _size(tower) > _LARGEST_FILE
        if quantize is None or name != ITEM_TOWER:
            program.save(path, external_data=is_large)
            continue
        with tempfile.TemporaryDirectory() as aside:
            whole = Path(aside, path.name)
            program.save(whole, external_data=is_large)
            _quantize(whole, path, first_half, rest, is_large)


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


def _by_depth(graph: Any) -> tuple[set[str], set[str]]:
    """Returns the names of a graph's nodes in the first half of the blocks of each backbone, and in the rest of it."""
    blocks: dict[str, tuple[str, int]] = {}  # of each node the stack and its number there
    rest = set()
    for node in graph:
        inside = [scope for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")) if ".backbone" in scope]
        found = next(filter(None, (re.fullmatch(r"(.*\.backbone\..*?)\.(\d+)", scope) for scope in inside)), None)
        if found is not None:
            blocks[node.name] = found[1], int(found[2])
        elif inside:
            rest.add(node.name)
    last: Counter = Counter()
    for stack, number in blocks.values():
        last[stack] = max(last[stack], number)
    first_half = {name for name, (stack, number) in blocks.items() if 2 * number <= last[stack]}
    return first_half, rest | blocks.keys() - first_half


def _quantize(source: Path, target: Path, first_half: set[str], rest: set[str], is_large: bool) -> None:
    """Writes a graph with fewer bits in its backbones, see [`write_onnx`].

    Activations stay floats: with integers in their place, as in dynamic quantisation, several times as many of the ten
    best items are others. Later blocks have 16 bits: of six with 8 bits, the last one alone makes half of the error.

    Args:
        source: the graph in float32.
        target: the file to write.
        first_half, rest: names of nodes, see [`_by_depth`].
        is_large: whether weights are written into a file beside it.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    graph = model.graph
    casts: list[Any] = []
    weights = {one.name: one for one in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        position = {"Gather": 0, "MatMul": 1}.get(node.op_type)
        weight = None if position is None else weights.get(node.input[position])
        if weight is None or readers[weight.name] > 1:
            continue
        if node.op_type == "Gather" and node.name in first_half | rest:
            _quantize_table(graph, node, weight)
        elif node.op_type == "MatMul" and node.name in rest:
            casts.append(_halve(weight, node))
    for cast in casts:
        graph.node.insert(0, cast)
    kept = [node.name for node in graph.node if node.name not in first_half]
    quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=_BLOCK_SIZE, is_symmetric=False, nodes_to_exclude=kept)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), is_large)


def _quantize_table(graph, node, table) -> None:
    """Gives a large table weights of 8 bits, and makes its `Gather` one that reads them."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    values = onnx.numpy_helper.to_array(table)
    if values.ndim != 2 or values.size < _LARGE_TABLE or values.shape[1] % _BLOCK_SIZE:
        return
    config = DefaultWeightOnlyQuantConfig(block_size=_BLOCK_SIZE, is_symmetric=False, bits=8)
    packed, scales, offsets = DefaultWeightOnlyQuantizer(config).qbits_block_quant(values.T.copy())
    rows, name = len(values), table.name
    table.CopyFrom(onnx.numpy_helper.from_array(packed.reshape(values.shape), name))
    beside = {f"{name}_scales": scales.reshape(rows, -1), f"{name}_offsets": offsets.reshape(rows, -1)}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in beside.items())
    attributes: dict[str, Any] = {"bits": 8, "block_size": _BLOCK_SIZE, "gather_axis": 0, "quantize_axis": 1}
    reads = [name, node.input[1], *beside]
    node.CopyFrom(
        onnx.helper.make_node(
            "GatherBlockQuantized", reads, [*node.output], node.name, domain="com.microsoft", **attributes
        )
    )


def _halve(weight, node):
    """Gives a weight 16 bits, and returns the node that makes it float32 again for the one that reads it."""
    import numpy as np
    import onnx

    whole = f"{weight.name}_float32"
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name))
    node.input[1] = whole
    return onnx.helper.make_node("Cast", [weight.name], [whole], f"{node.name}_float32", to=onnx.TensorProto.FLOAT)
