"""A model whose towers are graphs of ONNX, run by ONNX Runtime; for a recommender it is like any other.

Shapes: `U` items, `B` users, `L` history length, `D` hidden size.
"""

import copy
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import nn
from transformers.processing_utils import Unpack

from ..models.backbone_references import add_tensors
from ..models.batch import ItemInputs, given_items
from ..models.checkpoint_files import named_file
from ..models.configuration_transrec import TransRecConfig
from ..models.modalities import MODALITIES
from ..models.processing_transrec import TransRecProcessor
from ..models.projections import WhitenedProjection
from .folders import STATISTICS_FILE, save_statistics, stamp_of, towers_in, write_manifest
from .graphs import ONNX_NEEDED
from .towers import ITEM_PROJECTION, ITEM_TOWER, SCORING_SPACE, STATISTICS, USER_TOWER


class OnnxItemEncoder:
    """
    The item tower of an exported model that whitens features by the statistics of the catalogue that it encodes.

    Args:
        run: computes a graph, see [`OnnxModel`].
        whitened: for each kind of features, their statistics.
    """

    def __init__(self, run: Callable[..., dict[str, torch.Tensor]], whitened: dict[str, WhitenedProjection]):
        self.run = run
        self.whitened = whitened

    def features(self, **items: Unpack[ItemInputs]) -> dict[str, torch.Tensor]:
        """Returns the features `(U, H)` that are whitened, by their names."""
        given: dict[str, Any] = {**items}
        found = self.run(ITEM_TOWER, **given)
        index_of = {f"{name}_features": f"{name}_index" for name, modality in MODALITIES.items() if modality.is_sparse}
        for name in self.whitened.keys() & index_of.keys():
            found[name] = found[name][: int(given[index_of[name]].max()) + 1]  # none where no item has one
        return {name: found[name] for name in self.whitened}

    def statistics(self) -> dict[str, torch.Tensor]:
        """Returns the catalogue's means and matrices, by their names as inputs of the graph."""
        return {f"{name}_{part}": getattr(one, part) for name, one in self.whitened.items() for part in STATISTICS}


