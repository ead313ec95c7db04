"""Prepared items: those of the files that are there, not of those that were."""

import os

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_transrec.data.preparation import prepare_items


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_image_that_was_replaced_is_prepared_anew(tmp_path, processor_of, on_disk):
    image = tmp_path / "i1.bmp"
    features = datasets.Features({"item_id": datasets.Value("string"), "image": datasets.Image()})
    items = datasets.Dataset.from_dict({"item_id": ["i1"], "image": [str(image)]}, features=features)
    if on_disk:
        items = datasets.Dataset.from_generator(
            lambda: [{"item_id": "i1", "image": str(image)}], features=features, cache_dir=tmp_path
        )
    found = {}
    for colour in (10, 200, 90):
        Image.new("RGB", (30, 30), (colour,) * 3).save(image)
        os.utime(image, ns=(10**18, 10**18))
        prepared = prepare_items(items, processor_of["image"])
        assert np.frombuffer(prepared[0]["pixels"], np.uint8).mean() == colour
        found[prepared._fingerprint] = colour  # by which features are kept
    assert len(found) == 3
