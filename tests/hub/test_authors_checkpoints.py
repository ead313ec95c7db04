"""Checkpoints of the authors' code, written here by small modules with the names of theirs, become ours."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, BertConfig, SwinConfig, TimmWrapperConfig

from modeling_transrec import TransRecModel, TransRecProcessor
from modeling_transrec.cli.convert import main
from modeling_transrec.hub.authors_checkpoints import convert_checkpoint, read_weights

from ..tiny import VISION_CONFIGS, WORDS


WIDTH, LENGTH, ITEMS = 8, 6, 9
SASREC = {"user_encoder_type": "sasrec", "num_attention_heads": 2}
IDS = [f"item {number}" for number in range(ITEMS)]


def block(module: nn.TransformerEncoderLayer) -> dict[str, torch.Tensor]:
    """The weights of torch's layer, without biases of attention, under the authors' names."""
    attention = module.self_attn
    weights = dict(zip("QKV", attention.in_proj_weight.chunk(3), strict=True))
    found = {f"multi_head_attention.w_{name}.weight": weight for name, weight in weights.items()}
    found["multi_head_attention.fc.weight"] = attention.out_proj.weight
    parts = {"multi_head_attention.layer_norm": module.norm1, "feed_forward.layer_norm": module.norm2}
    parts |= {"feed_forward.w_1": module.linear1, "feed_forward.w_2": module.linear2}
    return found | {f"{name}.{key}": one for name, part in parts.items() for key, one in part.named_parameters()}


class Transformer(nn.Module):
    """SASRec and BERT4Rec, by torch's own layers."""

    def __init__(self, bidirectional: bool = False):
        super().__init__()
        self.bidirectional = bidirectional
        self.position_embedding = nn.Embedding(LENGTH + bidirectional, WIDTH)
        self.layer_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, 0.0, layer_norm_eps=1e-6, batch_first=True) for _ in "ab"
        )
        for layer in self.layers:
            nn.init.zeros_(layer.self_attn.in_proj_bias)
            nn.init.zeros_(layer.self_attn.out_proj.bias)

    def forward(self, vectors, mask):
        hidden = self.layer_norm(vectors + self.position_embedding.weight)
        length = len(self.position_embedding.weight)
        later = torch.zeros(length, length, dtype=torch.bool)
        later = later if self.bidirectional else ~torch.ones_like(later).tril()
        forbidden = later | ~mask[:, None]
        forbidden[:, torch.arange(length), torch.arange(length)] = False  # padding attends to itself: no row is empty
        for layer in self.layers:
            hidden = layer(hidden, src_mask=forbidden.repeat_interleave(2, dim=0))
        return hidden[:, -1]

    def weights(self):
        start = "user_encoder.transformer_encoder."
        found = {f"{start}position_embedding.weight": self.position_embedding.weight}
        found |= {f"{start}layer_norm.{name}": one for name, one in self.layer_norm.named_parameters()}
        for number, layer in enumerate(self.layers):
            found |= {f"{start}transformer_blocks.{number}.{name}": one for name, one in block(layer).items()}
        return found


