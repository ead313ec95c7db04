"""A model whose towers are graphs of ONNX, run by ONNX Runtime; for a recommender it is like any other.

Shapes: `U` items, `B` users, `L` history length, `D` hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from transformers.processing_utils import Unpack

from ..models.batch import ItemInputs, given_items
from ..models.configuration_transrec import TransRecConfig
from ..models.modalities import MODALITIES
from ..models.processing_transrec import TransRecProcessor
from .folders import stamp_of
from .graphs import ONNX_NEEDED
from .towers import ITEM_TOWER, SCORING_SPACE, USER_TOWER


class OnnxModel(nn.Module):
    """
    Encodes items and users by exported towers. It has no weights of torch, and is not trained or saved.

    Args:
        folder: that has the three graphs.
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
        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(folder / f"{name}.onnx"), options, providers=list(providers or ["CPUExecutionProvider"])
            )
            for name in (ITEM_TOWER, USER_TOWER, SCORING_SPACE)
        }

    def checkpoint_hash(self, processor: TransRecProcessor) -> str:
        """Returns the hash that its embeddings are known by; in float32 it is that of the checkpoint itself."""
        return stamp_of(self.manifest, processor)

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, as the processor gives them, to item embeddings `(U, D)`."""
        given: dict[str, Any] = {**given_items(items)}
        for name, modality in MODALITIES.items():
            if modality.is_sparse and len(given.get(f"{name}_index", ())):
                for one in (one for one in modality.inputs if one in given and not len(given[one])):
                    given[one] = given[one].new_zeros(1, *given[one].shape[1:])  # a graph has no empty batch
        return self._run(ITEM_TOWER, given)

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
        given = {"item_embeddings": item_embeddings, "mask": mask, "user_ids": user_ids, "timestamps": timestamps}
        return self._run(USER_TOWER, {name: tensor for name, tensor in given.items() if tensor is not None})

    def to_scoring_space(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps user or item embeddings `(…, D)` to vectors whose dot product is the score."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        return self._run(SCORING_SPACE, {"embeddings": flat}).view_as(vectors)

    def drop_item_ids(self) -> NoReturn:
        """Raises `ValueError`: a graph cannot lose a part."""
        raise ValueError(
            "the catalogue has items that the exported id table does not know, and an exported model cannot drop its "
            "id part: load the checkpoint with backend='torch', index the catalogue there, and export that recommender"
        )

    def save_pretrained(self, save_directory, **kwargs) -> NoReturn:
        """Raises `ValueError`: there are no weights to save."""
        raise ValueError("an exported model has no weights to save: copy its folder, or save the checkpoint itself")

    def _run(self, name: str, given: dict[str, torch.Tensor]) -> torch.Tensor:
        session = self._sessions[name]
        read = [one.name for one in session.get_inputs()]
        missing = [one for one in read if one not in given]
        if missing:
            raise ValueError(f"the exported {name} needs {', '.join(missing)}; the processor makes them")
        (found,) = session.run(None, {one: given[one].detach().cpu().numpy() for one in read})
        return torch.from_numpy(found)
