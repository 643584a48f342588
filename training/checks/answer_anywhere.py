r"""Answer questions with a saved model in a process that has transformers, but not this package.

    python -I training/checks/answer_anywhere.py MODEL_FOLDER REQUESTS.json ANSWERS.json

training/demo/run.py copies this file to an empty folder and runs it there, to show that the model's folder is enough. REQUESTS holds
`max_new_tokens` and `conversations`, in which media are `{"type": "image"|"audio", "path": ...}`; ANSWERS has for each what
`generate()` and, for images, `pipeline("image-text-to-text")` answered, and the module of the model's class.
"""

import importlib
import json
import sys
from pathlib import Path


PACKAGE = "modeling_mmgpt"


class PackageRefused:
    """An import hook that hides the package, wherever it is installed, and leaves the copy in the model's folder alone."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"{name} is hidden from this process", name=name)


def hide_package() -> None:
    sys.meta_path.insert(0, PackageRefused)
    try:
        importlib.import_module(PACKAGE)
    except ModuleNotFoundError:
        return
    raise RuntimeError(f"{PACKAGE} is already imported: this process would prove nothing.")


def answer_with_generate(model, processor, messages: list[dict], max_new_tokens: int) -> str:
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def answer_with_pipeline(pipe, messages: list[dict], max_new_tokens: int) -> str:
    options = {"max_new_tokens": max_new_tokens, "do_sample": False}
    return pipe(text=messages, return_full_text=False, generate_kwargs=options)[0]["generated_text"].strip()


def main() -> None:
    folder, requests_path, answers_path = sys.argv[1:4]
    hide_package()
    from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True)

    requests = json.loads(Path(requests_path).read_text(encoding="utf-8"))
    answers = []
    for messages in requests["conversations"]:
        answer = {"generate": answer_with_generate(model, processor, messages, requests["max_new_tokens"])}
        if any(part["type"] == "image" for part in messages[0]["content"]):
            answer["pipeline"] = answer_with_pipeline(pipe, messages, requests["max_new_tokens"])
        answers.append(answer)
    origin = {"class": type(model).__name__, "module": type(model).__module__}
    Path(answers_path).write_text(json.dumps({"origin": origin, "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main()
