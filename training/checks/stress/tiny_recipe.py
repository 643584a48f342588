r"""The recipes of the runs, and their data: twelve samples, four each with an image, with audio and of text alone, in files.

plain       random changes to the samples, dropout, four steps of four samples, a checkpoint after each, of which two are kept
streaming   the same, streamed by a data worker; with the plain run's tokenizer, for which a stream is read ten thousand times else
adapter     LoRA adapters of the model that the plain run leaves
"""

import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


SAMPLES = {"see": ("red", "blue"), "hear": ("low", "high"), "read": ("yes", "no")}  # the tasks with their answers


def write_data(folder: Path) -> None:
    """Each task has a folder with two files of two records, and the media that they name."""
    for task, answers in SAMPLES.items():
        (folder / task).mkdir(parents=True)
        for shard in range(2):
            records = [write_sample(folder / task, task, answers, 2 * shard + index) for index in range(2)]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (folder / task / f"{shard}.jsonl").write_text(lines, encoding="utf-8")


def write_sample(folder: Path, task: str, answers: tuple[str, str], index: int) -> dict:
    """One record, and the image or the audio clip that it names."""
    record = {"id": f"{task}-{index}", "question": f"{task}, number {index}?", "answer": answers[index % 2]}
    if task == "see":
        record["medium"] = f"{index}.png"
        Image.new("RGB", (32, 32), answers[index % 2]).save(folder / record["medium"])
    elif task == "hear":
        record["medium"] = f"{index}.wav"
        tone = 0.6 * np.sin(np.arange(2000) * (0.1, 0.9)[index % 2])
        soundfile.write(folder / record["medium"], tone, 8000)
    return record


def plain(data: Path) -> dict:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "residual_dropout": 0.1}
    return {
        "model": {
            "preset": "nano",
            "config": {
                "text_config": sizes,
                "vision_config": {"image_size": 32, "hidden_size": 32},
                "audio_config": {"hidden_size": 32, "num_mel_bins": 16},
            },
            "image_processor": {"size": {"height": 32, "width": 32}},
            "feature_extractor": {"feature_size": 16, "sampling_rate": 8000, "hop_length": 80, "n_fft": 200},
        },
        "data": {"root": str(data), "train": [source(task) for task in SAMPLES]},
        "tokenizer": {"vocab_size": 320},
        "augment": {"image_shift": 4, "audio_noise": 0.1},
        "training": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 2,
            "disable_tqdm": True,
            "report_to": "none",
        },
    }


def source(task: str) -> dict:
    """The order of a task's records is that of its files."""
    options = {"prompt": "{question}", "answer": "answer", "media_folder": task}
    options |= {"see": {"image": "medium"}, "hear": {"audio": "medium"}, "read": {}}[task]
    return {"name": task, "files": f"{task}/*.jsonl", "format": "prompt_answer", "options": options}


def streaming(data: Path, checkpoint: Path) -> dict:
    recipe = plain(data)
    recipe["tokenizer"] = {"path": str(checkpoint)}
    recipe["data"] |= {"streaming": True, "shuffle_buffer": 4}
    recipe["training"]["dataloader_num_workers"] = 1
    return recipe


def adapter(data: Path, checkpoint: Path) -> dict:
    recipe = plain(data)
    del recipe["tokenizer"]
    recipe["model"] = {"checkpoint": str(checkpoint)}
    recipe["peft"] = {"peft_type": "LORA", "r": 2, "lora_dropout": 0.1}
    return recipe
