r"""Losses, gradients and weights that are not finite: the run stops at that step, names the samples and keeps its checkpoints."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.numpy import load_file, save_file

from training.checks.stress.judging import Case, check_refused, last_line, require
from training.checks.stress.runs import KINDS, Runs


IN_ORDER = "training.train_sampling_strategy=sequential"  # of the sources: a step of images, one of audio, one of text
HUGE = 1e30  # finite, and what it is multiplied with twice is not
BATCH_OF_TWO = ("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2")


def cases(runs: Runs, is_quick: bool) -> Iterator[Case]:
    for kind in KINDS[:1] if is_quick else KINDS:
        yield learning_rate(runs, kind)
    if is_quick:
        return
    for kind in KINDS:
        yield infinite_weights(runs, kind)
    for peft in ((), ("peft=null",)):
        for overrides in ((), BATCH_OF_TWO):
            yield poisoned(runs, 1, "vision_connector", "see", *peft, *overrides)
            yield poisoned(runs, 2, "audio_connector", "hear", *peft, *overrides)


def learning_rate(runs: Runs, kind: str) -> Case:
    """The first step ruins the weights, which are finite still; of the second the loss is not."""

    def check(folder: Path) -> None:
        ended = runs.run(kind, folder / "run", f"training.learning_rate={HUGE}", "training.max_grad_norm=0")
        check_refused(ended, "step 2")
        require(any(f"{task}-" in ended.text for task in ("see", "hear", "read")), "it names no sample")
        check_stopped_before(runs, kind, folder, 2, f"training.learning_rate={HUGE}", "training.max_grad_norm=0")

    return Case(f"{kind}: a learning rate of {HUGE:g}", check)


def infinite_weights(runs: Runs, kind: str) -> Case:
    """The optimizer leaves weights that are not finite, though the loss was: no checkpoint has them."""

    def check(folder: Path) -> None:
        ended = runs.run(kind, folder / "run", "training.weight_decay=1e42")
        check_refused(ended, "step 1", "weights")
        left = [path.name for path in (folder / "run").iterdir() if path.is_dir()]
        require(not left, f"it left {left}")

    return Case(f"{kind}: weights that overflow", check)


def poisoned(runs: Runs, step: int, part: str, task: str, *overrides: str) -> Case:
    """A model whose weights are finite, but not what it makes of one kind of media."""

    def check(folder: Path) -> None:
        shutil.copytree(runs.whole("plain") / "model", folder / "model")
        for manifest in (folder / "model").glob("*manifest*"):
            manifest.unlink()
        weights = load_file(folder / "model" / "model.safetensors")
        for layer in ("linear_1", "linear_2"):
            weights[f"model.{part}.{layer}.weight"] *= HUGE
        save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
        settings = (f"model.checkpoint={folder / 'model'}", IN_ORDER, *overrides)
        ended = runs.run("adapter", folder / "run", *settings)
        check_refused(ended, f"step {step}", f"{task}-")
        others = [one for one in ("see", "hear", "read") if one != task and f"{one}-" in ended.text]
        require(not others, f"it names samples of {others} too")
        check_stopped_before(runs, "adapter", folder, step, *settings)

    return Case(" ".join(("adapter: NaN at step", str(step), "by", part, *overrides)), check)


def check_stopped_before(runs: Runs, kind: str, folder: Path, step: int, *settings: str) -> None:
    """There are checkpoints of the steps before, which can be used, and no model."""
    due = [f"checkpoint-{one}" for one in range(max(1, step - 2), step)]
    left = sorted(path.name for path in (folder / "run").iterdir() if path.is_dir())
    require(left == due, f"it left {left} in place of {due}")
    if due:
        last = folder / "run" / due[-1]
        again = (f"training.resume_from_checkpoint={last}", f"training.max_steps={step - 1}")
        ended = runs.run(kind, folder / "again", *settings, *again)
        require(ended.status == 0, f"{due[-1]} cannot be used: {last_line(ended.text)}")
