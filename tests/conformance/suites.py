"""transformers' suites, put together for our testers. Importing this needs `transformers_tests` on the path (conftest.py)."""

import shutil
import tempfile
from unittest import mock

from transformers import CONFIG_MAPPING, MODEL_MAPPING
from transformers.models.auto import modeling_auto
from transformers_tests import test_fsdp_mixin, test_tensor_parallel_mixin
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_fsdp_mixin import FSDPTesterMixin
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_tensor_parallel_mixin import TensorParallelTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from . import skips
from .testers import Source, TextTester


try:
    from transformers_tests.test_expert_parallel_mixin import (
        EP_DISTRIBUTED_TEST_MODEL_TYPES,
        ExpertParallelTesterMixin,
    )
except ImportError:  # transformers 5.17 has these tests among those of tensor parallelism
    EP_DISTRIBUTED_TEST_MODEL_TYPES = set()

    class ExpertParallelTesterMixin:
        pass


# The suites look class names up in these tables, which AutoModel.register does not fill; a class that is not found there is
# passed over in silence.
modeling_auto.MODEL_MAPPING_NAMES.update(mmgpt="MMGPTModel", mmgpt_text="MMGPTTextModel")
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.update(mmgpt_text="MMGPTForCausalLM")
modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.update(mmgpt="MMGPTForConditionalGeneration")

# The library runs its multi-process tests on a choice of its models only.
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES |= {"mmgpt", "mmgpt_text"}
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES |= {"mmgpt", "mmgpt_text"}
EP_DISTRIBUTED_TEST_MODEL_TYPES |= {"mmgpt_text"}


class ModelSuite(ModelTesterMixin, GenerationTesterMixin):
    """ModelTesterMixin and ConfigTester on the classes of a tester, taken from the installed package."""

    model_tester_class = TextTester
    test_can_init_all_missing_weights_before_2023 = True  # the suite finds no year in our files
    config_arguments: dict = {}

    @classmethod
    def source(cls) -> Source:
        return Source.package(cls.model_tester_class.text_only)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.classes = cls.source()
        cls.all_model_classes = (cls.classes.base, cls.classes.head)

    def setUp(self):
        super().setUp()
        skip = skips.find(self._testMethodName, self.model_tester_class.__name__)
        if skip is not None:
            self.skipTest(f"{skip.reason} ({skip.link})")
        self.model_tester = self.model_tester_class(self.classes)

    def test_config(self):
        ConfigTester(self, config_class=self.model_tester.config_class, **self.config_arguments).run_common_tests()


class TextSuite(ModelSuite, TrainingTesterMixin):
    config_arguments = {"hidden_size": 32}


class ShardedTextSuite(TextSuite, TensorParallelTesterMixin, FSDPTesterMixin):
    """FSDPTesterMixin takes decoders only, and from the Auto classes, without trust_remote_code."""

    def _skip_if_insufficient_devices(self, *world_size):
        """The suite wants a core for each rank; ranks that share one are slow, not wrong."""


class ShardedMixtureSuite(ShardedTextSuite, ExpertParallelTesterMixin):
    pass


class MultimodalSuite(ModelSuite):
    _is_composite = True
    config_arguments = {"has_text_modality": False, "common_properties": ["image_token_id", "audio_token_id"]}


class EncoderFreeSuite(MultimodalSuite):
    """One matrix stands in the place of a tower: its output is the only hidden state, and there are no attentions."""

    def _image_features_get_expected_num_attentions(self, model_tester=None):
        return 0

    _audio_features_get_expected_num_attentions = _image_features_get_expected_num_attentions
    _video_features_get_expected_num_attentions = _image_features_get_expected_num_attentions


class ShardedMultimodalSuite(MultimodalSuite, TensorParallelTesterMixin):
    pass


class FromFolder:
    """Takes the classes of a suite from a saved folder with trust_remote_code: what is shipped is what is tested."""

    @classmethod
    def source(cls) -> Source:
        # The shipped code registers its configs in the place of the package's: take that back at the end.
        cls.enterClassContext(mock.patch.dict(CONFIG_MAPPING._extra_content))
        text_only = cls.model_tester_class.text_only
        tester = cls.model_tester_class(Source.package(text_only))
        folder = tempfile.mkdtemp(prefix="mmgpt_shipped_")
        cls.addClassCleanup(shutil.rmtree, folder)
        tester.head_class(tester.get_config()).save_pretrained(folder)
        shipped = Source.folder(folder, text_only)
        # AutoModel.register does this for the package's; one suite looks the config's class up.
        cls.enterClassContext(mock.patch.dict(MODEL_MAPPING._extra_content, {shipped.head.config_class: shipped.base}))
        return shipped
