"""A tiny recipe and its samples, for tests that train; run as a file it trains what a YAML file says, for tests that need a process."""

import io
import os
import signal
import sys
from pathlib import Path

import datasets
import numpy as np
import soundfile
import yaml
from PIL import Image

from training import train, trainer
from training.data import formats, training_set
from training.data.formats import OwnData
from training.data.samples import assistant_turn, make_dataset, medium, user_turn
from training.recipe import build_recipe


# At the end of each pass over Parquet files `datasets` waits five seconds for Arrow's threads; those of a few samples are done sooner.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.05
# A pass has few samples here: ten thousand would be four hundred passes.
training_set.SAMPLES_TO_PACK = 16
training_set.STREAMED_SAMPLES = 50


def toy_samples(root: Path, split: str, together: bool = False):
    """Eight samples each: an image's colour, a tone's pitch, a word to repeat; with `together` an image and audio in every sample."""
    samples = []
    for index in range(8):
        image, audio = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (32, 32), ("red", "blue")[index % 2]).save(image, format="PNG")
        soundfile.write(audio, np.sin(np.arange(2000) * (0.1, 0.9)[index % 2]), 8000, format="WAV")
        answers = ("red", "blue"), ("low", "high"), ("yes", "no")
        seen, heard, read = (assistant_turn(pair[index % 2]) for pair in answers)
        media = {"images": [medium(image.getvalue())], "audios": [medium(audio.getvalue())]}
        if together:
            for answer in (seen, heard, read):
                samples.append({"messages": [user_turn(f"{index}?", ("image", "audio")), answer], **media})
            continue
        samples.append({"task": "see", "messages": [user_turn("", ("image",)), seen], "images": media["images"]})
        samples.append({"task": "hear", "messages": [user_turn("", ("audio",)), heard], "audios": media["audios"]})
        samples.append({"task": "read", "messages": [user_turn(("on?", "off?")[index % 2]), read]})
    return make_dataset([{"id": str(index), **sample} for index, sample in enumerate(samples)])


def toy_texts(root: Path, split: str):
    """Twenty plain texts of different lengths."""
    texts = ["to be or not to be " * (1 + index % 4) for index in range(20)]
    return make_dataset([{"id": str(index), "messages": [assistant_turn(text)]} for index, text in enumerate(texts)])


TOY_DATA = {"toy": OwnData(toy_samples), "toy_texts": OwnData(toy_texts)}


def toy_tree(folder: Path) -> dict:
    return {
        "model": {
            "preset": "nano",
            "config": {
                "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
                "vision_config": {"image_size": 32},
            },
            "image_processor": {"size": {"height": 32, "width": 32}},
            "feature_extractor": {"sampling_rate": 8000, "hop_length": 80, "n_fft": 200},
        },
        "data": {"train": [{"format": "toy"}], "validation": [{"format": "toy"}]},
        "tokenizer": {"vocab_size": 320},
        "training": {
            "output_dir": str(folder),
            "max_steps": 3,
            "per_device_train_batch_size": 6,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "disable_tqdm": True,
        },
    }


def train_toy(tree: dict) -> dict:
    return train.train(build_recipe(tree, "toy", "toy.yaml"))


def losses(report: dict) -> list[float]:
    return [entry["loss"] for entry in report["log"] if "loss" in entry]


class Killed(trainer.Throughput):
    """The process gets a signal in the middle of a run; by default it dies as a machine that fails does: nothing is tidied up."""

    def on_step_begin(self, args, state, control, **kwargs):
        rank = os.environ.get("RANK")
        is_meant = os.environ.get("KILLED_RANK", rank) == rank
        if is_meant and state.global_step == int(os.environ["KILLED_AT_STEP"]):
            os.kill(os.getpid(), signal.Signals[os.environ.get("KILLED_WITH", "SIGKILL")])


def main() -> None:
    formats.OWN_DATA.update(TOY_DATA)
    if "KILLED_AT_STEP" in os.environ:
        trainer.Throughput = Killed
    train.train_and_exit(build_recipe(yaml.safe_load(Path(sys.argv[1]).read_text()), "toy", sys.argv[1]))


if __name__ == "__main__":
    main()
