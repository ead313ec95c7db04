import pickle

import datasets
import pytest
import torch
from tokenizers import processors
from transformers import AutoProcessor, GPT2Config, PreTrainedTokenizerFast

from modeling_transrec import TransRecConfig, TransRecProcessor
from modeling_transrec.data.loading import index_histories, load_items
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.models.processing_transrec import check_processor

from ..tiny import SIZE


@pytest.mark.parametrize("kind", ["text", "id"])
def test_save_load_and_pickle(kind, processor_of, items, tmp_path):
    processor = processor_of[kind]
    processor.save_pretrained(tmp_path)
    call = {"text": list(items["text_en"])} if kind == "text" else {"item_ids": list(items["item_id"])}
    expected = {name: tensor.tolist() for name, tensor in processor(**call).items()}
    for again in (
        TransRecProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(processor)),
    ):
        assert isinstance(again, TransRecProcessor)
        assert {name: tensor.tolist() for name, tensor in again(**call).items()} == expected


def test_options_survive_saving(tokenizer, tmp_path):
    TransRecProcessor(tokenizer, language="zh", max_text_length=7, do_lower_case=False).save_pretrained(tmp_path)
    again = TransRecProcessor.from_pretrained(tmp_path)
    assert (again.language, again.max_text_length, again.do_lower_case) == ("zh", 7, False)
    assert again.item_columns[0] == "text_zh"


def test_texts_are_cut_lowered_and_padded_to_the_longest(tokenizer):
    processor = TransRecProcessor(tokenizer, max_text_length=5)
    inputs = processor(text=["RED rope", "red " * 20])
    assert inputs["input_ids"].shape == (2, 5)
    assert inputs["attention_mask"].sum(1).tolist() == [4, 5]
    assert processor(text="RED rope")["input_ids"].tolist() == processor(text="red rope")["input_ids"].tolist()


def test_texts_are_padded_as_a_tokenizer_pads_them(items, tokenizer):
    tokens = tokenizer([*items["text_en"], "", "one"])["input_ids"]
    expected = tokenizer.pad({"input_ids": tokens}, padding_side="right", return_tensors="pt")
    found = TransRecProcessor(tokenizer).pad({"input_ids": tokens})
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype


def test_a_text_is_the_same_whatever_it_is_padded_with(items, tokenizer, make_model, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    left = PreTrainedTokenizerFast.from_pretrained(tmp_path, padding_side="left")
    processor, model = TransRecProcessor(left), make_model("text")
    alone = model.get_item_features(**processor(text=["red"]))
    among = model.get_item_features(**processor(text=["red", "red blue green small"]))
    assert torch.allclose(alone[0], among[0], atol=1e-6)


def test_an_empty_text_is_still_an_item(tokenizer):
    assert TransRecProcessor(tokenizer)(text=["", "red"])["attention_mask"].sum(1).min() >= 1
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]")
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    processor = TransRecProcessor(bare)
    assert bare.pad_token == "[SEP]"  # as for GPT-2, which has no padding token
    assert processor(text=["", "red"])["attention_mask"].tolist() == [[1], [1]]
    assert GPT2Config().pad_token_id is None


def test_a_prefix_is_set_before_every_text(tokenizer, text_processor, tmp_path):
    TransRecProcessor(tokenizer, item_prefix="Rope: ").save_pretrained(tmp_path)
    processor = TransRecProcessor.from_pretrained(tmp_path)
    expected = text_processor(text=["rope: red rope", "rope: red"])["input_ids"]
    assert torch.equal(processor(text=["RED rope", "red"])["input_ids"], expected)
    assert processor.fingerprint != text_processor.fingerprint
    cased = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    cased.backend_tokenizer.normalizer = None
    found = TransRecProcessor(cased, item_prefix="Rope: ")(text="RED")["input_ids"]
    assert torch.equal(found, cased("Rope: red", return_tensors="pt")["input_ids"])  # the prefix stays as it is


def test_a_prefix_is_no_text(tokenizer):
    processor = TransRecProcessor(tokenizer, item_prefix="rope: ")
    found = processor(text=["", None, "  ", "red", "\u200b"])
    assert found["has_text"].tolist() == [False, False, False, True, False]
    blank = TransRecProcessor(tokenizer)(text=["", "red"])
    assert found["attention_mask"][0].sum() == blank["attention_mask"][0].sum()
    with pytest.raises(ValueError, match="max_text_length must be at least 5 .*item_prefix='rope: ', got 4"):
        TransRecProcessor(tokenizer, item_prefix="rope: ", max_text_length=4)


