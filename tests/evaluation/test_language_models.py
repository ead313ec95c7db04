"""Candidates ranked by likelihood: against one pass a candidate, without a cache; and sampled candidate sets."""

import functools

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

from modeling_transrec import DataArguments, EvaluationArguments, FullRankingEvaluator, evaluate
from modeling_transrec.evaluation.baselines import empty_scorer
from modeling_transrec.evaluation.candidate_sets import SampledRankingEvaluator
from modeling_transrec.evaluation.language_models import LanguageModelRanker, LanguageModelScorer

from ..checks import perturb


@pytest.fixture(scope="module")
def titles(items):
    return [text or item_id for text, item_id in zip(items["text_en"], items["item_id"], strict=True)]


@pytest.fixture(scope="module")
def causal(tokenizer):
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **size)
    return perturb(GPT2LMHeadModel(config)).eval()


@pytest.fixture(scope="module")
def with_encoder(tokenizer):
    torch.manual_seed(0)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, pad_token_id=0, **size)
    return perturb(T5ForConditionalGeneration(config)).eval()


HISTORIES = torch.tensor([[-1, 3, 8], [5, 30, 2]])
CANDIDATES = torch.tensor([[4, 9, 36, 5, 12], [0, 1, 7, 20, 8]])


@pytest.mark.parametrize("per_token", [True, False])
def test_a_causal_model_equals_one_pass_a_candidate(per_token, causal, tokenizer, titles):
    ranker = LanguageModelRanker(causal, tokenizer, titles, per_token=per_token, batch_size=2, max_history=2)
    found = ranker(HISTORIES, CANDIDATES)
    for user in range(2):
        shown = [titles[item] for item in HISTORIES[user].tolist()[-2:]]
        prompt = f"A user liked, in this order: {shown[0]}; {shown[1]}. Next the user will like:"
        prefix = tokenizer(prompt)["input_ids"]
        for place, item in enumerate(CANDIDATES[user].tolist()):
            title = tokenizer(" " + titles[item], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_p = causal(torch.tensor([prefix + title])).logits[0].log_softmax(-1)
            each = [float(log_p[len(prefix) - 1 + step, token]) for step, token in enumerate(title)]
            expected = sum(each) / (len(each) if per_token else 1)
            assert found[user, place].item() == pytest.approx(expected, rel=1e-4)


def test_an_encoder_decoder_equals_one_pass_a_candidate(with_encoder, tokenizer, titles):
    ranker = LanguageModelRanker(with_encoder, tokenizer, titles, batch_size=3)
    found = ranker(HISTORIES, CANDIDATES)
    for user in range(2):
        prompt = tokenizer(ranker.prompt_of(HISTORIES[user].tolist()), return_tensors="pt")["input_ids"]
        for place, item in enumerate(CANDIDATES[user].tolist()):
            labels = tokenizer(titles[item], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                loss = with_encoder(input_ids=prompt, labels=labels).loss
            assert found[user, place].item() == pytest.approx(-loss.item(), rel=1e-4)


def test_the_prompt_is_read_once_a_user(causal, tokenizer, titles, monkeypatch):
    lengths, plain = [], causal.forward

    @functools.wraps(plain)  # with its signature
    def counted(input_ids, *args, **kwargs):
        lengths.append(tuple(input_ids.shape))
        return plain(input_ids, *args, **kwargs)

    monkeypatch.setattr(causal, "forward", counted)
    LanguageModelRanker(causal, tokenizer, titles, batch_size=5)(HISTORIES[:1], CANDIDATES[:1])
    assert len(lengths) == 2 and lengths[0][0] == 1 and lengths[1][0] == 5 and lengths[1][1] < lengths[0][1]


@pytest.mark.parametrize("model", ["causal", "with_encoder"])
def test_a_saved_model_is_ranked_with(model, request, tokenizer, titles, tmp_path):
    model = request.getfixturevalue(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = LanguageModelRanker.from_pretrained(str(tmp_path), titles)
    expected = LanguageModelRanker(model, tokenizer, titles)(HISTORIES, CANDIDATES)
    torch.testing.assert_close(loaded(HISTORIES, CANDIDATES), expected)


def test_bad_prompts_and_titles_are_refused(causal, tokenizer, titles):
    with pytest.raises(ValueError, match="prompt must have {history}"):
        LanguageModelRanker(causal, tokenizer, titles, prompt="What is next?")
    with pytest.raises(ValueError, match="item 1 of the catalogue has no title"):
        LanguageModelRanker(causal, tokenizer, ["red rope", " "])


def test_a_model_whose_state_candidates_cannot_share_is_refused(tokenizer, titles):
    size = {"vocab_size": len(tokenizer), "hidden_size": 8, "num_hidden_layers": 1, "state_size": 2}
    xlnet = {"vocab_size": len(tokenizer), "d_model": 8, "n_layer": 1, "n_head": 1, "d_inner": 8}
    for model in (MambaForCausalLM(MambaConfig(**size)), XLNetLMHeadModel(XLNetConfig(**xlnet))):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no key-value cache"):
            LanguageModelRanker(model, tokenizer, titles)(HISTORIES, CANDIDATES)


def test_candidates_are_the_target_and_items_outside_the_history(items, validation_split):
    evaluator = SampledRankingEvaluator(items, validation_split, num_candidates=6)
    known, drawn = list(items["item_id"]), evaluator.candidates
    for row, history, target in zip(drawn, validation_split["item_ids"], validation_split["target"], strict=True):
        chosen = [known[item] for item in row]
        assert chosen[0] == target and len(set(chosen)) == 6
        assert not set(chosen[1:]) & {*history, target}
    others = SampledRankingEvaluator(items, validation_split, num_candidates=6, seed=1)
    assert (others.candidates != drawn).any() and others.fingerprint != evaluator.fingerprint
    full = FullRankingEvaluator(items, validation_split)
    assert evaluator.fingerprint != full.fingerprint and evaluator.protocol["num_candidates"] == 6
    assert "sampled: the target and 5 items outside the history, seed 0" in evaluator.protocol["ranking"]
    order = np.random.default_rng(0).permutation(len(items))  # of the catalogue: the candidates are the same
    moved = SampledRankingEvaluator(items.select(order), validation_split, num_candidates=6)
    assert (order[moved.candidates] == drawn).all() and moved.fingerprint == evaluator.fingerprint
    with pytest.raises(ValueError, match="and 37 candidates need 36; give fewer"):
        SampledRankingEvaluator(items, validation_split, num_candidates=37).candidates  # noqa: B018
    with pytest.raises(ValueError, match="must be at least 2"):
        SampledRankingEvaluator(items, validation_split, num_candidates=1)


def test_metrics_are_those_of_the_sampled_ranks(items, validation_split):
    evaluator = SampledRankingEvaluator(items, validation_split, num_candidates=8, batch_size=5, ks=[1, 3])
    weights = torch.rand(37, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # some tie
    metrics = evaluator.rank(empty_scorer(37).replace(item_scores=weights))
    hits, reciprocal = {1: [], 3: []}, []
    for row in evaluator.candidates:
        scores = weights[row]
        better, tied = int((scores[1:] > scores[0]).sum()), int((scores[1:] == scores[0]).sum())
        ranks = range(better + 1, better + tied + 2)
        for k, values in hits.items():
            values.append(np.mean([rank <= k for rank in ranks]))
        reciprocal.append(np.mean([1 / rank for rank in ranks]))
    assert metrics["mrr"] == pytest.approx(np.mean(reciprocal), abs=1e-3)
    assert all(metrics[f"hr@{k}"] == pytest.approx(np.mean(values), abs=1e-3) for k, values in hits.items())
    chance = SampledRankingEvaluator(items, validation_split, num_candidates=4, ks=[1])
    assert chance.rank(empty_scorer(37))["hr@1"] == 0.25
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN"):
            chance.rank(empty_scorer(37).replace(item_scores=torch.full((37,), value)))


def test_a_scorer_reads_the_candidates_only(causal, tokenizer, titles, items, validation_split):
    asked, ranker = [], LanguageModelRanker(causal, tokenizer, titles)

    def counted(histories, candidates):
        asked.append(candidates)
        return ranker(histories, candidates)

    scorer = LanguageModelScorer(ranker)
    scorer.ranker = counted
    some = validation_split.select(range(4))
    evaluator = SampledRankingEvaluator(items, some, num_candidates=3, ks=[1])
    evaluator.rank(scorer)
    assert sorted(torch.cat(asked).tolist()) == sorted(evaluator.candidates.tolist())
    whole = LanguageModelScorer(ranker).scores(HISTORIES)
    torch.testing.assert_close(whole.gather(1, CANDIDATES), ranker(HISTORIES, CANDIDATES))


def test_as_much_of_a_history_is_read_as_fits(causal, tokenizer, titles):
    ranker = LanguageModelRanker(causal, tokenizer, titles)
    long = torch.arange(10).repeat(2)[None]
    length = len(tokenizer(ranker.prompt_of(long[0].tolist()))["input_ids"])
    size = {"n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": None, "eos_token_id": None}
    short = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=length - 10, **size)).eval()
    fewer = LanguageModelRanker(short, tokenizer, titles)
    found = fewer(long, CANDIDATES[:1])
    assert any(torch.equal(found, fewer(long[:, -count:], CANDIDATES[:1])) for count in range(1, 10))
    tiny = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=8, **size)).eval()
    with pytest.raises(ValueError, match="reads 8 tokens, and a prompt with one title"):
        LanguageModelRanker(tiny, tokenizer, titles)(long, CANDIDATES[:1])


