r"""Answer questions with a saved model in a process that has transformers, but not this package.

    python -I training/checks/answer_anywhere.py MODEL_FOLDER REQUESTS.json ANSWERS.json

training/demo/run.py copies this file to an empty folder and runs it there, to show that the model's folder is enough. REQUESTS holds
`max_new_tokens` and `conversations`, in which media are `{"type": "image"|"audio", "path": ...}`; ANSWERS has for each what
`generate()` and, for images, `pipeline("image-text-to-text")` answered, and the module of the model's class.
"""

import json
import sys
from pathlib import Path


PACKAGE = "modeling_mmgpt"


def hide_package() -> None:
    """Makes every import of the package fail, wherever it is installed; the copy in the model's folder has a longer name."""
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} is already imported: this process would prove nothing.")
    sys.modules[PACKAGE] = None


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
    greedy = {"max_new_tokens": requests["max_new_tokens"], "do_sample": False}
    template = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    answers = []
    for messages in requests["conversations"]:
        inputs = processor.apply_chat_template(messages, **template)
        tokens = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
        answer = {"generate": processor.decode(tokens, skip_special_tokens=True).strip()}
        if any(part["type"] == "image" for part in messages[0]["content"]):
            (output,) = pipe(text=messages, return_full_text=False, generate_kwargs=greedy)
            answer["pipeline"] = output["generated_text"].strip()
        answers.append(answer)
    origin = {"class": type(model).__name__, "module": type(model).__module__}
    Path(answers_path).write_text(json.dumps({"origin": origin, "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main()
