"""Every test of transformers' suites that we keep from running on our classes, and why. There is no other place for a skip.

The suites pass over tests by themselves too: without an accelerator, without an optional library, or where a test is about what a
model does not have (experts, axial positions). Run on tiny LLaVA, Voxtral, GPT-2 and Llama of 5.23.0, ModelTesterMixin passes over the
same tests that it passes over for us. As to the rows below, it passes over Llama, LLaVA and Voxtral where the row is about experts, and
over GPT-2 where it is about rotary positions. The tests of the features of images pass for Voxtral, and those of sounds for LLaVA,
without a check: they leave out classes that have no such method.

PipelineTesterMixin cannot run here. The tests themselves are classes of tests/pipelines/test_pipelines_*.py, which it imports by name
(tests/test_pipeline_mixin.py of 5.24.0, lines 54-99 and 444-450) and which the source distribution does not have; it reads the library's
source tree (line 146) and the list of the library's own tiny models (lines 138-143) when it is imported. tests/test_pipeline.py tests pipelines in its place.
"""

import re
from typing import NamedTuple

import transformers
from packaging.version import Version


class Skip(NamedTuple):
    """`tests`: names, with or without the number that `parameterized` appends; `testers`: of which models; `reason`; `link`: where
    transformers shows that it is the library or the architecture that makes the test impossible; `before`: the first release
    whose suite lets it pass."""

    tests: tuple[str, ...]
    testers: tuple[str, ...]
    reason: str
    link: str
    before: str | None = None


SOURCE = "https://github.com/huggingface/transformers/blob"
IMAGE_FEATURES = (
    "test_get_image_features_output",
    "test_get_image_features_pooler_output",
    "test_get_image_features_hidden_states",
    "test_get_image_features_attentions",
)
VIDEO_FEATURES = tuple(name.replace("image", "video") for name in IMAGE_FEATURES)
AUDIO_FEATURES = (
    "test_get_audio_features_output",
    "test_get_audio_features_hidden_states",
    "test_get_audio_features_attentions",
)

SKIPS = [
    Skip(
        (*IMAGE_FEATURES, *VIDEO_FEATURES),
        ("AudioTester",),
        "The suite asks the class whether it sees; here the config decides, and this model does not.",
        f"{SOURCE}/v5.24.0/tests/test_modeling_common.py#L5601",
    ),
    Skip(
        AUDIO_FEATURES,
        ("ImageTester",),
        "The suite asks the class whether it hears; here the config decides, and this model does not.",
        f"{SOURCE}/v5.24.0/tests/test_modeling_common.py#L5840",
    ),
    Skip(
        (
            "test_model_rope_scaling_from_config",
            "test_model_rope_scaling_frequencies",
            "test_model_rope_with_partial_rotation",
        ),
        ("FirstTransformerTester",),
        "The suite asks whether the config has the field rope_parameters; with learned positions it has it, and it is None.",
        f"{SOURCE}/v5.24.0/tests/test_modeling_common.py#L6979",
    ),
    Skip(
        ("test_eager_matches_batched_and_grouped_inference", "test_output_router_logits_from_config"),
        (
            "TextTester",
            "FirstTransformerTester",
            "SlidingTester",
            "ImageTester",
            "AudioTester",
            "ImageAudioTester",
            "EncoderFreeTester",
            "CrossAttentionTester",
        ),
        "The suite asks the class whether it has experts; here the config decides. MixtureTester has them, and passes both.",
        f"{SOURCE}/v5.24.0/tests/test_modeling_common.py#L6263",
    ),
    Skip(
        ("test_apply_chat_template_decoded_video", "test_apply_chat_template_video"),
        ("Processor",),
        "The suite of this release wants one row for each video; from 5.19 on it counts num_frames_per_video, and the tests pass.",
        f"{SOURCE}/v5.17.0/tests/test_processing_common.py#L1288",
        before="5.19",
    ),
]


def find(test: str, tester: str) -> Skip | None:
    """The row that keeps `test` from running on `tester`."""
    for skip in SKIPS:
        if skip.before is not None and Version(transformers.__version__) >= Version(skip.before):
            continue
        if tester in skip.testers and {test, re.sub(r"_\d+(_\w+)?$", "", test)} & set(skip.tests):
            return skip
    return None
