r"""Does a saved model answer in vLLM as it does in generate()? `make vllm-check MODEL=FOLDER`.

    python -m training.checks.vllm_check FOLDER --vllm .venv-vllm/bin/python

Asks the folder's model questions with images, audio and text, greedily and in float32: generate() in this process, vLLM offline
(`LLM.generate`) and `vllm serve` with the OpenAI client in others, since vLLM patches transformers' classes. The vLLM processes
cannot import this package: they run the code in the folder. Prints what is the same token for token, and fails on any difference.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from modeling_mmgpt.media_loading_mmgpt import load_image
from training.checks import vllm_answers
from training.checks.servers import serving, tail
from training.data.samples import text_of, user_turn
from training.data.synthetic.course import load_demo


INTERFACES = ("offline", "chat", "streamed", "completion")
VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
FRAME_SIZE = (64, 64)
LONGEST_CONTEXT = 2048  # enough for the questions; the cache of a model's own limit may exceed 1 GiB


def held_out_samples(config) -> list[dict]:
    """Questions of the demo's test data for the model's modalities, two with several media, and one about a video of the images."""
    sources = ["text"]
    sources += ["digits", "scenes"] if getattr(config, "vision_config", None) is not None else []
    sources += ["audio"] if getattr(config, "audio_config", None) is not None else []
    by_source = {source: list(load_demo(Path(), "test", source, samples=3)) for source in sources}
    samples = [sample for source in sources for sample in by_source[source]]
    if "digits" in sources:
        samples.append(join("two images", by_source["digits"][0], by_source["scenes"][0]))
        if getattr(config, "video_token_id", None) is not None:
            samples.append(make_video("video", *by_source["scenes"]))
    if {"scenes", "audio"} <= set(sources):
        samples.append(join("image and audio", by_source["scenes"][1], by_source["audio"][0], by_source["audio"][1]))
    return samples


def join(task: str, *samples: dict) -> dict:
    """One question out of several: all their media in order, then the last one's text."""
    content = [part for sample in samples for part in sample["messages"][0]["content"] if part["type"] != "text"]
    content.append({"type": "text", "text": text_of(samples[-1]["messages"][0])})
    media = {kind: [item for sample in samples for item in sample[kind]] for kind in ("images", "audios")}
    return {"task": task, "messages": [{"role": "user", "content": content}], **media}


def make_video(task: str, *samples: dict) -> dict:
    """The samples' images as the frames of a video, and the first one's question."""
    frames = [load_image(sample["images"][0]).resize(FRAME_SIZE) for sample in samples]
    question = user_turn(text_of(samples[0]["messages"][0]), ("video",))
    return {"task": task, "messages": [question], "images": [], "audios": [], "videos": [np.stack(frames)]}


def make_requests(samples: list[dict], processor, folder: Path) -> list[dict]:
    """The requests for both sides; media are written to files in `folder`."""
    requests = []
    for index, sample in enumerate(samples):
        question = sample["messages"][0]
        files = {"images": [], "audios": [], "videos": []}
        for kind, suffix in (("images", ".png"), ("audios", ".wav"), ("videos", ".npy")):
            for place, item in enumerate(sample.get(kind, [])):
                path = folder / f"{index}-{place}{suffix}"
                np.save(path, item) if kind == "videos" else path.write_bytes(item["bytes"])
                files[kind].append(str(path))
        prompt, messages = text_of(question), None
        if processor.chat_template is not None:
            prompt = processor.apply_chat_template([question], add_generation_prompt=True)
            messages = None if files["videos"] else [question]  # the client has no form for frames
        requests.append({"name": sample["task"], "prompt": prompt, "messages": messages, **files})
    return requests


def load(folder: str, with_torchvision: bool):
    """The model in float32, and its processor (a text model: its tokenizer)."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    if not hasattr(model.config, "text_config"):
        return model, AutoTokenizer.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    if hasattr(processor, "image_processor") and not with_torchvision:
        # Pillow's resized pixels differ from torchvision's by one level of 256.
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, backend="pil")
    return model, processor


def answer_with_generate(model, processor, requests: list[dict], max_new_tokens: int) -> list[dict]:
    answers = []
    for request in requests:
        videos = [np.load(path) for path in request["videos"]]
        media = {"images": request["images"], "audio": request["audios"], "videos": videos}
        media = {kind: items for kind, items in media.items() if items}
        inputs = processor(text=[request["prompt"]], return_tensors="pt", **media)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0].tolist()
        length = inputs["input_ids"].shape[1]
        text = processor.decode(output[length:], skip_special_tokens=True)
        answers.append({"prompt": output[:length], "tokens": output[length:], "text": text})
    return answers


def run_vllm(python: Path, folder: Path, *arguments: str) -> list[dict]:
    """The answers of training/checks/vllm_answers.py, run by the vLLM environment's `python` in `folder`."""
    answers = folder / "answers.json"
    command = [str(python), "-I", vllm_answers.__file__, *arguments, str(folder / "requests.json"), str(answers)]
    log = folder / f"{arguments[0]}.log"
    with log.open("w") as output:
        result = subprocess.run(command, cwd=folder, env=vllm_environment(folder), stdout=output, stderr=output)
    if result.returncode:
        raise SystemExit(f"{tail(log)}\nvLLM ({arguments[0]}) failed: its last lines are above.")
    return json.loads(answers.read_text(encoding="utf-8"))


