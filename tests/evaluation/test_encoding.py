"""Items of a catalogue to embeddings, whatever the chunks and whatever the model's mode."""

import threading
import time

import pytest
import torch

from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation.encoding import encode_catalogue, evaluation_mode


@pytest.mark.parametrize("chunk_size", [5, 37, 100])
def test_catalogue_order_does_not_depend_on_chunks(chunk_size, items, make_model, text_processor):
    model = make_model("text")
    item_embeddings = encode_catalogue(model, prepare_items(items, text_processor), text_processor, chunk_size)
    one_by_one = torch.cat([model.get_item_features(**text_processor(text=text)) for text in items["text_en"]])
    assert torch.allclose(item_embeddings, one_by_one, atol=1e-6)


def test_threads_inside_keep_the_model_in_evaluation_mode():
    model, modes = torch.nn.Dropout().train(), []

    def stay(seconds):
        with evaluation_mode(model):
            time.sleep(seconds)
            modes.append(model.training)

    threads = [threading.Thread(target=stay, args=(0.02 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modes == [False] * 4 and model.training
    with pytest.raises(RuntimeError), evaluation_mode(model):
        raise RuntimeError
    assert model.training
