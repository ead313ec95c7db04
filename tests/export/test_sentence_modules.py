"""The item tower as a model of sentence-transformers, and such a model as a backbone that comes out as it went in."""

import copy

import numpy as np
import pytest
import torch

from modeling_transrec import Recommender, TransRecModel, TransRecProcessor
from modeling_transrec.export.sentence_modules import write_sentence_transformer
from modeling_transrec.models.sentence_folders import read_item_prefix, read_max_length

from ..checks import perturb


sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason='needs pip install ".[sentence-transformers]"'
)
TEXTS = ["Red rope", "a small BLUE lamp, and a tent with more words than are read", "new shoe 红"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "fields, options",
    [
        ({"text_pooling": "cls"}, {"item_prefix": "passage: ", "max_text_length": 14}),
        ({"text_pooling": "last", "item_projection": "linear"}, {"do_lower_case": False}),
        ({"text_pooling": "mean", "item_projection": "whitened", "hidden_size": 8}, {}),
        ({"text_pooling": "first_last"}, {"max_text_length": 6}),
    ],
)
def test_it_encodes_texts_to_item_embeddings(fields, options, make_model, tokenizer, items, tmp_path):
    processor = TransRecProcessor(tokenizer, **options)
    model = perturb(make_model("text", **fields)).model.eval()
    if fields.get("item_projection") == "whitened":
        Recommender(model, processor).index(items)  # by whose statistics features are whitened
    processor.save_pretrained(tmp_path / "processor")  # of which its tokenizer then has the name
    (tmp_path / "out").mkdir()
    write_sentence_transformer(model, processor, tmp_path / "out")
    found = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    with torch.no_grad():
        expected = model.get_item_features(**processor(text=TEXTS))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_backbone_of_sentence_transformers_comes_out_as_it_went_in(pooling, make_model, text_processor, tmp_path):
    modules = sentence_transformers.sentence_transformer.modules
    backbone = perturb(make_model("text")).item_encoder.text.backbone
    tokenizer = copy.deepcopy(text_processor.tokenizer)
    tokenizer._set_processor_class(None)  # other tests save processors with it
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "backbone")
    transformer = modules.Transformer(str(tmp_path / "backbone"), max_seq_length=14, do_lower_case=True)
    whole = sentence_transformers.SentenceTransformer(
        modules=[transformer, modules.Pooling(20, pooling)],
        prompts={"document": "passage: "},
        default_prompt_name="document",
        device="cpu",
    )
    whole.save_pretrained(str(tmp_path / "in"), create_model_card=False)
    recommender = Recommender.from_backbone(str(tmp_path / "in"))
    model = TransRecModel.from_encoder_pretrained(str(tmp_path / "in")).eval()
    (tmp_path / "out").mkdir()
    write_sentence_transformer(model, recommender.processor, tmp_path / "out")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    kept = sentence_transformers.SentenceTransformer(
        modules=[again[0], again[1]], prompts=again.prompts, default_prompt_name="document", device="cpu"
    )
    np.testing.assert_allclose(kept.encode(TEXTS), whole.encode(TEXTS), atol=1e-5)
    assert recommender.processor.max_text_length == 14
    assert (again.max_seq_length, again[1].pooling_mode) == (whole.max_seq_length, whole[1].pooling_mode)
    for read in (read_item_prefix, read_max_length):
        assert read(tmp_path / "out") == read(tmp_path / "in")


def test_adapters_that_cannot_be_merged_are_refused(make_model, text_processor, tmp_path):
    model = make_model("text")
    model.add_peft_adapter({"peft_type": "BOTTLENECK"})
    with pytest.raises(ValueError, match="BOTTLENECK adapters in a backbone are no modules of sentence-transformers"):
        Recommender(model, text_processor).export(tmp_path / "out", format="sentence-transformers")
    assert not list((tmp_path / "out").rglob("*.safetensors"))