def test_it_is_a_row_of_what_needs_no_training(tokenizer, tmp_path):
    size = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 512}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **size)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = {"num_candidates": 4, "max_eval_users": 5, "eval_ks": [1, 10], "use_cpu": True}
    named = {"language_model_name_or_path": str(tmp_path)}
    found = evaluate(EvaluationArguments("language-model", **named, **options), DataArguments())
    protocol = found["protocol"]
    assert protocol["num_users"] == 5 and protocol["num_candidates"] == 4 and found["metrics"]["hr@10"] == 1.0
    assert protocol["scoring"]["language-model"]["source"] == tmp_path.name
    random = evaluate(EvaluationArguments("random", **options), DataArguments())
    assert random["metrics"]["hr@1"] == 0.25 and random["protocol"]["fingerprint"] == protocol["fingerprint"]
    assert (protocol["bf16"], protocol["scoring"]["language-model"]["dtype"]) == (False, "float32")
    for changed in ({"bf16": True}, {"language": "zh"}):
        other = evaluate(EvaluationArguments("language-model", **named, **options, **changed), DataArguments())
        assert other["protocol"]["scoring"]["fingerprint"] != protocol["scoring"]["fingerprint"]
        assert other["protocol"]["bf16"] == ("bf16" in changed)
    backbone = {"text_model_name_or_path": str(tmp_path)}
    for wrong, message in [
        ({"model_name_or_path": "language-model"}, "belong together"),
        ({"model_name_or_path": "random", **named}, "belong together"),
        ({"model_name_or_path": "random", "num_candidates": 1}, "--num_candidates must be at least 2"),
        ({"model_name_or_path": "random", "num_candidates": 4, "metrics": ["coverage"]}, "--metrics coverage reads"),
        ({"model_name_or_path": "random", "bf16": True}, "random reads none: leave it out"),
        ({"model_name_or_path": "content-knn", **backbone, "center_scores": True}, "content-knn has no embeddings"),
    ]:
        with pytest.raises(ValueError, match=message):
            EvaluationArguments(**wrong)
