r"""Answer requests with vLLM. training/checks/vllm_check.py runs this file with the Python of an environment that has vLLM.

    python -I training/checks/vllm_answers.py offline FOLDER REQUESTS.json ANSWERS.json
    python -I training/checks/vllm_answers.py served  BASE_URL REQUESTS.json ANSWERS.json

REQUESTS holds `max_new_tokens`, `max_model_len`, `suppress_tokens` (which vLLM does not read in generation_config.json) and
`requests`, each with its `prompt` (text with placeholders), `messages` (None where they are not sent through the client) and the
files of its `images`, `audios` and `videos`. ANSWERS is a list in the same order: for each interface, the tokens of the prompt
and of the answer.
"""

import base64
import json
import sys
from pathlib import Path


def forbid(suppress_tokens: list[int]) -> dict[str, float]:
    """`logit_bias`, as vLLM and the client take it, in place of a generation config's `suppress_tokens`."""
    return {str(token): -100.0 for token in suppress_tokens}


def answer_offline(folder: str, asked: dict) -> list[dict]:
    """All requests in one call of `LLM.generate`, so that they are batched as vLLM batches them."""
    import numpy as np
    import PIL.Image
    import soundfile
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=folder,
        model_impl="transformers",
        trust_remote_code=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=asked["max_model_len"],
        max_num_seqs=8,
    )
    prompts = []
    for request in asked["requests"]:
        media = {
            "image": [PIL.Image.open(path).convert("RGB") for path in request["images"]],
            "audio": [soundfile.read(path, dtype="float32") for path in request["audios"]],
            "video": [np.load(path) for path in request["videos"]],
        }
        media = {kind: items for kind, items in media.items() if items}
        prompts.append({"prompt": request["prompt"], **({"multi_modal_data": media} if media else {})})
    bias = {int(token): value for token, value in forbid(asked["suppress_tokens"]).items()}
    settings = SamplingParams(temperature=0, max_tokens=asked["max_new_tokens"], logit_bias=bias)
    outputs = engine.generate(prompts, settings, use_tqdm=False)
    return [
        {"offline": {"prompt": list(output.prompt_token_ids), "tokens": list(output.outputs[0].token_ids)}}
        for output in outputs
    ]


def openai_messages(request: dict) -> list[dict]:
    """The request's messages as the OpenAI client sends them: images as data URLs, audio as base64."""
    files = {"image": iter(request["images"]), "audio": iter(request["audios"])}

    def part_of(part: dict) -> dict:
        if part["type"] == "text":
            return {"type": "text", "text": part["text"]}
        data = base64.b64encode(Path(next(files[part["type"]])).read_bytes()).decode()
        if part["type"] == "image":
            return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}

    return [{**message, "content": [part_of(part) for part in message["content"]]} for message in request["messages"]]


def answer_served(base_url: str, asked: dict) -> list[dict]:
    """Each request through the official client: /v1/chat/completions at once and streamed; without media also /v1/completions."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none")
    options = {"model": client.models.list().data[0].id, "temperature": 0, "max_tokens": asked["max_new_tokens"]}
    options["logit_bias"] = forbid(asked["suppress_tokens"])
    with_ids = {"extra_body": {"return_token_ids": True}}
    answers = []
    for request in asked["requests"]:
        answer = {}
        if not (request["images"] or request["audios"] or request["videos"]):
            choice = client.completions.create(prompt=request["prompt"], **options, **with_ids).choices[0]
            answer["completion"] = {"prompt": choice.prompt_token_ids, "tokens": choice.token_ids}
        if request["messages"] is not None:
            messages = openai_messages(request)
            chat = client.chat.completions.create(messages=messages, **options, **with_ids)
            answer["chat"] = {"prompt": chat.prompt_token_ids, "tokens": chat.choices[0].token_ids}
            events = list(client.chat.completions.create(messages=messages, stream=True, **options, **with_ids))
            tokens = [token for event in events for token in event.choices[0].model_extra.get("token_ids") or []]
            answer["streamed"] = {"prompt": events[0].prompt_token_ids, "tokens": tokens}
        answers.append(answer)
    return answers


def main() -> None:
    interface, target, requests_path, answers_path = sys.argv[1:5]
    asked = json.loads(Path(requests_path).read_text(encoding="utf-8"))
    answers = answer_offline(target, asked) if interface == "offline" else answer_served(target, asked)
    Path(answers_path).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
