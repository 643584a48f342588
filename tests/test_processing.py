"""The processor: placeholders, counts, masks, tokens in advance, and the sentences of its refusals."""

import base64
import json

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GotOcr2ImageProcessor, Siglip2ImageProcessor, SiglipImageProcessor

from modeling_mmgpt import MMGPTProcessor
from modeling_mmgpt.chat_templates_mmgpt import CHAT_TEMPLATE
from modeling_mmgpt.media_sources_mmgpt import Limits, MediaPolicy
from tests.conftest import (
    CONVOLUTIONS,
    FRAMES,
    NAFLEX,
    PATCHES,
    SIGLIP,
    WHISPER,
    make_audio,
    make_config,
    make_image,
    make_model,
    make_processor,
    make_video,
)


SPEECH = "automatic-speech-recognition"


def ask(*content, answer=None) -> list[dict]:
    messages = [{"role": "user", "content": list(content)}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def test_each_placeholder_is_repeated_once_for_each_token(processor):
    inputs = processor(
        text=["<|image|> and <|audio|>", "<|audio|>"],
        images=[make_image(0)],
        audio=[make_audio(0), make_audio(1, 1800)],
        padding=True,
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == 4).sum(-1).tolist() == [16, 0]
    assert (inputs["input_ids"] == 5).sum(-1).tolist() == [10, 3]
    assert inputs["pixel_values"].shape == (1, 3, 16, 16)
    assert inputs["input_features"].shape == (2, 20, 37)
    assert inputs["input_features_mask"].sum(-1).tolist() == [37, 11]


def test_token_types_tell_the_modality(processor):
    inputs = processor(
        text=["<|image|>a<|audio|>"],
        images=[make_image(0)],
        audio=[make_audio(0, 1800)],
        return_mm_token_type_ids=True,
    )
    assert inputs["mm_token_type_ids"] == [[1] * 16 + [0] + [3] * 3]


def test_the_spectrogram_of_an_audio_clip_does_not_depend_on_its_neighbours(processor):
    together = processor(text=["<|audio|><|audio|>"], audio=[make_audio(0), make_audio(1, 1800)], return_tensors="pt")
    alone = processor(text=["<|audio|>"], audio=[make_audio(1, 1800)], return_tensors="pt")
    assert torch.equal(together["input_features"][1, :, :11], alone["input_features"][0])
    assert not together["input_features"][1, :, 11:].any()


def test_a_fixed_window_costs_no_tokens_for_its_padding(tokenizer):
    processor = make_processor(make_config(audio=WHISPER), tokenizer)
    inputs = processor(text=["<|audio|>"], audio=[make_audio(0)], return_tensors="pt")
    assert inputs["input_features"].shape == (1, 20, 100)  # the whole second
    assert (inputs["input_ids"] == 5).sum() == 19  # 38 of its 100 frames, halved by the encoder


def test_audio_longer_than_the_window_is_cut_into_several(tokenizer):
    processor = make_processor(make_config(audio=WHISPER), tokenizer)
    whole = make_audio(0, 40000)["array"]  # 2.5 seconds
    inputs = processor(text=["<|audio|><|audio|>"], audio=[whole, make_audio(1)], return_tensors="pt")
    assert inputs["audio_windows"].tolist() == [3, 1]
    assert inputs["input_features_mask"].sum(-1).tolist() == [100, 100, 50, 38]
    assert (inputs["input_ids"] == 5).sum() == 50 + 50 + 25 + 19
    second = processor(text=["<|audio|>"], audio=[whole[16000:32000]], return_tensors="pt")
    assert torch.equal(inputs["input_features"][1], second["input_features"][0])


def test_media_of_a_conversation_come_from_every_source(processor, tmp_path):
    make_image(0).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", make_audio(0)["array"], 16000, subtype="FLOAT")
    encoded_image = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    encoded_audio = base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()
    images = [
        {"type": "image", "image": make_image(0)},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": f"data:image/png;base64,{encoded_image}"},
        {"type": "image", "base64": encoded_image},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded_image}"}},
    ]
    clips = [
        {"type": "audio", "audio": make_audio(0)["array"]},
        {"type": "audio", "path": str(tmp_path / "a.wav")},
        {"type": "audio", "url": f"data:audio/wav;base64,{encoded_audio}"},
        {"type": "audio", "base64": encoded_audio},
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(ask(*images, *clips, {"type": "text", "text": "Same?"}), **options)
    assert len(inputs["pixel_values"]) == 5 and len(inputs["input_features"]) == 4
    assert all(torch.equal(one, inputs["pixel_values"][0]) for one in inputs["pixel_values"])
    assert all(torch.equal(one, inputs["input_features"][0]) for one in inputs["input_features"])


def test_the_prompt_is_chatml(processor):
    prompt = processor.apply_chat_template(
        ask({"type": "image"}, {"type": "text", "text": "Hi?"}, answer="Ho."), add_generation_prompt=True
    )
    assert prompt == (
        "<|im_start|>user\n<|image|>Hi?<|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_turn_that_answers_nobody_is_a_text_by_itself(processor, tokenizer):
    """Learnt as in pre-training: it says nothing of a conversation, and its end is learnt with it."""
    outputs = processor.apply_chat_template(
        [{"role": "assistant", "content": "To be"}],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert tokenizer.decode(outputs["input_ids"][0]) == "To be" + tokenizer.eos_token
    assert set(outputs["assistant_masks"][0]) == {1}
    text = tokenizer.apply_chat_template(
        [{"role": "assistant", "content": "To be"}], chat_template=CHAT_TEMPLATE, tokenize=False, bos_token="<s>"
    )
    assert text == "<s>To be" + tokenizer.eos_token


def test_assistant_mask_covers_what_the_assistant_says_and_nothing_else(processor, tokenizer):
    conversation = [
        {"role": "system", "content": "Be brief."},
        *ask({"type": "image", "image": make_image(0)}, {"type": "text", "text": "Hi?"}, answer="Ho."),
        *ask({"type": "audio", "audio": make_audio(0)["array"]}, answer=[{"type": "text", "text": "Hey."}]),
    ]
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    said = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert tokenizer.decode(said) == "Ho.<|im_end|>Hey.<|im_end|>"


def test_a_placeholder_in_text_that_is_trusted_is_counted_and_refused(processor):
    with pytest.raises(ValueError, match=r"has 2 <\|image\|> in its text but 1 images"):
        processor.apply_chat_template(
            ask({"type": "image", "image": make_image(0)}, {"type": "text", "text": "<|image|>"}),
            tokenize=True,
            return_dict=True,
            sanitize_control_tokens=False,
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"text": ["a", "<|image|>"], "images": [[make_image(0)], []]},
            r"Sample 0 has 0 <\|image\|> in its text but 1 images",
        ),
        ({"text": ["<|image|>"]}, r"number of images, but there are 1 tokens .*\[1\]\) and 0 images"),
        ({"text": ["<|image|>", "x"], "images": [make_image(0)] * 3}, r"number of images, .*\[1, 0\]\) and 3 images"),
        (
            {"text": ["<|audio|>", "x"], "audio": [make_audio(0)] * 2},
            r"number of audio clips, .*\[1, 0\]\) and 2 audio clips",
        ),
        ({"text": ["<|audio|>"], "audio": [np.zeros(0)]}, "audio 0 is empty"),
        (
            {"text": ["<|video|>", "x"], "videos": [make_video(0), make_video(1)]},
            r"number of videos, .*\[1, 0\]\) and 2 videos",
        ),
        ({"text": ["<|video|>"], "videos": [b"no video"]}, "video 0 is not a video"),
        ({"text": ["<|video|>"], "videos": [[]]}, r"1 tokens .* and 0 videos"),
        ({"text": ["<|image|>"], "images": [[b"no image"]]}, "image 0 of sample 0 is not an image"),
    ],
)
def test_bad_input_is_named(processor, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        processor(**arguments)


def test_tokens_in_advance_are_those_of_the_real_thing(processor):
    lengths = [100, 1800, 6000, 6001]
    counts = processor._get_num_multimodal_tokens(image_sizes=[(20, 30), (99, 10)], audio_lengths=lengths)
    inputs = processor(
        text=["<|image|><|image|>" + "<|audio|>" * 4],
        images=[make_image(0), make_image(1, 99, 10)],
        audio=[make_audio(0, length) for length in lengths],
        return_tensors="pt",
    )
    assert counts["num_image_patches"] == [1, 1]
    assert sum(counts["num_image_tokens"]) == (inputs["input_ids"] == 4).sum()
    assert sum(counts["num_audio_tokens"]) == (inputs["input_ids"] == 5).sum()


SEEING = {
    "one size": {"vision": SIGLIP, "vision_connector": "pixel_shuffle"},
    "tiles": {"vision": SIGLIP, "vision_connector": "pixel_shuffle", "vision_max_tiles": 6},
    "any size": {"vision": NAFLEX},
    "any size, merged": {"vision": NAFLEX, "vision_connector": "pixel_shuffle", "vision_merge_size": 3},
    "any size, resampler": {"vision": NAFLEX, "vision_connector": "resampler", "vision_num_queries": 3},
    "tiles, resampler": {
        "vision": SIGLIP,
        "vision_connector": "resampler",
        "vision_num_queries": 5,
        "vision_max_tiles": 6,
    },
    "one size, convolutions": {"vision": CONVOLUTIONS},
    "any size, encoder-free": {"vision": PATCHES, "vision_connector": "pixel_shuffle"},
}
HEARING = {
    "windows": {"audio": WHISPER, "audio_connector": "frame_stack", "audio_merge_size": 3},
    "windows, resampler": {"audio": WHISPER, "audio_connector": "resampler", "audio_num_queries": 3},
    "any length": {"audio": FRAMES, "audio_connector": "frame_stack", "audio_merge_size": 2},
}
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([100, 333, 1000, 3000]))
FEW = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def placeholders(inputs, token: int) -> int:
    return int((inputs["input_ids"] == token).sum())


