"""Pictures: what the processor makes of them, and sizes and crops of image processors."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ViltImageProcessorPil,
    ViTImageProcessorPil,
)

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
)
from modeling_transrec.data.image_processors import load_image_processor
from modeling_transrec.models.backbones import image_normalization
from modeling_transrec.models.content_encoders import PixelNormalization
from modeling_transrec.models.processing_transrec import check_processor

from ..tiny import IMAGE_SIZE, TINY_VIT, tiny_image


SQUARE = {"height": 24, "width": 24}


class TestImages:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
            {"do_normalize": False},
            {"do_rescale": False, "do_normalize": False},
            {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        ],
    )
    def test_the_model_normalises_bytes_as_the_image_processor_would(self, options):
        image_processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, **options)
        pictures = [tiny_image(seed) for seed in range(3)]
        found = TransRecProcessor(image_processor=image_processor)(images=[pictures[0], None, *pictures[1:]])
        assert found["pixel_values"].dtype == torch.uint8 and found["image_index"].tolist() == [0, -1, 1, 2]
        config = TransRecConfig(vision_config=TINY_VIT, **image_normalization(image_processor.to_dict()))
        normalization = PixelNormalization(config)
        expected = image_processor(pictures, return_tensors="pt")["pixel_values"]
        assert torch.allclose(normalization(found["pixel_values"]), expected.float(), atol=1e-4)
        floats = expected.float()
        assert torch.equal(normalization(floats), floats)

    def test_the_normalisation_is_saved_with_the_model(self, processor_of, tmp_path):
        own = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
        model = TransRecForSequentialRecommendation(TransRecConfig(vision_config=TINY_VIT, hidden_size=16, **own))
        inputs = processor_of["image"](images=[tiny_image(1), None])
        expected = model.eval().get_item_features(**inputs)
        model.save_pretrained(tmp_path)
        again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
        assert torch.equal(again.get_item_features(**inputs), expected)
        assert again.item_encoder.image.normalization.mean.flatten().tolist() == pytest.approx(own["image_mean"])
        with pytest.raises(ValueError, match=r"make the model with TransRecConfig\(…, image_mean=\[0.5"):
            check_processor(processor_of["image"], again.config)

    def test_the_normalisation_beside_a_pretrained_backbone_is_taken(self, tmp_path):
        AutoModel.from_config(AutoConfig.for_model(**TINY_VIT)).save_pretrained(tmp_path)
        ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1]).save_pretrained(tmp_path)
        model = TransRecModel.from_encoder_pretrained(vision_model_name_or_path=str(tmp_path), hidden_size=16)
        assert model.config.image_mean == [0.1, 0.2, 0.3] and model.config.image_std == [0.3, 0.2, 0.1]

    def test_they_travel_as_bytes_and_are_normalised_in_the_model(
        self, make_model, items, train_split, processor_of, tmp_path
    ):
        model, processor = make_model("image"), processor_of["image"]
        args = TransRecTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
        trainer = TransRecTrainer(model, args, items, train_split, processing_class=processor)
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["pixel_values"].dtype == torch.uint8
        seen = []
        model.item_encoder.image.backbone.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
        )
        trainer.compute_loss(model, batch)
        assert torch.allclose(seen[0], (batch["pixel_values"] / 255 - 0.5) / 0.5, atol=1e-6)

    def test_grey_palette_and_transparent_pictures_are_read_as_rgb(self, processor_of):
        pictures = [tiny_image(0).convert(mode) for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16")]
        assert processor_of["image"](images=pictures)["pixel_values"].shape == (6, 3, IMAGE_SIZE, IMAGE_SIZE)

    def test_a_broken_picture_counts_as_missing_and_is_named(self, processor_of, caplog):
        inputs = processor_of["image"](images=[b"not a picture", tiny_image(1)])
        assert inputs["image_index"].tolist() == [-1, 0]
        assert "cannot be read and counts as missing" in caplog.text

    def test_save_and_load(self, processor_of, items, tmp_path):
        for kind, processor in processor_of.items():
            processor.save_pretrained(tmp_path / kind)
            again = TransRecProcessor.from_pretrained(tmp_path / kind)
            assert again.modality == processor.modality
            columns = {name: items[name][:5] for name in processor.item_columns}
            expected, found = (one.pad(one.prepare(columns)) for one in (processor, again))
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    @pytest.mark.parametrize(
        "model_type, own, same_as",
        [
            (
                "vit",
                ViTImageProcessorPil(image_mean=[0.1] * 3),
                ViTImageProcessorPil(size=SQUARE, image_mean=[0.1] * 3),
            ),
            ("convnext", ConvNextImageProcessorPil(), ConvNextImageProcessorPil(size={"shortest_edge": 24})),
            ("resnet", BitImageProcessorPil(), BitImageProcessorPil(size=SQUARE, crop_size=SQUARE)),
            ("vilt", ViltImageProcessorPil(), ViTImageProcessorPil(size=SQUARE, resample=3)),
        ],
    )
    def test_another_image_size(self, model_type, own, same_as, tmp_path):
        AutoConfig.for_model(model_type).save_pretrained(tmp_path)
        own.save_pretrained(tmp_path)
        processor = load_image_processor(tmp_path, image_size=24)
        assert TransRecProcessor(image_processor=processor).shape_of("image") == (3, 24, 24)
        pictures = [tiny_image(0), tiny_image(1).rotate(90, expand=True)]
        found, expected = (one(pictures, return_tensors="pt")["pixel_values"] for one in (processor, same_as))
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("crop_mode", ["center", "squash"])
    @pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
    def test_pictures_for_timms_models_are_those_of_timm(self, crop_mode, crop_pct, tmp_path):
        import timm

        fields = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": "bicubic"}
        fields |= {"input_size": (3, 64, 64), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
        config = AutoConfig.for_model("timm_wrapper", architecture="resnet18", pretrained_cfg=fields)
        config.save_pretrained(tmp_path)
        processor = load_image_processor(tmp_path)
        data_config = timm.data.resolve_data_config(pretrained_cfg=fields)
        transform = timm.data.create_transform(**data_config, is_training=False)
        resize, crop, *rest = transform.transforms
        assert type(crop).__name__ == "CenterCrop"
        for size in ((150, 150), (211, 150), (97, 300)):
            picture = tiny_image(3).resize(size)
            found = processor([picture], return_tensors="pt")["pixel_values"][0]
            resized = resize(picture)
            left, top = (resized.width - 64) // 2, (resized.height - 64) // 2  # torchvision's rounds half to even
            expected = resized.crop((left, top, left + 64, top + 64))
            for step in rest:
                expected = step(expected)
            if (resized.width - 64) % 4 != 3 and (resized.height - 64) % 4 != 3:
                assert torch.equal(expected, transform(picture))
            levels = (found - expected).abs() * torch.tensor(fields["std"])[:, None, None] * 255
            assert levels.max() < 1.01, (size, levels.max())

    def test_pictures_of_different_sizes_are_an_error(self):
        uneven = ViTImageProcessorPil(size={"shortest_edge": 16})
        with pytest.raises(ValueError, match="images of different sizes"):
            TransRecProcessor(image_processor=uneven).shape_of("image")
