"""HSTU against its layers written out for one user, and times all the way from histories to recommendations."""

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import FullRankingEvaluator, Recommender, TransRecConfig, TransRecModel
from modeling_transrec.data.loading import check_timestamps, read_timestamps
from modeling_transrec.models.time_encoder import time_buckets

from ..checks import perturb
from ..tiny import with_times


def norm(values, layer):
    return F.layer_norm(values, values.shape[-1:], layer.weight, layer.bias, eps=1e-6)


def naive_hstu(model, history, times):
    """The states of one history `(n, D)` whose interactions have these times."""
    config, encoder = model.config, model.user_encoder
    hidden = history * history.shape[1] ** 0.5 + encoder.position_embedding.weight[config.max_seq_len - len(history) :]
    for layer in encoder.layers:
        gate, value, query, key = F.silu(norm(hidden, layer.input_norm) @ layer.inputs.weight.T).chunk(4, dim=-1)
        attended = torch.zeros_like(hidden)
        size = hidden.shape[1] // config.num_attention_heads
        for place in range(len(history)):
            for head in range(config.num_attention_heads):
                part = slice(head * size, (head + 1) * size)
                for other in range(place + 1):
                    bucket = int(np.log(max(times[place] - times[other], 1)) / 0.301)
                    bias = layer.bias.of_distance[place - other] + layer.bias.of_time[bucket]
                    weight = F.silu(query[place, part] @ key[other, part] + bias) / config.max_seq_len
                    attended[place, part] += weight * value[other, part]
        gated = norm(attended, layer.attended_norm) * gate
        hidden = hidden + gated @ layer.output.weight.T + layer.output.bias
    return norm(hidden, encoder.layer_norm)


def test_hstu_equals_loops_over_places():
    torch.manual_seed(0)
    fields = {"num_items": 3, "hidden_size": 8, "max_seq_len": 7, "user_encoder_type": "hstu"}
    model = perturb(TransRecModel(TransRecConfig(**fields)).eval())
    embeddings, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    times = torch.tensor([[0, 1, 1, 90, 5_000, 10**8], [-1, -1, 7, 9, 900, 901]]) + 10**9
    states = model.get_user_hidden(embeddings, mask, timestamps=times)
    for user, first in ((0, 0), (1, 2)):
        expected = naive_hstu(model, embeddings[user, first:], times[user, first:].tolist())
        torch.testing.assert_close(states[user, first:], expected, atol=1e-5, rtol=1e-5)
    later = model.get_user_hidden(embeddings, mask, timestamps=times + 10**6)
    torch.testing.assert_close(later, states, atol=1e-6, rtol=1e-6)  # only differences count


def test_times_that_are_not_there_are_named():
    fields = {"num_items": 5, "hidden_size": 8, "user_encoder_type": "hstu"}
    for more in ({}, {"history_decay": 0.7, "normalize_scores": True}):
        model = TransRecModel(TransRecConfig(**fields, **more))
        with pytest.raises(ValueError, match="needs timestamps"):
            model(item_ids=torch.tensor([1, 2]), item_index=torch.tensor([[0, 1]]))
    for times, message in (([[1, None]], "row 0 has an interaction without a time"), ([[1, 2, 3]], "another number")):
        sequences = datasets.Dataset.from_dict({"item_ids": [["a", "b"]], "timestamps": times})
        with pytest.raises(ValueError, match=message):
            check_timestamps(sequences, "hstu")
            read_timestamps(sequences, np.arange(1), 2)
    long = datasets.Dataset.from_dict({"item_ids": [["a"] * 5, ["b"]], "timestamps": [[1, 2, 3, 4, 5], [7]]})
    assert read_timestamps(long, np.array([1, 0]), 3).tolist() == [[-1, -1, 7], [3, 4, 5]]


def test_buckets_grow_and_end():
    times = torch.tensor([[0, 1, 100, 10**6, 10**18]])
    assert time_buckets(times)[0, 0].tolist() == [0, 0, 15, 45, 127]
    assert torch.equal(time_buckets(times), time_buckets(times).transpose(1, 2))


def test_times_reach_the_model_in_training_evaluation_and_recommendation(
    make_model, make_collator, histories, items, validation_split, train_split, id_processor
):
    model = perturb(make_model("id", user_encoder_type="hstu", max_seq_len=6))
    collator = make_collator("id", model)
    batch = collator([histories[user] for user in (2, 0)])
    sequences = with_times(train_split)
    for line, user in enumerate((2, 0)):
        times = sequences[histories[user]["user"]]["timestamps"][-7:-1]
        assert batch["timestamps"][line, -len(times) :].tolist() == times
    timed = with_times(validation_split)
    evaluator = FullRankingEvaluator(items, timed, ks=[10])
    evaluator(model, id_processor)
    recommender = Recommender(model, id_processor).index(items)
    users = timed[:4]
    found = recommender.recommend(users["item_ids"], k=40, timestamps=users["timestamps"])
    other = recommender.recommend(
        users["item_ids"], k=40, timestamps=[[*range(len(one))] for one in users["item_ids"]]
    )
    assert found != other
    for user, recommended in enumerate(found):
        ids = [one["item_id"] for one in recommended]
        if users["target"][user] in ids:
            assert ids.index(users["target"][user]) == evaluator.rankings.num_better[user]
    given, times = ["?", *users["item_ids"][0]], [3, *users["timestamps"][0]]
    skipped = recommender.recommend(given, 40, unknown_items="skip", timestamps=times)
    scores = [[one["score"] for one in recommended] for recommended in (skipped, found[0])]
    torch.testing.assert_close(*map(torch.tensor, scores))


def test_missing_times_are_named(make_model, items, validation_split, id_processor):
    model = make_model("id", user_encoder_type="hstu")
    with pytest.raises(ValueError, match="needs timestamps"):
        model(item_ids=torch.arange(3), item_index=torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=r"these histories have no timestamps: .* NAME_pair.csv"):
        FullRankingEvaluator(items, validation_split)(model, id_processor)
    recommender = Recommender(model, id_processor).index(items)
    with pytest.raises(ValueError, match="give timestamps, one for each item"):
        recommender.recommend(["i001"])
    with pytest.raises(ValueError, match="a time for each item"):
        recommender.recommend(["i001"], timestamps=[1, 2])
    other = Recommender(make_model("id"), id_processor).index(items)
    with pytest.raises(ValueError, match="does not read the times"):
        other.recommend(["i001"], timestamps=[1])