def check_forward(model, inputs):
    """Whatever the media, as many features as placeholders: the model refuses all else."""
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("kind", SEEING)
@given(sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3))
@FEW
def test_placeholders_are_features_for_images_of_any_size(kind, sizes, tokenizer):
    model = make_model(**SEEING[kind])
    processor = make_processor(model.config, tokenizer, any_size=kind.startswith("any"))
    images = [PIL.Image.new("RGB", (width, height), (height % 256, width % 256, 7)) for height, width in sizes]
    inputs = processor(text=["a<|image|>b" * len(sizes)], images=images, return_tensors="pt")
    media = {key: inputs[key] for key in ("pixel_values", "tile_positions", "spatial_shapes") if key in inputs}
    features = [len(one) for one in model.get_image_features(**media).pooler_output]
    planned = processor._get_num_multimodal_tokens(image_sizes=sizes)
    assert planned["num_image_tokens"] == features
    assert placeholders(inputs, 4) == sum(features)
    assert sum(planned["num_image_patches"]) == len(inputs["pixel_values"])
    check_forward(model, inputs)


@pytest.mark.parametrize("kind", HEARING)
@given(lengths=st.lists(st.one_of(st.integers(1, 3000), st.integers(1, 80000)), min_size=1, max_size=3))
@FEW
def test_placeholders_are_features_for_audio_of_any_length(kind, lengths, tokenizer):
    model = make_model(**HEARING[kind], text={"max_position_embeddings": 4096})
    processor = make_processor(model.config, tokenizer)
    waveforms = [np.sin(np.arange(length, dtype=np.float32)) for length in lengths]
    inputs = processor(text=["a<|audio|>b" * len(lengths)], audio=waveforms, return_tensors="pt")
    media = {key: inputs[key] for key in inputs if key.startswith(("input_features", "audio"))}
    features = [len(one) for one in model.get_audio_features(**media).pooler_output]
    assert processor._get_num_multimodal_tokens(audio_lengths=lengths)["num_audio_tokens"] == features
    assert placeholders(inputs, 5) == sum(features)
    check_forward(model, inputs)


