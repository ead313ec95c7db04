"""transformers' common tests of models and configurations, for every kind of item and every user encoder."""

import copy
import unittest

from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation, TransRecModel
from modeling_transrec.models.attention_encoders import TransformerUserEncoder
from modeling_transrec.models.user_encoders import USER_ENCODERS

from .tester import ITEMS, TransRecModelTester


modeling_auto.MODEL_MAPPING_NAMES["transrec"] = "TransRecModel"  # where the tests look up models without a loss


class CommonTests(ModelTesterMixin):
    """The tests of one combination."""

    all_model_classes = (TransRecModel, TransRecForSequentialRecommendation)
    additional_model_inputs = ("input_ids", "attention_mask", "pixel_values", "item_ids", "user_ids", "timestamps")
    _is_composite = skip_test_image_features_output_shape = True
    items, user_encoder = "text", "sasrec"

    def setUp(self):
        self.model_tester = TransRecModelTester(self, self.items, self.user_encoder)
        if "eager_matches_sdpa" in self._testMethodName:  # it cuts every tensor at seven rows
            self.model_tester.num_items = 7
        fields = {"hidden_size": 16, "num_hidden_layers": 2, "user_encoder_type": self.user_encoder}
        if USER_ENCODERS[self.user_encoder].reads_user_ids:
            fields["num_users"] = 9
        self.config_tester = ConfigTester(self, config_class=TransRecConfig, has_text_modality=False, **fields)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is TransRecForSequentialRecommendation:
            inputs |= self.model_tester.labels(self.model_tester.get_config(), inputs)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


for kind in ITEMS:
    for encoder in USER_ENCODERS if kind in ("text", "id") else ("sasrec",):
        name = f"Test_{kind.replace('+', '_')}_{encoder}"
        attends = issubclass(USER_ENCODERS[encoder], TransformerUserEncoder)
        fields = {"items": kind, "user_encoder": encoder, "has_attentions": attends, "__module__": __name__}
        globals()[name] = type(name, (CommonTests, unittest.TestCase), fields)
