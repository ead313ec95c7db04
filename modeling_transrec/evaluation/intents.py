"""Finds clusters of users, which the auxiliary loss `"intents"` draws states to.

Shapes: `N` users, `V` catalogue items, `L` history length, `D` width, `K` clusters.
"""

import datasets
import numpy as np
import torch

from ..data.loading import read_histories
from ..data.preparation import PreparedItems
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.whitening import unit_length
from .encoding import encode_catalogue, evaluation_mode
from .ranks import of_main_process
from .scoring import CatalogueScorer, user_blocks


@torch.no_grad()
def find_intents(
    model: TransRecPreTrainedModel,
    items: PreparedItems,
    processor: TransRecProcessor,
    histories: datasets.Dataset,
    num_intents: int,
    chunk_size: int = 256,
    seed: int = 0,
) -> torch.Tensor:
    """Returns the centres `(K, D)`, of length 1, of the users' embeddings, by k-means over their cosines.

    The processes of a run call it together; the main one learns for all.

    Args:
        model: encodes items and users, in evaluation mode.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        histories: column `history`, indices into the catalogue.
        num_intents: `K`.
        chunk_size: items encoded at a time.
        seed: of the first centres.

    Raises:
        ValueError: if there are fewer users than clusters.
    """
    if len(histories) < num_intents:
        raise ValueError(f"num_intents={num_intents} clusters need as many users, and there are {len(histories)}")
    with evaluation_mode(model):
        scorer = CatalogueScorer(model, encode_catalogue(model, items, processor, chunk_size))
        blocks = user_blocks(len(histories), len(items))
        read = (read_histories(histories, np.arange(len(histories))[block]) for block in blocks)
        users = [scorer.encode_users(torch.from_numpy(rows).to(model.device)).cpu() for rows in read]
    return torch.from_numpy(of_main_process(lambda: _centres(unit_length(torch.cat(users)), num_intents, seed)))


def _centres(vectors: torch.Tensor, num_intents: int, seed: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans  # takes a second

    means = MiniBatchKMeans(num_intents, n_init=1, random_state=seed, batch_size=4096).fit(vectors.numpy())
    return unit_length(torch.from_numpy(means.cluster_centers_).float()).numpy()
