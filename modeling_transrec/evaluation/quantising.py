"""Fits the quantisers of a model whose items are codes, see [`CodesProjection`].

Optimised product quantisation (Ge et al., CVPR 2013) by FAISS: features are rotated so that their parts are as
independent as can be, and the values of each part are divided among its codes by k-means.

Shapes: `P` items that have the content, `H` width of a backbone, `C` codebooks, `S` codes of each.
"""

import numpy as np
import torch

from ..data.preparation import PreparedItems, item_chunks
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from .encoding import evaluation_mode
from .ranks import of_main_process


MOST_ITEMS = 65_536  # that a quantiser is learnt from
ITERATIONS = 10  # of rotating and dividing


def fit_quantisers(
    model: TransRecPreTrainedModel, items: PreparedItems, processor: TransRecProcessor, chunk_size: int = 256
) -> None:
    """Gives a model whose items are codes the quantiser of a catalogue; nothing happens to other models.

    A quantiser that is there is replaced, and the codes then mean other things: only a new model should get one. The
    processes of a run call it together; the main one learns for all.

    Args:
        model: the model.
        items: prepared items in catalogue order, see [`prepare_items`]; of more than 65,536 some are taken.
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.

    Raises:
        ImportError: without FAISS.
        ValueError: if there are fewer items than codes in a codebook.
    """
    quantisers = model.item_encoder.quantisers
    if not quantisers:
        return
    learnt = of_main_process(lambda: _learn(model, items, processor, chunk_size))
    for name, quantiser in quantisers.items():
        quantiser.take(*map(torch.from_numpy, learnt[name]))


def _learn(
    model: TransRecPreTrainedModel, items: PreparedItems, processor: TransRecProcessor, chunk_size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns a rotation and centroids for each kind of features."""
    encoder = model.item_encoder
    found: dict[str, list[np.ndarray]] = {}
    chosen = np.sort(np.random.default_rng(0).permutation(len(items))[:MOST_ITEMS])
    chunks = (
        item_chunks(items, chunk_size) if len(chosen) == len(items) else np.array_split(chosen, len(chosen) // 256)
    )
    with torch.no_grad(), evaluation_mode(model):
        for index in chunks:
            inputs = dict(processor.pad(items[index]).to(model.device))
            if not encoder.quantisers.keys() <= inputs.keys():
                inputs |= encoder.features(**inputs)
            for name in encoder.quantisers:
                features = inputs[name].float()
                if name == "text_features" and "has_text" in inputs:
                    features = features[inputs["has_text"]]
                found.setdefault(name, []).append(features.cpu().numpy())
    sizes = {name: quantiser.centroids.shape for name, quantiser in encoder.quantisers.items()}
    return {name: learn_codes(np.concatenate(parts), *sizes[name][:2]) for name, parts in found.items()}


def learn_codes(features: np.ndarray, num_codebooks: int, codebook_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Learns the codes of features `(P, H)`: returns a rotation `(H, H)` and centroids `(C, S, H / C)`.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    >>> rotation, centroids = learn_codes(features, num_codebooks=3, codebook_size=4)
    >>> centroids.shape, bool(np.allclose(rotation @ rotation.T, np.eye(6), atol=1e-4))
    ((3, 4, 2), True)
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("learning codes needs FAISS: pip install modeling_transrec[faiss]") from error
    count, width = features.shape
    if count < codebook_size:
        raise ValueError(f"codebook_size={codebook_size} codes need as many items, and there are {count}; give fewer")
    bits = codebook_size.bit_length() - 1

    def new_quantiser():
        quantiser = faiss.ProductQuantizer(width, num_codebooks, bits)
        quantiser.cp.min_points_per_centroid = 1  # few are no fault
        return quantiser

    rotation = faiss.OPQMatrix(width, num_codebooks)
    inner = new_quantiser()
    inner.cp.niter, rotation.niter, rotation.pq = ITERATIONS, ITERATIONS, inner
    features = np.ascontiguousarray(features, dtype=np.float32)
    rotation.train(features)
    quantiser = new_quantiser()
    quantiser.train(rotation.apply(features))
    matrix = faiss.vector_to_array(rotation.A).reshape(width, width).T.copy()
    return matrix, faiss.vector_to_array(quantiser.centroids).reshape(num_codebooks, codebook_size, -1)