@pytest.mark.parametrize("kind", SEEING)
@given(counts=st.lists(st.integers(1, 8), min_size=1, max_size=3), bound=st.integers(1, 8), side=st.integers(4, 40))
@FEW
def test_placeholders_are_features_for_videos(kind, counts, bound, side, tokenizer):
    model = make_model(**SEEING[kind], text={"max_position_embeddings": 4096})
    processor = make_processor(model.config, tokenizer, any_size=kind.startswith("any"))
    videos = [np.zeros((count, side, 30, 3), dtype=np.uint8) for count in counts]
    inputs = processor(text=["a<|video|>b" * len(counts)], videos=videos, num_frames=bound, return_tensors="pt")
    frames = [min(count, bound) for count in counts]
    assert inputs["num_frames_per_video"].tolist() == frames
    found = model.get_video_features(
        inputs["pixel_values_videos"], num_frames_per_video=inputs["num_frames_per_video"]
    )
    features = [len(one) for one in found.pooler_output]
    planned = processor._get_num_multimodal_tokens(video_sizes=[(count, side, 30) for count in frames])
    assert planned["num_video_tokens"] == features
    assert placeholders(inputs, 6) == sum(features)
    check_forward(model, inputs)


ENCODERS = {
    "tiles, windows": {"vision": SIGLIP, "audio": WHISPER, "vision_max_tiles": 4},
    "any size, any length": {"vision": NAFLEX, "audio": FRAMES},
    "resamplers": {
        "vision": SIGLIP,
        "audio": WHISPER,
        "vision_max_tiles": 4,
        "vision_connector": "resampler",
        "vision_num_queries": 3,
        "audio_connector": "resampler",
        "audio_num_queries": 2,
    },
}


