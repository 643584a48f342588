"""The collator: exact tensors, and errors that name the sample."""

import pickle

import pytest
import torch

from modeling_mmgpt import MMGPTCollator
from tests.conftest import (
    SIGLIP,
    WHISPER,
    make_audio,
    make_config,
    make_image,
    make_long_sample,
    make_model,
    make_processor,
    make_sample,
    make_video,
)


def test_labels_are_the_assistants_turns(collator, tokenizer):
    batch = collator([make_sample("Say hi.", "Hi!"), make_sample("?", "No")])
    prompt = tokenizer.encode("<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n")
    answer = tokenizer.encode("Hi!<|im_end|>")
    end = tokenizer.encode("\n")
    assert batch["input_ids"][0].tolist() == prompt + answer + end
    assert batch["labels"][0].tolist() == [-100] * len(prompt) + answer + [-100]
    shorter = batch["attention_mask"][1].sum()
    assert tokenizer.decode(batch["labels"][1][batch["labels"][1] >= 0]) == "No<|im_end|>"
    assert batch["input_ids"][1, shorter:].tolist() == [1] * (batch["input_ids"].shape[1] - shorter)
    assert batch["labels"][1, shorter:].tolist() == [-100] * (batch["input_ids"].shape[1] - shorter)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_media_are_those_of_the_whole_batch_in_order(collator, samples):
    batch = collator(samples)
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["input_features"].shape == (3, 20, 37)
    assert batch["input_features_mask"].sum(-1).tolist() == [37, 21, 11]
    assert (batch["input_ids"] == 4).sum(-1).tolist() == [16, 0, 0, 32]
    assert (batch["input_ids"] == 5).sum(-1).tolist() == [0, 10, 0, 9]


def test_prompts_stop_before_the_answer_and_are_padded_on_the_left(processor, tokenizer):
    batch = MMGPTCollator(processor, add_generation_prompt=True)(
        [make_sample("Say hi.", "Hi!"), make_sample("?", "No")]
    )
    assert "labels" not in batch
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())
    texts = tokenizer.batch_decode(batch["input_ids"])
    assert texts[0] == "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    assert texts[1].endswith("?<|im_end|>\n<|im_start|>assistant\n")


def test_every_turn_of_the_assistant_is_learned(collator, tokenizer):
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]
    labels = collator([{"messages": messages}])["labels"][0]
    assert tokenizer.decode(labels[labels >= 0]) == "Yes.<|im_end|>No.<|im_end|>"


def test_text_beyond_max_length_is_cut(processor):
    whole = MMGPTCollator(processor)([make_sample("Say hi.", "Hi! " * 20)])
    cut = MMGPTCollator(processor, max_length=40)([make_sample("Say hi.", "Hi! " * 20)])
    assert all(torch.equal(cut[key], whole[key][:, :40]) for key in ("input_ids", "attention_mask", "labels"))


