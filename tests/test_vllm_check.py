"""The comparison with vLLM as far as it goes without vLLM: the requests, how they are sent, and what counts as the same.

The rest is `make vllm-check`, which builds an environment with vLLM and runs the real thing."""

import base64
import json
import subprocess
import sys

import pytest

from tests.conftest import make_config, make_model, make_processor
from training.checks.vllm_answers import forbid, openai_messages
from training.checks.vllm_check import (
    answer_with_generate,
    held_out_samples,
    load,
    make_requests,
    print_table,
    verdict,
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tokenizer):
    """(saved folder, requests)."""
    folder = tmp_path_factory.mktemp("vllm")
    model = make_model()
    model.save_pretrained(folder / "model")
    processor = make_processor(model.config, tokenizer)
    processor.save_pretrained(folder / "model")
    return folder / "model", make_requests(held_out_samples(model.config), processor, folder)


def test_a_model_is_asked_about_its_modalities_alone():
    kinds = {}
    for name, without in (("all", {}), ("no vision", {"vision": None}), ("no audio", {"audio": None})):
        samples = held_out_samples(make_config(**without))
        kinds[name] = {(len(one["images"]), len(one["audios"]), len(one.get("videos", []))) for one in samples}
    assert kinds == {
        "all": {(0, 0, 0), (1, 0, 0), (0, 1, 0), (2, 0, 0), (1, 2, 0), (0, 0, 1)},
        "no vision": {(0, 0, 0), (0, 1, 0)},
        "no audio": {(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 0, 1)},
    }


def test_the_client_sends_the_files_in_the_order_of_the_message(asked):
    request = asked[1][-1]
    (message,) = openai_messages(request)
    assert [part["type"] for part in message["content"]] == ["image_url", "input_audio", "input_audio", "text"]
    sent = [part["input_audio"]["data"] for part in message["content"][1:3]]
    for path, data in zip(request["audios"], sent, strict=True):
        with open(path, "rb") as file:
            assert base64.b64decode(data) == file.read()


def test_tokens_that_generate_suppresses_are_forbidden_to_vllm(asked):
    model, _ = load(str(asked[0]), with_torchvision=True)
    assert forbid(model.generation_config.suppress_tokens) == {"4": -100.0, "5": -100.0, "6": -100.0}


def test_generate_reads_the_same_prompt_as_the_chat_template_makes(asked):
    folder, requests = asked
    model, processor = load(str(folder), with_torchvision=True)
    answers = answer_with_generate(model, processor, requests[-1:], max_new_tokens=3)
    (image,), audios = requests[-1]["images"], requests[-1]["audios"]
    media = [{"type": "image", "path": image}, *({"type": "audio", "path": path} for path in audios)]
    messages = [{"role": "user", "content": [*media, requests[-1]["messages"][0]["content"][-1]]}]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    inputs = processor.apply_chat_template(messages, **options)
    assert answers[0]["prompt"] == inputs["input_ids"][0]
    assert len(answers[0]["tokens"]) == 3


def test_a_video_reaches_generate_and_is_not_sent_by_the_client(asked):
    folder, requests = asked
    (request,) = [request for request in requests if request["videos"]]
    assert request["messages"] is None and request["prompt"].count("<|video|>") == 1
    model, processor = load(str(folder), with_torchvision=True)
    (answer,) = answer_with_generate(model, processor, [request], max_new_tokens=2)
    assert answer["prompt"].count(processor.video_token_id) == 3 * 16  # frames of 4 x 4 patches


def test_any_difference_is_found_and_named(capsys):
    expected = {"prompt": [1, 2], "tokens": [3, 4, 5], "text": "a|b"}
    assert verdict(expected, {"prompt": [1, 2], "tokens": [3, 4, 5]}) == "same"
    assert verdict(expected, {"prompt": [1, 2], "tokens": [3, 9, 5]}) == "DIFFERENT answer from token 1"
    assert verdict(expected, {"prompt": [1, 2], "tokens": [3, 4]}) == "DIFFERENT answer length"
    assert verdict(expected, {"prompt": [1], "tokens": [3, 4, 5]}) == "DIFFERENT prompt length"
    same, other = ({"offline": {"prompt": [1, 2], "tokens": tokens}} for tokens in ([3, 4, 5], [3, 4, 6]))
    requests = [{"name": "one"}, {"name": "two"}]
    assert print_table(requests, [expected, expected], [same, other]) == ["two"]
    assert "| two | 2 | a b | DIFFERENT answer from token 2 | - | - | - |" in capsys.readouterr().out


def test_a_folder_without_a_model_is_named_with_what_to_do(tmp_path):
    command = [sys.executable, "-m", "training.checks.vllm_check", str(tmp_path), "--vllm", sys.executable]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"{tmp_path} holds no model: run `make demo` first" in result.stderr


def test_requests_travel_as_json(asked):
    assert json.loads(json.dumps(asked[1])) == asked[1]