class NextItNet(nn.Module):
    """Causal convolutions, which read what stands before a history."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=d) for d in (1, 2, 4, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, eps=1e-8) for _ in range(4))

    def forward(self, vectors, mask):
        hidden = vectors
        for first in (0, 2):
            inner = hidden
            for layer, norm in [*zip(self.convolutions, self.norms, strict=True)][first : first + 2]:
                padded = F.pad(inner.transpose(1, 2), (2 * layer.dilation[0], 0))
                inner = norm(layer(padded).transpose(1, 2)).relu()
            hidden = hidden + inner
        return hidden[:, -1]

    def weights(self):
        found = {}
        for number, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            start = f"user_encoder.residual_blocks.{number // 2}."
            found |= {f"{start}conv{number % 2 + 1}.weight": layer.weight.unsqueeze(2)}
            found |= {f"{start}conv{number % 2 + 1}.bias": layer.bias}
            found |= {f"{start}ln{number % 2 + 1}.{name}": one for name, one in norm.named_parameters()}
        return found


class GRU4Rec(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru_layers = nn.GRU(WIDTH, WIDTH, 2, bias=False, batch_first=True)

    def forward(self, vectors, mask):
        return self.gru_layers(vectors)[0][:, -1]

    def weights(self):
        return {f"user_encoder.{name}": one for name, one in self.named_parameters()}


def save(path, weights):
    plain = {name: one.detach().clone() for name, one in weights.items()}
    torch.save({"model_state_dict": plain, "optimizer": {}, "rng_state": torch.get_rng_state()}, path)
    return path


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        (Transformer(), SASREC),
        (Transformer(bidirectional=True), {**SASREC, "user_encoder_type": "bert4rec"}),
        (NextItNet(), {"max_seq_len": LENGTH}),
        (GRU4Rec(), {"max_seq_len": LENGTH}),
    ],
    ids=["sasrec", "bert4rec", "nextitnet", "gru4rec"],
)
def test_models_of_ids_give_the_same_for_full_and_short_histories(encoder, options, tmp_path):
    """Row 0 of the table is of padding, which GRU4Rec and NextItNet read; the last of BERT4Rec's is the mask."""
    is_bert = options.get("user_encoder_type") == "bert4rec"
    table = torch.randn(ITEMS + 1 + is_bert, WIDTH, generator=torch.Generator().manual_seed(0))
    path = save(tmp_path / "epoch-3.pt", {"id_embedding.weight": table, **encoder.weights()})
    converted = convert_checkpoint(path, "ninerec", item_ids=IDS, **options)
    assert converted.processor.item_ids == IDS and converted.difference < 1e-5
    item_index = torch.tensor([[3, 0, 8, 1, 1, 5], [-1, -1, -1, 2, 7, 4], [-1, -1, -1, -1, -1, 6]])
    rows, mask = item_index + 1, item_index >= 0
    if is_bert:
        rows, mask = F.pad(rows, (0, 1), value=ITEMS + 1), F.pad(mask, (0, 1), value=True)
    with torch.no_grad():
        expected = encoder.eval()(table[rows], mask)
        for cut in (0, 2):  # how much padding a batch has does not matter
            kept = item_index[cut and 1 :, cut:]
            found = converted.model.model(item_index=kept, item_ids=torch.arange(ITEMS)).user_embeds
            torch.testing.assert_close(found, expected[cut and 1 :], atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(folder)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcd"]
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    return folder


def backbone_of(config):
    return AutoModel.from_config(config).eval()


def test_texts(tiny_bert, tmp_path):
    torch.manual_seed(0)
    bert, head, encoder = backbone_of(BertConfig.from_pretrained(tiny_bert)), nn.Linear(12, WIDTH), Transformer()
    start = "nlp_encoder.text_encoders.title."
    weights = {f"module.{name}": one for name, one in encoder.weights().items()}  # of several GPUs
    weights |= {f"module.{start}nlp_model.{name}": one for name, one in bert.state_dict().items()}
    weights |= {f"module.{start}fc.{name}": one for name, one in head.state_dict().items()}
    weights[f"module.{start}nlp_model.embeddings.position_ids"] = torch.arange(512)[None]
    path = save(tmp_path / "epoch-3.pt", weights)
    found = convert_checkpoint(path, "ninerec", text_model_name_or_path=tiny_bert, language="en", **SASREC)
    assert {name.rsplit(".", 1)[-1] for name in found.unused} == {"weight", "bias", "position_ids"}  # and the pooler
    found.model.save_pretrained(tmp_path / "ours")
    found.processor.save_pretrained(tmp_path / "ours")
    model = TransRecModel.from_pretrained(tmp_path / "ours")
    processor = TransRecProcessor.from_pretrained(tmp_path / "ours")
    assert (processor.max_text_length, processor.do_lower_case, model.config.loss_type) == (30, True, "bce")
    items = processor(["Red ROPE", None, "new"])
    tokens = {"input_ids": torch.tensor([[2, 5, 12, 3], [2, 3, 0, 0], [2, 11, 3, 0]])}
    with torch.no_grad():
        hidden = bert(**tokens, attention_mask=(tokens["input_ids"] > 0).long()).last_hidden_state[:, 0]
        expected = F.gelu(head(hidden))  # theirs reads an item without a text as an empty one
        torch.testing.assert_close(model.get_item_features(**items), expected, atol=2e-5, rtol=1e-4)


def test_images_and_names_of_earlier_transformers(tmp_path):
    torch.manual_seed(0)
    config = SwinConfig(**{**VISION_CONFIGS["swin"], "image_size": 224, "patch_size": 16, "window_size": 7})
    config.save_pretrained(tmp_path / "swin")
    swin, head = backbone_of(config), nn.Linear(16, WIDTH)
    earlier = {
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.relative_position_bias.relative": "attention.self.relative",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    start = "cv_encoder.image_net."
    weights = GRU4Rec().weights() | {f"{start}classifier.{name}": one for name, one in head.state_dict().items()}
    for name, one in swin.state_dict().items():
        for now, before in earlier.items():
            name = name.replace(now, before)
        weights[f"{start}swin.{name}"] = one
    path = save(tmp_path / "epoch-3.pt", weights)
    found = convert_checkpoint(path, "morec", vision_model_name_or_path=tmp_path / "swin", max_seq_len=LENGTH)
    processor = found.processor.image_processor
    assert (processor.resample, processor.size["height"], set(processor.image_mean)) == (2, 224, {0.5})
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        expected = F.gelu(head(swin(pixels / 127.5 - 1).pooler_output))
        items = {"pixel_values": pixels, "image_index": torch.tensor([1, -1, 0])}
        embeddings = found.model.get_item_features(**items)
        torch.testing.assert_close(embeddings[[2, 0]], expected, atol=2e-5, rtol=1e-4)
        blank = F.gelu(head(swin(torch.zeros(1, 3, 224, 224)).pooler_output))
        torch.testing.assert_close(embeddings[1:2], blank, atol=2e-5, rtol=1e-4)


def test_resnet_of_torchvision_beside_ids(tmp_path):
    config = TimmWrapperConfig(architecture="resnet10t", model_args={"channels": [8, 8, 8, 8]})
    config.save_pretrained(tmp_path / "resnet")
    resnet = backbone_of(config)
    width = resnet(pixel_values=torch.zeros(1, 3, 32, 32)).pooler_output.shape[1]
    head, table = nn.Linear(width, WIDTH), torch.randn(ITEMS + 1, WIDTH)
    weights = Transformer().weights() | {"id_embedding.weight": table}
    weights |= {f"cv_encoder.image_net.fc.{name}": one for name, one in head.state_dict().items()}
    weights |= {
        f"cv_encoder.image_net.{name.removeprefix('timm_model.')}": one for name, one in resnet.state_dict().items()
    }
    path = save(tmp_path / "epoch-3.pt", weights)
    options = {"vision_model_name_or_path": tmp_path / "resnet", "item_ids": IDS, **SASREC}
    model = convert_checkpoint(path, "morec", **options).model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = F.gelu(head(resnet(pixels).pooler_output)) + table[[5, 1]]
        found = model.get_item_features(pixel_values=pixels, item_ids=torch.tensor([4, 0]))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


TABLE = {"id_embedding.weight": torch.randn(ITEMS + 1, WIDTH)}


@pytest.mark.parametrize(
    ("weights", "options", "sentence"),
    [
        ({**TABLE, **GRU4Rec().weights()}, {"max_seq_len": 5}, "not their names; .*--dataset_config_name"),
        ({**TABLE, **GRU4Rec().weights()}, {"max_seq_len": 5, "item_ids": IDS[1:]}, "9 ids, .* has 8 items"),
        ({**TABLE, **GRU4Rec().weights()}, {"item_ids": IDS}, "give --max_seq_len"),
        ({**TABLE, **GRU4Rec().weights()}, {**SASREC, "item_ids": IDS}, "it is a gru4rec, not a sasrec"),
        ({**TABLE, **Transformer().weights()}, {"item_ids": IDS}, "--user_encoder_type"),
        ({**TABLE, **Transformer().weights()}, {"item_ids": IDS, "user_encoder_type": "sasrec"}, "--num_attention_h"),
        (GRU4Rec().weights(), {"max_seq_len": 5}, "no item encoder"),
        ({**TABLE, "surprise": torch.ones(1), **GRU4Rec().weights()}, {"max_seq_len": 5, "item_ids": IDS}, "surprise"),
        (
            {**TABLE, "gru_layers.weight_ih_l0": torch.ones(1), "dense.weight": torch.ones(1)},
            {},
            "a linear layer",
        ),
        ({**TABLE, "mlp_layers.mlp_layers.1.weight": torch.ones(1)}, {}, "YouTube DNN"),
        ({**TABLE, "user_encoder.trm_encoder.layer.0.x": torch.ones(1)}, {}, "biases in its attention and GELU"),
        ({**TABLE, **GRU4Rec().weights(), "id_embedding.weight": torch.full((3, 3), torch.nan)}, {}, "no finite"),
    ],
)
def test_what_has_no_place_is_refused_with_its_reason(weights, options, sentence, tmp_path):
    path = save(tmp_path / "epoch-3.pt", weights)
    with pytest.raises(ValueError, match=f"epoch-3.pt: .*{sentence}"):
        convert_checkpoint(path, "ninerec", **options)


class Attack:
    ran = False

    def __reduce__(self):
        return setattr, (Attack, "ran", True)


def test_no_code_of_a_file_runs(tmp_path):
    torch.save({"model_state_dict": GRU4Rec().state_dict(), "config": Attack()}, tmp_path / "epoch-3.pt")
    with pytest.raises(ValueError, match=r"epoch-3.pt is no checkpoint that can be read without running code"):
        read_weights(tmp_path / "epoch-3.pt")
    assert not Attack.ran
    (tmp_path / "other.pt").write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"other.pt is no checkpoint"):
        read_weights(tmp_path / "other.pt")


def test_options_that_pixelrec_pickles_are_passed_over(tmp_path, monkeypatch):
    module = types.ModuleType("REC.config.configurator")
    exec(
        "class Config:\n    def __init__(self):\n        self.final_config_dict = {'MAX_ITEM_LIST_LENGTH': 10}",
        vars(module),
    )
    for name in ("REC", "REC.config"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "REC.config.configurator", module)
    encoder, table = NextItNet(), torch.randn(ITEMS + 1, WIDTH)
    weights = {name.removeprefix("user_encoder."): one.detach() for name, one in encoder.weights().items()}
    torch.save(
        {"config": module.Config(), "state_dict": {"item_embedding.weight": table, **weights}}, tmp_path / "a.pth"
    )
    monkeypatch.undo()
    found = convert_checkpoint(tmp_path / "a.pth", "pixelrec", item_ids=IDS, max_seq_len=LENGTH)
    assert found.model.config.user_encoder_type == "nextitnet" and found.difference < 1e-5


def test_the_command_names_the_items_by_their_data_set(tmp_path, capsys):
    (tmp_path / "Shop").mkdir()
    histories = "\n".join(f"{user}\t{' '.join(str((user + step) % ITEMS) for step in range(6))}" for user in range(9))
    (tmp_path / "Shop" / "Shop_behaviour.tsv").write_text(histories + "\n", encoding="utf-8")
    titles = "\n".join(f"{item},,a lamp" for item in range(ITEMS))
    (tmp_path / "Shop" / "Shop_item.csv").write_text(titles + "\n", encoding="utf-8")
    table = {"id_embedding.weight": torch.randn(ITEMS + 1, WIDTH)}
    path = save(
        tmp_path / "epoch-3.pt", {f"module.{name}": one for name, one in (table | GRU4Rec().weights()).items()}
    )
    options = ["--source", "ninerec", "--output_dir", str(tmp_path / "ours"), "--max_seq_len", "20"]
    assert main([str(path), *options]) == 1
    assert "--dataset_config_name" in capsys.readouterr().err and not (tmp_path / "ours").exists()
    assert main([str(path), *options, "--dataset_config_name", "Shop", "--data_dir", str(tmp_path)]) == 0
    assert "differs from theirs by at most" in capsys.readouterr().out
    model = TransRecModel.from_pretrained(tmp_path / "ours")
    assert model.config.padding_embedding and model.config.num_items == ITEMS
    assert TransRecProcessor.from_pretrained(tmp_path / "ours").item_ids == [str(item) for item in range(ITEMS)]
    torch.testing.assert_close(model.item_encoder.id_embedding.weight, table["id_embedding.weight"][1:])