def turns(*answers_and_media) -> dict:
    """A conversation whose n-th question is one medium: `("image", make_image(0)), ("audio", make_audio(0))`."""
    messages, media = [], {"images": [], "audios": [], "videos": []}
    for number, (kind, medium) in enumerate(answers_and_media):
        messages += [
            {"role": "user", "content": [{"type": kind}]},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
        media[f"{kind}s"].append(medium)
    return {"id": "noon", "messages": messages, **media}


def test_a_medium_that_the_cut_would_go_through_is_dropped_whole(tokenizer):
    """Tiles, windows and frames go with their medium, those of other samples stay; what is left is what was there before."""
    model = make_model(vision=SIGLIP, audio=WHISPER, vision_max_tiles=2)
    processor = make_processor(model.config, tokenizer)
    long = turns(
        ("image", make_image(0, 16, 32)),
        ("audio", make_audio(1, 20000)),
        ("video", make_video(2, 2)),
        ("image", make_image(3)),
    )
    short = turns(("video", make_video(4, 1)), ("image", make_image(5, 32, 16)), ("audio", make_audio(6)))
    whole = MMGPTCollator(processor)([long, short])
    batch = processor.apply_chat_template(
        [MMGPTCollator(processor).read(long, "noon")],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
    )
    kinds, starts, ends = zip(*batch.media_spans[0], strict=True)
    assert kinds == ("image", "audio", "video", "image")
    assert tokenizer.decode(batch["input_ids"][0, starts[2] :]).startswith("<0.0 s><|video|>")
    for limit, end, left in (
        (ends[2] - 1, starts[2], (3, 2, 0)),
        (ends[2], ends[2], (3, 2, 2)),
    ):
        with pytest.warns(
            UserWarning, match=f"noon is longer than max_length={limit} tokens: cut to {end} of them, without"
        ):
            cut = MMGPTCollator(processor, max_length=limit)([long, {**short, "id": "one"}])
        images, windows, frames = left
        assert torch.equal(cut["input_ids"][0, :end], whole["input_ids"][0, :end])
        assert int(cut["attention_mask"][0].sum()) == end and (cut["labels"][0, end:] == -100).all()
        assert torch.equal(
            cut["pixel_values"], torch.cat((whole["pixel_values"][:images], whole["pixel_values"][-3:]))
        )
        assert cut["tile_positions"].tolist() == [[1, 1], [1, 2], [0, 0], [1, 1], [2, 1], [0, 0]]
        assert cut["audio_windows"].tolist() == [windows, 1]
        assert cut["num_frames_per_video"].tolist() == ([frames, 1] if frames else [1])
        assert torch.equal(
            cut["pixel_values_videos"],
            whole["pixel_values_videos"][-frames - 1 :] if frames else whole["pixel_values_videos"][-1:],
        )
        assert model(**cut).loss.isfinite()


def test_a_batch_without_its_only_medium_has_no_pixels(processor):
    samples = [turns(("audio", make_audio(0, 900)), ("image", make_image(0)))]
    with pytest.warns(UserWarning, match="without 1 image behind the cut"):
        cut = MMGPTCollator(processor, max_length=50)(samples)
    assert "pixel_values" not in cut and len(cut["input_features"]) == 1


def test_a_sample_that_is_cut_before_its_answer_is_refused(processor):
    with (
        pytest.warns(UserWarning, match="noon"),
        pytest.raises(ValueError, match=r"noon has nothing to learn.*max_length=20"),
    ):
        MMGPTCollator(processor, max_length=20)([{**make_sample("?", "!", images=[make_image(0)]), "id": "noon"}])


def test_a_prompt_is_never_cut(processor):
    with pytest.raises(ValueError, match="more than max_length=20"):
        MMGPTCollator(processor, max_length=20, add_generation_prompt=True)(
            [make_sample("?", "!", images=[make_image(0)])]
        )


def test_media_stand_anywhere_in_any_number_over_several_turns(collator, tokenizer):
    text = tokenizer.decode(collator([make_long_sample()])["input_ids"][0])
    image, frame = "<|image|>" * 16, "<|video|>" * 16
    first, second, third = text.split("<|im_start|>user\n")[1:]
    assert first.startswith(f"<0.0 s>{frame}<1.0 s>{frame}First {image}?")
    assert second.startswith(f"{image}{'<|audio|>' * 63}and {image}<0.0 s>{frame}?")
    assert third.startswith("<|audio|><|audio|><|im_end|>")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": []}, "noon: its messages have 1 image parts but it comes with 0"),
        ({"images": [make_image(0)] * 2}, "noon: its messages have 1 image parts but it comes with 2"),
        ({"audios": [make_audio(0)]}, "noon: its messages have 0 audio parts but it comes with 1"),
        ({"images": [{"bytes": b"broken", "path": None}]}, "image 0 of noon is not an image"),
        ({"videos": [make_video(0)]}, "noon: its messages have 0 video parts but it comes with 1"),
        ({"messages": [{"role": "user", "content": "alone"}], "images": []}, "noon has nothing to learn"),
    ],
)
def test_a_bad_sample_is_named(collator, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        collator(
            [make_sample("fine", "yes"), {**make_sample("?", "!", images=[make_image(0)]), "id": "noon", **change}]
        )


def test_media_without_an_encoder_are_refused(tokenizer):
    text_only = MMGPTCollator(make_processor(make_config(vision=None), tokenizer))
    with pytest.raises(ValueError, match="noon comes with image inputs, but the model has no encoder for them"):
        text_only([{**make_sample("?", "!", images=[make_image(0)]), "id": "noon"}])


def test_it_can_be_pickled_for_data_workers(collator, samples):
    copy = pickle.loads(pickle.dumps(collator))
    assert torch.equal(copy(samples)["input_ids"], collator(samples)["input_ids"])
