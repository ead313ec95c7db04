"""transformers' common tests of processors, for one of texts, of images and of both."""

import unittest

from transformers import ViTImageProcessorPil
from transformers_tests.test_processing_common import ProcessorTesterMixin

from modeling_transrec import TransRecProcessor, train_tokenizer


class CommonTests(ProcessorTesterMixin):
    """The tests of a processor with some parts."""

    parts: tuple[str, ...]

    @classmethod
    def setUpClass(cls):
        parts = list(cls.parts)  # the tests ask the class what an instance has
        cls.processor_class = type(
            "TransRecProcessor", (TransRecProcessor,), {"__module__": TransRecProcessor.__module__}
        )
        cls.processor_class.get_attributes = classmethod(lambda _: list(parts))
        super().setUpClass()

    @classmethod
    def _setup_tokenizer(cls):
        return train_tokenizer(["lower newer upper older longer string", "red shoe"] * 3, vocab_size=80)

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessorPil(size={"height": 16, "width": 16})


class TestTexts(CommonTests, unittest.TestCase):
    parts = ("tokenizer",)


class TestImages(CommonTests, unittest.TestCase):
    parts = ("image_processor",)


class TestBoth(CommonTests, unittest.TestCase):
    parts = ("tokenizer", "image_processor")