@pytest.mark.parametrize("kind", ENCODERS)
@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), max_size=2),
    lengths=st.lists(st.integers(1, 40000), max_size=2),
    counts=st.lists(st.integers(1, 4), max_size=2),
)
@FEW
def test_with_cross_attention_placeholders_are_chunks_whatever_the_media(kind, sizes, lengths, counts, tokenizer):
    model = make_model(**ENCODERS[kind], fusion="cross_attention")
    processor = make_processor(model.config, tokenizer, any_size=kind.startswith("any"))
    media = {
        "images": [make_image(index, *size) for index, size in enumerate(sizes)] or None,
        "audio": [make_audio(index, length) for index, length in enumerate(lengths)] or None,
        "videos": [make_video(index, count) for index, count in enumerate(counts)] or None,
    }
    text = "<|video|>" * len(counts) + "a<|image|>" * len(sizes) + "b" + "<|audio|>c" * len(lengths)
    inputs = processor(text=[text], return_tensors="pt", **media)
    chunks = [len(inputs.get(name, [])) for name in ("pixel_values", "input_features", "pixel_values_videos")]
    assert [placeholders(inputs, token) for token in (4, 5, 6)] == chunks
    planned = processor._get_num_multimodal_tokens(
        image_sizes=sizes, audio_lengths=lengths, video_sizes=[(count, 16, 16) for count in counts]
    )
    assert [sum(planned[f"num_{name}_tokens"]) for name in ("image", "audio", "video")] == chunks
    check_forward(model, inputs)


