"""Audio: how sounds are read, and any audio backbone behind them."""

import io
import logging
import os
import struct
import sys
import tracemalloc
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from modeling_transrec import (
    Recommender,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
)
from modeling_transrec.data.precomputed_items import PrecomputedItems
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.media import open_image, read_audio
from modeling_transrec.training.precomputed import precompute

from ..checks import perturb
from ..tiny import SAMPLING_RATE, TINY_TOWER, TINY_WAV2VEC2, sound_file, tiny_sound


SPECTROGRAM = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16}
WHISPER = {
    "model_type": "whisper",
    "d_model": 12,
    "num_mel_bins": 16,
    "max_source_positions": 50,
    "vocab_size": 30,
    **{f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")},
    **{f"{part}_ffn_dim": 20 for part in ("encoder", "decoder")},
    **{f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "decoder_start")},
}
MASKED = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, return_attention_mask=True)
PLAIN = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE)
BACKBONES = {
    "wav2vec2": (TINY_WAV2VEC2, MASKED, {"input_values": (250,), "audio_mask": (250,)}),
    "hubert": (
        {**TINY_WAV2VEC2, "model_type": "hubert", "feat_extract_norm": "group"},
        PLAIN,
        {"input_values": (250,)},
    ),
    "wavlm": ({**TINY_WAV2VEC2, "model_type": "wavlm"}, MASKED, {"input_values": (250,), "audio_mask": (250,)}),
    "ast": (
        {"model_type": "audio-spectrogram-transformer", **TINY_TOWER, **SPECTROGRAM},
        ASTFeatureExtractor(num_mel_bins=16, max_length=32),
        {"input_values": (32, 16)},
    ),
    "whisper": (WHISPER, WhisperFeatureExtractor(feature_size=16, chunk_length=1), {"input_features": (16, 100)}),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_any_audio_backbone(name, tmp_path):
    audio_config, extractor, shapes = BACKBONES[name]
    processor = TransRecProcessor(feature_extractor=extractor, max_audio_seconds=0.25)
    rate = extractor.sampling_rate
    sounds = [tiny_sound(0, rate), None, tiny_sound(1, rate)[: rate // 9], tiny_sound(2, rate)]
    inputs = processor(audio=sounds)
    assert {key: tuple(one.shape[1:]) for key, one in inputs.items() if key != "audio_index"} == shapes
    assert inputs["audio_index"].tolist() == [0, -1, 1, 2]
    torch.manual_seed(0)
    config = TransRecConfig(audio_config=audio_config, hidden_size=16)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    embeddings = model.get_item_features(**inputs)
    assert torch.equal(embeddings[1], model.item_encoder.audio.projection.missing)
    for place in (0, 2, 3):  # alone as among others
        alone = model.get_item_features(**processor(audio=[sounds[place]]))[0]
        assert torch.allclose(alone, embeddings[place], atol=1e-5)
    none = model.get_item_features(**processor(audio=[None, None]))
    assert torch.equal(none, embeddings[[1, 1]])

    model.train().get_item_features(**inputs).square().sum().backward()
    unused = [key for key, one in model.item_encoder.named_parameters() if one.requires_grad and one.grad is None]
    assert not unused, unused
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    read_again = TransRecProcessor.from_pretrained(tmp_path)
    assert (read_again.modality, read_again.max_audio_seconds) == ("audio", 0.25)
    assert torch.equal(again.eval().get_item_features(**read_again(audio=sounds)), embeddings)


def test_padding_is_masked(make_model, feature_extractor):
    """The frames of silence behind a short sound have no part in its embedding."""
    model, short = perturb(make_model("audio")), tiny_sound(3)[:120]
    exact, padded = (
        TransRecProcessor(feature_extractor=feature_extractor, max_audio_seconds=one)(audio=[short])
        for one in (0.12, 0.25)
    )
    assert exact["audio_mask"].all() and not padded["audio_mask"].all()
    assert torch.allclose(model.get_item_features(**exact), model.get_item_features(**padded), atol=1e-5)


FILLED = [name for name, one in FUSIONS.items() if not (one.reads_ids or one.reads_presence)]


@pytest.mark.parametrize("fusion", FILLED)
def test_a_missing_sound_in_every_fusion(fusion, make_model, processor_of, items):
    model, processor = perturb(make_model("text+image+audio", fusion=fusion)), processor_of["text+image+audio"]
    columns = {name: items[name][:8] for name in processor.item_columns}
    stored = processor.prepare(columns)
    stored["audio_values"][3] = None
    together = model.get_item_features(**processor.pad(stored))
    assert together.isfinite().all()
    with torch.no_grad():
        model.item_encoder.audio.projection.missing.add_(1.0)
    changed = (model.get_item_features(**processor.pad(stored)) - together).abs().amax(1) > 1e-4
    assert changed.tolist() == [value is None for value in stored["audio_values"]]


def test_a_pretrained_backbone(tmp_path):
    model = TransRecModel(TransRecConfig(audio_config=TINY_WAV2VEC2, hidden_size=16))
    backbone = model.item_encoder.audio.backbone
    backbone.save_pretrained(tmp_path)
    made = TransRecModel.from_encoder_pretrained(audio_model_name_or_path=str(tmp_path), hidden_size=16)
    loaded = made.item_encoder.audio.backbone.state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in backbone.state_dict().items())
    made.freeze_backbone(train_last_n_layers=1)
    trained = [name for name, one in made.item_encoder.audio.backbone.named_parameters() if one.requires_grad]
    assert trained and all(name.startswith("encoder.layers.") for name in trained)
    with pytest.raises(ValueError, match="is no audio backbone: it reads input_ids"):
        TransRecModel(TransRecConfig(audio_config={"model_type": "bert", **TINY_TOWER, "vocab_size": 9}))


@pytest.mark.parametrize("freezes", ["all", "some"])
def test_frozen(freezes, make_model, make_collator, processor_of, histories, tmp_path, caplog):
    model = perturb(make_model("audio", audio_config={**TINY_WAV2VEC2, "num_hidden_layers": 2}))
    model.freeze_backbone(None if freezes == "all" else 1)
    collator = make_collator("audio", model)
    users = [histories[user] for user in range(5)]
    expected = model(**collator(users)).loss
    collator.items = precompute(model, collator.items, processor_of["audio"], 8, tmp_path)
    assert isinstance(collator.items, PrecomputedItems) == (freezes == "all")
    assert ("computed in every step" in caplog.text) == (freezes == "some")
    batch = collator(users)
    assert ("audio_features" in batch) == (freezes == "all")
    assert torch.allclose(model(**batch).loss, expected, atol=1e-6)


class TestReading:
    def read(self, value, rate=SAMPLING_RATE, seconds=10.0):
        return read_audio(value, rate, seconds)

    @pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG VORBIS", "OGG OPUS", "WAVEX FLOAT"])
    def test_files(self, format, tmp_path):
        rate, (container, *subtype) = 16000, format.split()
        tone = np.sin(np.arange(rate) * 2 * np.pi * 440 / rate).astype(np.float32) / 2
        path = tmp_path / "a.mp3"  # what it is called says nothing
        soundfile.write(path, tone, rate, *subtype, format=container)
        for value in (
            str(path),
            path.read_bytes(),
            {"bytes": path.read_bytes(), "path": None},
            {"bytes": None, "path": str(path)},
        ):
            found = self.read(value, rate)
            assert found.dtype == np.float32 and abs(len(found) - rate) < 2500
            assert np.abs(np.fft.rfft(found)).argmax() * rate / len(found) == pytest.approx(440, abs=2)

    def test_channels_are_mixed_and_sounds_cut_and_resampled(self):
        left = np.sin(np.arange(4000) * 2 * np.pi * 50 / 4000).astype(np.float32) / 2
        found = self.read(sound_file(np.stack([left, np.zeros_like(left)], axis=1), 4000), rate=1000, seconds=0.5)
        expected = np.sin(np.arange(500) * 2 * np.pi * 50 / 1000) / 4
        assert found.shape == (500,) and np.abs(found - expected)[20:-20].max() < 0.01
        array = self.read({"array": left, "sampling_rate": 4000}, rate=1000, seconds=0.5)
        assert np.abs(array - 2 * found)[20:-20].max() < 0.01

    def test_what_cannot_be_read_counts_as_missing_and_is_named(self, caplog):
        assert self.read(b"no sound") is None and self.read("nowhere.wav") is None
        assert self.read(np.zeros(0)) is None and self.read(None) is None
        assert "nowhere.wav cannot be read and counts as missing" in caplog.text and "has no samples" in caplog.text

    @pytest.mark.parametrize(
        "written", ["AIFF", "AU", "CAF", "W64", "RF64", "VOC", "NIST", "WAV GSM610", "WAV IMA_ADPCM"]
    )
    def test_decoders_of_other_formats_are_never_run(self, written, tmp_path, caplog):
        path, (container, *subtype) = tmp_path / "a.wav", written.split()
        soundfile.write(path, np.zeros(4000, np.float32), 8000, *subtype, format=container)
        behind_a_tag = b"ID3\x04\0\0\0\0\0\x05tag: " + path.read_bytes()
        assert self.read(str(path)) is None and self.read({"bytes": behind_a_tag, "path": "b.mp3"}) is None
        assert "a.wav cannot be read and counts as missing" in caplog.text
        assert "b.mp3 cannot be read and counts as missing" in caplog.text

    def test_a_pipe_is_no_sound_and_no_image(self, tmp_path, caplog):
        os.mkfifo(tmp_path / "a.wav")  # opening it would wait for ever
        assert self.read(str(tmp_path / "a.wav")) is None and open_image(str(tmp_path / "a.wav")) is None
        assert caplog.text.count("a.wav cannot be read and counts as missing: it is no file") == 2

    def test_a_tag_before_the_sound(self):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(8000, np.float32), 8000, format="MP3")
        assert len(self.read(b"ID3\x04\0\0\0\0\0\x05tag: " + file.getvalue(), 8000)) > 5000

    def test_sounds_that_would_take_all_memory_count_as_missing(self, caplog):
        """A header that asks for a thousand channels or a rate of a gigahertz, with a few samples behind it."""
        for rate, channels in ((48_000, 1000), (1_000_000_000, 1), (1, 1)):
            whole = sound_file(np.zeros((3, 1)), rate)
            header = (
                whole[:22] + struct.pack("<H", channels) + whole[24:32] + struct.pack("<H", 2 * channels) + whole[34:]
            )
            tracemalloc.start()
            assert self.read(header + bytes(2 * 1000 * 100) * (channels > 1), seconds=3000.0) is None
            assert tracemalloc.get_traced_memory()[1] < 2**20
            tracemalloc.stop()
        assert caplog.text.count("counts as missing") == 3 and "its sampling rate is 1," in caplog.text

    def test_a_long_sound_is_decoded_up_to_its_cut(self, monkeypatch):
        asked, read = [], soundfile.SoundFile.read
        monkeypatch.setattr(
            soundfile.SoundFile,
            "read",
            lambda self, frames, **kwargs: asked.append(frames) or read(self, frames, **kwargs),
        )
        assert len(self.read(sound_file(np.zeros(60_000), 1000), seconds=2.0)) == 2000 and asked == [2001]

    @pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError, AttributeError])
    def test_whatever_a_decoder_raises_counts_as_missing_and_is_named(self, error, monkeypatch, caplog):
        def fail(*args, **kwargs):
            raise error("of a decoder")

        monkeypatch.setattr(soundfile.SoundFile, "read", fail)
        assert self.read({"bytes": sound_file(tiny_sound(0)), "path": "a.wav"}) is None
        assert "a.wav cannot be read and counts as missing" in caplog.text and "of a decoder" in caplog.text
        monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kwargs: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            self.read(sound_file(tiny_sound(0)))

    def test_a_decoder_of_datasets_is_not_asked(self):
        """Which would run FFmpeg on a file of any format."""
        decoder = SimpleNamespace(_hf_encoded={"bytes": sound_file(tiny_sound(0)), "path": None})
        assert np.array_equal(self.read(decoder), self.read(decoder._hf_encoded))

    def test_without_the_libraries(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(ImportError, match=r"pip install modeling_transrec\[audio\]"):
            self.read(sound_file(tiny_sound(0)))
        assert len(self.read(tiny_sound(0))) > 0  # samples need none

    def test_lengths_that_make_no_sense(self, feature_extractor):
        with pytest.raises(ValueError, match="max_audio_seconds must be above 0"):
            TransRecProcessor(feature_extractor=feature_extractor, max_audio_seconds=0)


def test_a_decoding_audio_column_is_prepared_without_its_decoder(items, processor_of):
    decoding = items.cast_column("audio", datasets.Audio())
    expected, found = (prepare_items(one, processor_of["audio"])["audio_values"] for one in (items, decoding))
    assert found == expected and sum(one is None for one in found) == 7


def test_no_sound_at_all(items, processor_of, caplog):
    silent = items.remove_columns("audio").add_column("audio", [None] * len(items))
    with pytest.raises(ValueError, match="no item has a sound; leave audio out"):
        prepare_items(silent, processor_of["audio"])
    with caplog.at_level(logging.WARNING):
        prepare_items(items.select(range(8)), processor_of["audio"])
    assert "2 of 8 items have no audio" in caplog.text


def test_recommending(make_model, items, processor_of):
    recommender = Recommender(make_model("text+image+audio"), processor_of["text+image+audio"]).index(items)
    assert len(recommender.recommend(items["item_id"][:3], k=4)) == 4


def test_videos_are_refused_with_a_sentence(processor_of):
    with pytest.raises(ValueError, match="videos are not read: give an item's cover as its image"):
        processor_of["audio"](audio=[tiny_sound(0)], videos=["a.mp4"])
    with pytest.raises(ValueError, match="has no option 'video_config'; videos are not read"):
        TransRecConfig(video_config={"model_type": "vivit"})
