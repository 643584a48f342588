"""The processor: placeholders, counts, masks, tokens in advance, and the sentences of its refusals."""

import base64

import numpy as np
import pytest
import soundfile
import torch

from modeling_mmgpt import MMGPTProcessor
from tests.conftest import FRAMES, PATCHES, WHISPER, make_config, make_processor, picture, sound


def ask(*content, answer=None) -> list[dict]:
    messages = [{"role": "user", "content": list(content)}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def test_each_placeholder_is_repeated_once_for_each_token(processor):
    inputs = processor(
        text=["<|image|> and <|audio|>", "<|audio|>"],
        images=[picture(0)],
        audio=[sound(0), sound(1, 1800)],
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
        text=["<|image|>a<|audio|>"], images=[picture(0)], audio=[sound(0, 1800)], return_mm_token_type_ids=True
    )
    assert inputs["mm_token_type_ids"] == [[1] * 16 + [0] + [3] * 3]


def test_the_spectrogram_of_a_sound_does_not_depend_on_its_neighbours(processor):
    together = processor(text=["<|audio|><|audio|>"], audio=[sound(0), sound(1, 1800)], return_tensors="pt")
    alone = processor(text=["<|audio|>"], audio=[sound(1, 1800)], return_tensors="pt")
    assert torch.equal(together["input_features"][1, :, :11], alone["input_features"][0])
    assert not together["input_features"][1, :, 11:].any()


def test_a_fixed_window_costs_no_tokens_for_its_padding(tokenizer):
    processor = make_processor(make_config(audio=WHISPER), tokenizer)
    inputs = processor(text=["<|audio|>"], audio=[sound(0)], return_tensors="pt")
    assert inputs["input_features"].shape == (1, 20, 100)  # the whole second
    assert (inputs["input_ids"] == 5).sum() == 19  # 38 of its 100 frames, halved by the encoder
    with pytest.raises(ValueError, match=r"Sound 0 lasts 1\.2 s, but the model hears 1 s at a time"):
        processor(text=["<|audio|>"], audio=[sound(0, 20000)])


def test_media_of_a_conversation_come_from_every_source(processor, tmp_path):
    picture(0).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", sound(0)["array"], 16000, subtype="FLOAT")
    encoded_image = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    encoded_sound = base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()
    images = [
        {"type": "image", "image": picture(0)},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": f"data:image/png;base64,{encoded_image}"},
        {"type": "image", "base64": encoded_image},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded_image}"}},
    ]
    sounds = [
        {"type": "audio", "audio": sound(0)["array"]},
        {"type": "audio", "path": str(tmp_path / "a.wav")},
        {"type": "audio", "url": f"data:audio/wav;base64,{encoded_sound}"},
        {"type": "audio", "base64": encoded_sound},
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(ask(*images, *sounds, {"type": "text", "text": "Same?"}), **options)
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


def test_assistant_mask_covers_what_the_assistant_says_and_nothing_else(processor, tokenizer):
    conversation = [
        {"role": "system", "content": "Be brief."},
        *ask({"type": "image", "image": picture(0)}, {"type": "text", "text": "Hi?"}, answer="Ho."),
        *ask({"type": "audio", "audio": sound(0)["array"]}, answer=[{"type": "text", "text": "Hey."}]),
    ]
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    said = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert tokenizer.decode(said) == "Ho.<|im_end|>Hey.<|im_end|>"


def test_user_text_that_looks_like_a_placeholder_is_counted_and_refused(processor):
    with pytest.raises(ValueError, match=r"Sample 0 has 2 <\|image\|> in its text but 1 images"):
        processor.apply_chat_template(
            ask({"type": "image", "image": picture(0)}, {"type": "text", "text": "<|image|>"}),
            tokenize=True,
            return_dict=True,
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"text": ["a", "<|image|>"], "images": [[picture(0)], []]},
            r"Sample 0 has 0 <\|image\|> in its text but 1 images",
        ),
        ({"text": ["<|image|>"]}, r"The text has 1 <\|image\|> but 0 images were given"),
        ({"text": ["<|image|>", "x"], "images": [picture(0)] * 3}, r"1 <\|image\|> but 3 images .*\[1, 0\]"),
        ({"text": ["<|audio|>", "x"], "audio": [sound(0)] * 2}, r"1 <\|audio\|> but 2 sounds .*\[1, 0\]"),
        ({"text": ["<|audio|>"], "audio": [np.zeros(0)]}, "sound 0 is empty"),
        ({"text": ["<|audio|>"], "audio": [{"array": np.zeros(9), "sampling_rate": 8000}]}, "8000 samples a second"),
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
        images=[picture(0), picture(1, 99, 10)],
        audio=[sound(0, length) for length in lengths],
        return_tensors="pt",
    )
    assert counts["num_image_patches"] == [1, 1]
    assert sum(counts["num_image_tokens"]) == (inputs["input_ids"] == 4).sum()
    assert sum(counts["num_audio_tokens"]) == (inputs["input_ids"] == 5).sum()


@pytest.mark.parametrize(("vision", "audio"), [(PATCHES, FRAMES), (PATCHES, None), (None, FRAMES), (None, None)])
def test_a_processor_survives_a_folder_with_the_parts_it_has(tmp_path, tokenizer, vision, audio):
    processor = make_processor(make_config(vision=vision, audio=audio), tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = MMGPTProcessor.from_pretrained(tmp_path)
    expected = processor.to_dict()
    expected.pop("auto_map")  # saving adds it: the way back for a process that has only the folder
    assert loaded.to_dict() == expected
    assert hasattr(loaded, "image_processor") == (vision is not None)
    assert hasattr(loaded, "feature_extractor") == (audio is not None)
    assert loaded(text="hello")["input_ids"] == processor(text="hello")["input_ids"]


def test_media_for_a_missing_part_are_refused(tokenizer):
    processor = make_processor(make_config(vision=None, audio=None), tokenizer)
    with pytest.raises(ValueError, match="no vision tower"):
        processor(text=["<|image|>"], images=[picture(0)])
    with pytest.raises(ValueError, match="no audio tower"):
        processor(text=["<|audio|>"], audio=[sound(0)])


def test_a_tower_without_its_processor_is_refused(tokenizer):
    with pytest.raises(ValueError, match="give the image_processor"):
        MMGPTProcessor.from_config(make_config(), tokenizer)


def test_it_can_be_pickled_for_data_workers(processor):
    import pickle

    copy = pickle.loads(pickle.dumps(processor))
    assert copy(text="hello")["input_ids"] == processor(text="hello")["input_ids"]