def vllm_environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept | VLLM_ENVIRONMENT | {"HF_MODULES_CACHE": str(folder / "modules")}


def serve_command(python: Path, model_folder: str, max_model_len: int) -> list[str]:
    """What `vllm serve` runs. The command itself looks for a package named vllm, which vllm-cpu 0.32 is not."""
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder]
    command += ["--model-impl", "transformers", "--trust-remote-code", "--dtype", "float32", "--enforce-eager"]
    return [*command, "--max-model-len", str(max_model_len), "--max-num-seqs", "8"]


def verdict(expected: dict, answer: dict | None) -> str:
    """`same`, the first difference, or a dash if this interface was not asked."""
    if answer is None:
        return "-"
    for key, name in (("prompt", "prompt"), ("tokens", "answer")):
        if answer[key] != expected[key]:
            pairs = zip(expected[key], answer[key], strict=False)
            place = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
            return f"DIFFERENT {name} " + ("length" if place is None else f"from token {place}")
    return "same"


def print_table(requests: list[dict], expected: list[dict], answers: list[dict]) -> list[str]:
    """Prints a line for each request; returns the names of those that are not the same everywhere."""
    print("| request | prompt tokens | generate() | vLLM offline | server: chat | streamed | completions |")
    print("|---|---|---|---|---|---|---|")
    failed = []
    for request, reference, answer in zip(requests, expected, answers, strict=True):
        verdicts = [verdict(reference, answer.get(name)) for name in INTERFACES]
        text = " ".join(reference["text"].split()).replace("|", " ")
        shown = text if len(text) <= 32 else text[:31] + "…"
        print("| " + " | ".join([request["name"], str(len(reference["prompt"])), shown, *verdicts]) + " |")
        if any(word.startswith("DIFFERENT") for word in verdicts):
            failed.append(request["name"])
    return failed


def versions(python: Path) -> str:
    program = "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in ('vllm-cpu', 'transformers', 'torch')), sep=', ')"
    theirs = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    return f"vLLM: {theirs}. generate(): transformers {transformers.__version__}, torch {torch.__version__}. float32, CPU."


def check(model_folder: str, python: Path, max_new_tokens: int) -> list[str]:
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=True)
    max_model_len = min(config.get_text_config().max_position_embeddings, LONGEST_CONTEXT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        importing = subprocess.run([python, "-I", "-c", "import torchvision"], capture_output=True)
        with_torchvision = importing.returncode == 0
        model, processor = load(model_folder, with_torchvision)
        samples = [one for one in held_out_samples(config) if with_torchvision or not one.get("videos")]
        requests = make_requests(samples, processor, folder)
        expected = answer_with_generate(model, processor, requests, max_new_tokens)
        asked = {"requests": requests, "max_new_tokens": max_new_tokens, "max_model_len": max_model_len}
        asked["suppress_tokens"] = model.generation_config.suppress_tokens or []
        (folder / "requests.json").write_text(json.dumps(asked), encoding="utf-8")
        offline = run_vllm(python, folder, "offline", model_folder)
        command = serve_command(python, model_folder, max_model_len)
        with serving(command, folder / "server.log", vllm_environment(folder)) as server:
            served = run_vllm(python, folder, "served", f"{server.address}/v1")
        answers = [one | other for one, other in zip(offline, served, strict=True)]
        print(versions(python) + "\n")
        return print_table(requests, expected, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a saved folder, for example outputs/demo/model")
    parser.add_argument(
        "--vllm", type=Path, required=True, metavar="PYTHON", help="Python of an environment with vLLM"
    )
    parser.add_argument("--max-new-tokens", type=int, default=32)
    arguments = parser.parse_args()
    folder = Path(arguments.model).absolute()
    if not (folder / "config.json").is_file():
        parser.error(f"{arguments.model} holds no model: run `make demo` first, or name a folder, MODEL=outputs/mine.")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failed = check(str(folder), arguments.vllm.absolute(), arguments.max_new_tokens)
    if failed:
        raise SystemExit(f"\nvLLM does not answer as generate() does: {', '.join(failed)}")
    print("\nAll the same.")


if __name__ == "__main__":
    main()