def test_with_cross_attention_each_sample_has_one_placeholder_for_each_chunk(tokenizer):
    model = make_model(
        vision=SIGLIP,
        audio=WHISPER,
        vision_max_tiles=4,
        fusion="cross_attention",
        text={"cross_attention_every": 1},
    )
    processor = make_processor(model.config, tokenizer)
    sizes = [(20, 30), (90, 40), (5, 5)]
    inputs = processor(
        text=["a<|image|>b<|image|><|image|><|audio|><|video|>?"],
        images=[make_image(0, *size) for size in sizes],
        audio=[make_audio(0, 40000)],
        videos=[make_video(0)],
        return_tensors="pt",
    )
    assert (
        placeholders(inputs, 4)
        == len(inputs["pixel_values"])
        == sum(processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"])
    )
    assert (placeholders(inputs, 5), placeholders(inputs, 6)) == (3, 3)
    check_forward(model, inputs)


def test_a_large_image_becomes_tiles_and_an_overview(tokenizer):
    processor = make_processor(make_config(vision=SIGLIP, vision_max_tiles=6), tokenizer)
    large = make_image(0, 30, 45)  # 16 pixels to a tile: two rows of three
    inputs = processor(text=["<|image|><|image|>"], images=[large, make_image(1, 9, 9)], return_tensors="pt")
    places = [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3], [0, 0]]
    assert inputs["tile_positions"].tolist() == [*places, [0, 0]]
    assert inputs["pixel_values"].shape == (8, 3, 16, 16)
    assert (inputs["input_ids"] == 4).sum() == 8 * 16
    alone = processor(text=["<|image|>"], images=[large], return_tensors="pt", max_patches=1)
    torch.testing.assert_close(alone["pixel_values"][0], inputs["pixel_values"][6])  # the overview is the whole image
    rows = [torch.cat(list(inputs["pixel_values"][first : first + 3]), -1) for first in (0, 3)]
    resized = GotOcr2ImageProcessor(size={"height": 32, "width": 48})(large, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(torch.cat(rows, -2), resized)  # side by side, the tiles are the image
    fewer = processor(text=["<|image|>"], images=[large], return_tensors="pt", max_patches=2)
    assert fewer["tile_positions"].tolist() == [[1, 1], [1, 2], [0, 0]]
    with pytest.raises(ValueError, match="max_patches=7, but the model has positions for 6 tiles"):
        processor(text=["<|image|>"], images=[large], max_patches=7)


def test_a_caller_may_ask_for_more_patches_of_an_image_of_any_size(tokenizer):
    processor = make_processor(make_config(vision=NAFLEX), tokenizer)
    few, many = (
        processor(text=["<|image|>"], images=[make_image(0, 60, 20)], max_num_patches=most, return_tensors="pt")
        for most in (12, 48)
    )
    assert few["spatial_shapes"].tolist() == [[6, 2]] and many["spatial_shapes"].tolist() == [[12, 4]]
    assert (many["input_ids"] == 4).sum() == 48
    assert "pixel_attention_mask" not in many


@pytest.mark.parametrize(
    ("choices", "image_processor", "sentence"),
    [
        (
            {"vision": NAFLEX},
            SiglipImageProcessor(),
            "takes images of any shape as patches, which SiglipImageProcessor",
        ),
        ({"vision": SIGLIP}, Siglip2ImageProcessor(), "takes images of one size, which Siglip2ImageProcessor"),
        ({"vision": SIGLIP, "vision_max_tiles": 4}, SiglipImageProcessor(), "vision_max_tiles is 4 but .* cuts none"),
        (
            {"vision": SIGLIP},
            GotOcr2ImageProcessor(crop_to_patches=True),
            "vision_max_tiles is None but .* cuts tiles",
        ),
        (
            {"vision": SIGLIP, "vision_max_tiles": 4},
            GotOcr2ImageProcessor(crop_to_patches=True),
            "cuts up to 12 tiles, but vision_max_tiles is 4",
        ),
    ],
)
def test_an_image_processor_that_does_not_fit_the_encoder_is_refused(choices, image_processor, sentence, tokenizer):
    with pytest.raises(ValueError, match=sentence):
        MMGPTProcessor.from_config(make_config(audio=None, **choices), tokenizer, image_processor=image_processor)


def test_each_frame_of_a_video_stands_behind_its_time(processor, tokenizer):
    inputs = processor(text=["See <|video|>!"], videos=[make_video(0)], fps=2, return_mm_token_type_ids=True)
    frame = "<|video|>" * 16
    assert tokenizer.decode(inputs["input_ids"][0]) == f"See <0.0 s>{frame}<0.5 s>{frame}<1.0 s>{frame}!"
    assert inputs["mm_token_type_ids"][0] == [2 if token == 6 else 0 for token in inputs["input_ids"][0]]
    assert inputs["pixel_values_videos"].shape == (3, 3, 16, 16)
    image = processor(text=["<|image|>"], images=[make_video(0)[1]])["pixel_values"][0]
    torch.testing.assert_close(inputs["pixel_values_videos"][1], image)  # a frame is seen as an image is


def test_every_frame_is_seen_where_no_sampling_is_wanted(processor, tokenizer):
    videos = [make_video(0, 40)]
    bounded = processor(text=["<|video|>"], videos=videos)
    assert bounded["num_frames_per_video"].tolist() == [32]
    whole = processor(text=["<|video|>"], videos=videos, do_sample_frames=False)
    assert whole["num_frames_per_video"].tolist() == [40] and len(whole["pixel_values_videos"]) == 40
    with pytest.raises(ValueError, match="Sampling frames from a list of images is not supported"):
        processor(text=["<|video|>"], videos=videos, do_sample_frames=True)
    timed = processor(text=["<|video|>"], videos=[{"frames": videos[0], "fps": 8}], do_sample_frames=True)
    assert timed["num_frames_per_video"].tolist() == [5]


def test_a_video_of_a_conversation_may_be_frames_or_their_files(processor, tmp_path):
    for index, frame in enumerate(make_video(0)):
        frame.save(tmp_path / f"{index}.png")
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    videos = [{"type": "video", "video": video} for video in (make_video(0), np.stack(make_video(0)), paths)]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(ask(*videos, {"type": "text", "text": "Same?"}), **options)
    assert inputs["num_frames_per_video"].tolist() == [3, 3, 3]
    frames = inputs["pixel_values_videos"]
    assert torch.equal(frames[:3], frames[3:6]) and torch.equal(frames[:3], frames[6:])


def test_videos_without_a_place_for_them_are_refused(tokenizer):
    blind = make_processor(make_config(vision=None), tokenizer)
    with pytest.raises(ValueError, match="Videos were given but the model takes none"):
        blind(text=["<|video|>"], videos=[make_video(0)])


def test_how_the_last_batch_was_padded_and_cut_is_not_saved(tmp_path, tokenizer):
    processor = make_processor(make_config(), tokenizer)
    processor(text=["one", "one two three"], padding=True, truncation=True, max_length=2)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["padding"] is None and saved["truncation"] is None


@pytest.mark.parametrize(("vision", "audio"), [(PATCHES, FRAMES), (PATCHES, None), (None, FRAMES), (None, None)])
def test_a_processor_survives_a_folder_with_the_parts_it_has(tmp_path, tokenizer, vision, audio):
    processor = make_processor(make_config(vision=vision, audio=audio), tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = MMGPTProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert hasattr(loaded, "image_processor") == (vision is not None)
    assert hasattr(loaded, "feature_extractor") == (audio is not None)
    assert loaded(text="hello")["input_ids"] == processor(text="hello")["input_ids"]


def test_media_for_a_missing_part_are_refused(tokenizer):
    processor = make_processor(make_config(vision=None, audio=None), tokenizer)
    with pytest.raises(ValueError, match="no vision encoder"):
        processor(text=["<|image|>"], images=[make_image(0)])
    with pytest.raises(ValueError, match="no audio encoder"):
        processor(text=["<|audio|>"], audio=[make_audio(0)])


def test_an_encoder_without_its_processor_is_refused(tokenizer):
    with pytest.raises(ValueError, match="give the image_processor"):
        MMGPTProcessor.from_config(make_config(), tokenizer)


def test_it_can_be_pickled_for_data_workers(processor):
    import pickle

    copy = pickle.loads(pickle.dumps(processor))
    assert copy(text="hello")["input_ids"] == processor(text="hello")["input_ids"]


class TestSoundAlone:
    """The form in which `transformers serve` asks for a transcription: a waveform as the first argument, and nothing else."""

    def test_gets_the_processors_own_prompt(self, processor):
        waveform = make_audio(0)["array"]
        alone = processor(waveform, sampling_rate=16000, return_tensors="pt")
        parts = [{"type": "audio", "audio": waveform}, {"type": "text", "text": processor.prompts[SPEECH]}]
        asked = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert alone.keys() == asked.keys()
        assert all(torch.equal(alone[name], asked[name]) for name in alone)

    def test_what_is_generated_is_decoded_without_the_prompt(self, processor):
        ids = processor(make_audio(0)["array"], return_tensors="pt")["input_ids"][0].tolist()
        said = processor.tokenizer("four")["input_ids"]
        assert processor.batch_decode(torch.tensor([ids + said])) == ["four"]

    def test_any_other_conversation_is_decoded_whole(self, processor):
        ids = processor(make_audio(0)["array"], return_tensors="pt")["input_ids"][0].tolist()
        others = [ids[1:], ids[:-1], processor.tokenizer("Hello")["input_ids"], []]
        assert processor.batch_decode(others) == processor.tokenizer.batch_decode(others)


class TestWhatIsRefused:
    def conversation(self, text):
        return [{"role": "user", "content": text}]

    def test_a_prompt_that_leaves_no_room_for_an_answer(self, processor):
        assert processor.context_length == 512
        options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
        processor.apply_chat_template(self.conversation("x" * 400), **options)
        with pytest.raises(ValueError, match="reads at most 512"):
            processor.apply_chat_template(self.conversation("x" * 600), **options)

    def test_in_a_server_it_is_also_an_answer_to_the_client(self, processor):
        exceptions = pytest.importorskip("starlette.exceptions")
        with pytest.raises(exceptions.HTTPException) as error:
            processor(images=b"no image", text="<|image|>")
        assert isinstance(error.value, ValueError) and error.value.status_code == 400
        assert str(error.value) == error.value.detail and "is not an image that can be read" in error.value.detail


def test_what_serving_engines_read(processor):
    """The contract with vLLM's Transformers backend (multimodal.py of vLLM 0.32), which makes its inputs from these."""
    images, clips = [make_image(0), make_image(1, 40, 9)], [make_audio(0)["array"], make_audio(1, 1800)["array"]]
    inputs = processor(
        text="<|image|><|audio|> <|audio|><|image|>",
        images=images,
        audio=clips,
        return_tensors="pt",
        return_text_replacement_offsets=True,
    )
    counts = processor._get_num_multimodal_tokens(
        image_sizes=[(image.height, image.width) for image in images], audio_lengths=[len(one) for one in clips]
    )
    replaced = [(entry["type"], entry["replacement"]) for entry in inputs["text_replacement_offsets"][0]]
    assert [text for kind, text in replaced if kind == "image"] == [
        processor.image_token * count for count in counts["num_image_tokens"]
    ]
    assert [text for kind, text in replaced if kind == "audio"] == [
        processor.audio_token * count for count in counts["num_audio_tokens"]
    ]
    assert len(inputs["pixel_values"]) == sum(counts["num_image_patches"])  # chunks, split among the images
    assert len(inputs["input_features"]) == len(inputs["input_features_mask"]) == len(clips)  # a window for each
    assert processor.image_processor.size == {"height": 16, "width": 16}
    assert processor.feature_extractor.sampling_rate == 16000
    assert make_config().audio_config.max_source_positions == 512  # no audio is longer than what the decoder takes
    assert make_config(audio=WHISPER).audio_config.max_source_positions == 50


def test_arrays_of_every_range_are_the_same_pixels_as_their_image(processor):
    image = make_image(0)
    array = np.asarray(image)
    expected = processor(text="<|image|>", images=image, return_tensors="pt")["pixel_values"]
    floats = torch.tensor(array / 255).permute(2, 0, 1)
    for source in (array, array / 255, floats, array.astype(np.uint16) * 257, array[None], image.convert("RGBA")):
        assert (processor(text="<|image|>", images=source, return_tensors="pt")["pixel_values"] == expected).all()
    scaled = processor(text="<|image|>", images=floats.float(), do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(scaled, expected, atol=0.02, rtol=0)


def test_audio_may_come_with_its_rate_in_any_form(processor):
    wave = make_audio(0)["array"]
    ask = {"text": "<|audio|>", "return_tensors": "pt"}
    expected = processor(audio=wave, **ask)["input_features"]
    whole = (wave * 2**15).round() / 2**15
    for audio in (
        (16000, wave),
        [(wave, 16000)],
        {"raw": wave, "sampling_rate": 16000},
        wave.tolist(),
        [wave.tolist()],
    ):
        assert (processor(audio=audio, **ask)["input_features"] == expected).all()
    rounded = processor(audio=whole, **ask)["input_features"]
    integers = processor(audio=(16000, (whole * 2**15).astype(np.int16)), **ask)["input_features"]
    torch.testing.assert_close(integers, rounded)


def test_a_request_has_so_many_pixels(processor, tmp_path):
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for index, path in enumerate(paths):
        make_image(index, 10, 10).save(path)
    processor.limits = Limits(request_pixels=250)
    try:
        assert len(processor(text="<|image|><|image|>", images=paths[:2])["pixel_values"]) == 2
        with pytest.raises(
            ValueError, match="image 2: with it the images of this request have 300 pixels, more than the 250"
        ):
            processor(text="<|image|>" * 3, images=paths)
    finally:
        processor.limits = Limits()


def test_a_checkpoint_can_lower_limits_and_not_raise_them(tokenizer, tmp_path):
    processor = make_processor(make_config(vision=SIGLIP, audio=WHISPER), tokenizer)
    processor.media_limits = {"image_side": 20, "audio_seconds": 1e9}
    processor.save_pretrained(tmp_path)
    loaded = MMGPTProcessor.from_pretrained(tmp_path)
    assert loaded.limits == Limits(image_side=20)
    make_image(0, 30, 10).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"image 0 has .* pixels, more than 20 on a side"):
        loaded(text="<|image|>", images=str(tmp_path / "wide.png"))


def test_a_processor_opens_what_its_policy_allows(processor, tmp_path):
    make_image(0).save(tmp_path / "a.png")
    part = {"type": "image", "image": str(tmp_path / "a.png")}
    ask_tokens = {"tokenize": True, "return_dict": True}
    processor.media_policy = MediaPolicy(paths=False)
    try:
        with pytest.raises(ValueError, match="files are not opened by path here"):
            processor.apply_chat_template(ask(part), **ask_tokens)
    finally:
        processor.media_policy = MediaPolicy()
    assert "pixel_values" in processor.apply_chat_template(ask(part), **ask_tokens)