class OnnxModel(nn.Module):
    """
    Encodes items and users by exported towers. It has no weights of torch, and is not trained.

    A model that whitens features takes the statistics of each catalogue that it encodes, as it did before the export.

    Args:
        folder: that has the graphs.
        config: the checkpoint's configuration.
        manifest: of the export, see [`read_manifest`].
        providers: of ONNX Runtime, such as `["CUDAExecutionProvider"]`; by default the CPU.

    Raises:
        ImportError: if ONNX Runtime is not installed.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(
        self, folder: Path, config: TransRecConfig, manifest: dict[str, Any], providers: Sequence[str] | None = None
    ):
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{ONNX_NEEDED} ({error})") from error
        self.config = config
        self.folder = folder
        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(folder / f"{name}.onnx"), options, providers=list(providers or ["CPUExecutionProvider"])
            )
            for name in (ITEM_TOWER, USER_TOWER, SCORING_SPACE, ITEM_PROJECTION)
            if (folder / f"{name}.onnx").is_file()
        }
        self.item_encoder = OnnxItemEncoder(self._run, _load_statistics(folder.parent / STATISTICS_FILE, config))
        self._exported = {name: values.clone() for name, values in self.item_encoder.statistics().items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxModel":
        """Copies the statistics; copies compute by the same sessions, which never change."""
        other = memo[id(self)] = self.__class__.__new__(self.__class__)
        memo[id(self._sessions)] = self._sessions
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def checkpoint_hash(self, processor: TransRecProcessor) -> str:
        """Returns the hash that its embeddings are known by.

        In float32 it is that of the checkpoint itself, as long as features are whitened by the same statistics.
        """
        stamp, now = stamp_of(self.manifest, processor), self.item_encoder.statistics()
        if all(torch.equal(values, self._exported[name]) for name, values in now.items()):
            return stamp
        digest = hashlib.sha256(stamp.encode())
        add_tensors(digest, now)
        return digest.hexdigest()

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, as the processor gives them, to item embeddings `(U, D)`."""
        given: dict[str, Any] = {**given_items(items)}
        encoder = self.item_encoder
        if not encoder.whitened:
            return self._run(ITEM_TOWER, **given)["item_embeddings"]
        if not encoder.whitened.keys() <= given.keys():
            given |= encoder.features(**given)
        return self._run(ITEM_PROJECTION, **given, **encoder.statistics())["item_embeddings"]

    def get_user_features(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` with their mask `(B, L)` to user embeddings `(B, D)`."""
        length, longest = item_embeddings.shape[1], self.config.max_seq_len
        if length > longest:
            raise ValueError(
                f"histories of {length} items are longer than max_seq_len={longest}; keep only the last ones"
            )
        optional = {"user_ids": user_ids, "timestamps": timestamps}
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return self._run(USER_TOWER, item_embeddings=item_embeddings, mask=mask, **given)["user_embeddings"]

    def to_scoring_space(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps user or item embeddings `(…, D)` to vectors whose dot product is the score."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        return self._run(SCORING_SPACE, embeddings=flat)["vectors"].view_as(vectors)

    def drop_item_ids(self) -> NoReturn:
        """Raises `ValueError`: a graph cannot lose a part."""
        raise ValueError(
            "the catalogue has items that the exported id table does not know, and an exported model cannot drop its "
            "id part: load the checkpoint with backend='torch', index the catalogue there, and export that recommender"
        )

    def save_export(self, folder: Path, processor: TransRecProcessor) -> None:
        """Writes the export again, without a catalogue, with the statistics by which it whitens now.

        Args:
            folder: an existing, empty folder.
            processor: the model's processor.
        """
        (folder / "onnx").mkdir()
        for name in towers_in(self.manifest):
            shutil.copyfile(self.folder.parent / name, folder / name)
        if self.item_encoder.whitened:
            save_statistics(self.item_encoder.whitened, folder)
        self.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_manifest(folder, {**self.manifest, "checkpoint": self.checkpoint_hash(processor)}, processor)

    def _run(self, graph: str, /, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes a graph's results, by their names, of those inputs that it reads."""
        session = self._sessions[graph]
        read = [one.name for one in session.get_inputs()]
        missing = [one for one in read if one not in given]
        if missing:
            raise ValueError(f"the exported {graph} needs {', '.join(missing)}; the processor makes them")
        for name, modality in MODALITIES.items():
            if modality.is_sparse and len(given.get(f"{name}_index", ())):
                for one in (one for one in (*modality.inputs, f"{name}_features") if one in given):
                    if not len(given[one]):
                        given[one] = given[one].new_zeros(1, *given[one].shape[1:])  # a graph has no empty batch
        results = session.run(None, {one: given[one].detach().cpu().numpy() for one in read})
        names = (one.name for one in session.get_outputs())
        return {name: torch.from_numpy(values) for name, values in zip(names, results, strict=True)}


def _load_statistics(file: Path, config: TransRecConfig) -> dict[str, WhitenedProjection]:
    """Reads the statistics of an export, by the names of the features; there are none if none are whitened."""
    if not file.is_file():
        return {}
    whitened = {}
    with named_file(str(file)), safe_open(file, "pt") as opened:
        for name in (key.removesuffix(".mean") for key in opened.keys() if key.endswith(".mean")):
            buffers = {
                key.removeprefix(f"{name}."): opened.get_tensor(key)
                for key in opened.keys()
                if key.startswith(f"{name}.")
            }
            width, hidden_size = buffers["matrix"].shape
            whitened[name] = WhitenedProjection(width, hidden_size, config)
            whitened[name].load_state_dict(buffers, strict=False)  # all but the residual, which the graph has
    return whitened