def test_prepared_items_are_in_catalogue_order_and_unpadded(items, text_processor, id_processor):
    prepared = prepare_items(items, text_processor)
    for row in (0, 5, 36):
        alone = text_processor(text=items["text_en"][row])["input_ids"][0].tolist()
        assert prepared[row]["input_ids"] == alone
    assert prepare_items(items, id_processor)["item_ids"][:] == list(range(37))


def test_two_processes_prepare_the_same_items_and_share_them_with_later_runs(processor_of, tmp_path):
    items = load_items("ninerec", "Sample_Target", cache_dir=str(tmp_path)).select(range(50))
    processor = processor_of["text+image"]
    prepared = prepare_items(items, processor, num_proc=2)
    files = sorted(tmp_path.rglob("*.arrow"))
    again = prepare_items(items, processor)
    assert sorted(tmp_path.rglob("*.arrow")) == files
    alone = prepare_items(datasets.Dataset.from_list(items.to_list(), features=items.features), processor)
    assert alone.to_list() == prepared.to_list() == again.to_list()


def test_errors_say_what_to_do(tokenizer, items, id_processor):
    with pytest.raises(ValueError, match="several of them"):
        TransRecProcessor()
    with pytest.raises(ValueError, match="'en', 'zh'"):
        TransRecProcessor(tokenizer, language="de")
    with pytest.raises(ValueError, match="distinct"):
        TransRecProcessor(item_ids=["a", "a"])
    with pytest.raises(ValueError, match="at least 3"):
        TransRecProcessor(tokenizer, max_text_length=2)
    with pytest.raises(TypeError, match="max_title_length"):
        TransRecProcessor(tokenizer, max_title_length=3)
    with pytest.raises(ValueError, match="'new' is not among the 37 items"):
        id_processor(item_ids=["new"])
    with pytest.raises(ValueError, match="pass text="):
        TransRecProcessor(tokenizer)(item_ids=["i001"])
    nothing_to_pad_with = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="set its pad_token"):
        TransRecProcessor(nothing_to_pad_with)
    silent = items.map(lambda item: {"text_zh": ""})
    with pytest.raises(ValueError, match="no item has a text in text_zh"):
        prepare_items(silent, TransRecProcessor(tokenizer, language="zh"))


def test_unknown_and_repeated_items_are_named(items, train_split):
    with pytest.raises(ValueError, match="'i0.*not in the catalogue of 3 items"):
        index_histories(train_split, items["item_id"][:3])
    with pytest.raises(ValueError, match="twice"):
        index_histories(train_split, [*items["item_id"], "i000"])
    numbered = datasets.Dataset.from_dict({"item_ids": [[1, 3], None], "target": [2, 1]})
    assert index_histories(numbered.select([0]), [1, 2, 3])[0]["history"] == [0, 2]
    with pytest.raises(ValueError, match="the history of row 1 is null; leave this user out"):
        index_histories(numbered, [1, 2, 3])
    for wrong in ([1.5, 2.0], ["a", 1], [None, None]):
        with pytest.raises(ValueError, match="item ids must be strings, or all integers"):
            index_histories(train_split, wrong)


def test_fingerprint_follows_what_the_processor_does_not_how_it_was_called(processor_of, tmp_path):
    processor_of["text"].save_pretrained(tmp_path)
    first, second, lower, shorter = (
        TransRecProcessor.from_pretrained(tmp_path, **options)
        for options in ({}, {}, {"do_lower_case": False}, {"max_text_length": 7})
    )
    second(text=["a rather long text that is cut off somewhere"] * 30)
    assert first.fingerprint == second.fingerprint
    assert len({processor.fingerprint for processor in (first, lower, shorter)}) == 3
    second.tokenizer.add_tokens(["zebra"])
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(("model_type", "pad", "longest"), [("roberta", 1, 32), ("roberta", 5, 28), ("bert", 1, 34)])
def test_texts_have_only_the_positions_that_the_backbone_uses(model_type, pad, longest, tokenizer):
    """RoBERTa counts positions from behind the padding id."""
    text = {**SIZE, "model_type": model_type, "vocab_size": 99, "max_position_embeddings": 34, "pad_token_id": pad}
    config = TransRecConfig(text_config=text)
    check_processor(TransRecProcessor(tokenizer, max_text_length=longest), config)
    with pytest.raises(ValueError, match=f"{longest + 1} is more than the {longest} positions"):
        check_processor(TransRecProcessor(tokenizer, max_text_length=longest + 1), config)
