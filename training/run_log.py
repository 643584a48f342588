r"""What a run says of itself while it lasts: the loss of each task and of each kind of media, and lines that a person can read.

step 40 of 3300 | loss 2.314 | 5,120 tokens/s | 38 samples/s | 1.24 GB | 12 min left | gradient norm 0.83 | rate 3.0e-04
    loss of audio 3.02, image 2.11, text 1.70 | fsdd 3.02, easy_vqa 2.11 | 3 left out
"""

import sys
import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from transformers import ProgressCallback, TrainerCallback

from training.data.batches import Notes


BY_KIND, BY_TASK = "loss_by_modality/", "loss_by_task/"
MEASURED_AT_ONCE = 1024  # tokens whose losses are worked out once more: their logits are in memory in fp32
MOST_TASKS = 8  # in a line; all are in the log


class GroupLosses:
    """The losses of the samples of each task and kind of media, measured beside the loss that is learnt from, without changing it."""

    def __init__(self):
        self.losses: torch.Tensor | None = None  # of each labelled token of the batch in progress
        self.seen: list[
            tuple[torch.Tensor, Notes]
        ] = []  # the sums of each sample, of each batch since the last entry of the log

    @contextmanager
    def watching(self, model):
        """While the block runs, the model's own loss function is watched."""
        learnt = model.loss_function

        def loss_function(logits, labels, *args, shift_labels=None, **kwargs):
            if torch.is_grad_enabled() and shift_labels is not None:
                self.losses = token_losses(logits.detach(), shift_labels)
            return learnt(logits, labels, *args, shift_labels=shift_labels, **kwargs)

        model.loss_function = loss_function
        try:
            yield
        finally:
            model.loss_function = learnt

    def add(self, notes: Notes) -> None:
        """After the forward of a batch: the labels of its samples follow each other as the samples do."""
        losses, self.losses = self.losses, None
        if losses is None or sum(notes.labels) != len(losses) or len(notes.labels) != len(notes.names):
            return
        owner = torch.repeat_interleave(torch.tensor(notes.labels)).to(losses.device)
        self.seen.append((losses.new_zeros(len(notes.labels)).index_add_(0, owner, losses), notes))

    def take(self) -> dict[str, float]:
        """The mean loss of a token of each group in all processes since the last time."""
        seen, self.seen = self.seen, []
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        totals = torch.cat([one for one, _ in seen]).tolist() if seen else []
        samples = [each for _, notes in seen for each in zip(notes.kinds, notes.tasks, notes.labels, strict=True)]
        for total, (kind, task, labels) in zip(totals, samples, strict=True):
            for name in (BY_KIND + kind, BY_TASK + task):
                sums[name] = [sums[name][0] + total, sums[name][1] + labels]
        everywhere = [dict(sums)]
        if torch.distributed.is_initialized():
            everywhere = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everywhere, dict(sums))
        merged: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        for name, (total, labels) in (each for one in everywhere for each in one.items()):
            merged[name] = [merged[name][0] + total, merged[name][1] + labels]
        return {name: round(total / labels, 4) for name, (total, labels) in sorted(merged.items()) if labels}


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of logits `(N, V)` and labels `(N,)`, in fp32."""
    pieces = zip(logits.split(MEASURED_AT_ONCE), labels.to(logits.device).split(MEASURED_AT_ONCE), strict=True)
    losses = [torch.nn.functional.cross_entropy(each.float(), label, reduction="none") for each, label in pieces]
    return torch.cat(losses) if losses else logits.new_zeros(0, dtype=torch.float32)


def memory_in_use() -> float:
    """The most GB that the device, or else the process, has had since it began."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class PlainLines(TrainerCallback):
    """A line for each entry of the log: for a file, where a progress bar is of no use."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if "loss" in logs:
            done = max(1, state.global_step - self.first_step)
            left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
            print(line_of(logs, state.global_step, state.max_steps, left), file=sys.stderr, flush=True)
        elif any(name.startswith("eval_") for name in logs):
            measured = [
                f"{name.removeprefix('eval_')} {value:.4g}"
                for name, value in logs.items()
                if name.startswith("eval_") and isinstance(value, int | float)
            ]
            print(f"step {state.global_step} evaluated | {' | '.join(measured)}", file=sys.stderr, flush=True)


def line_of(logs: dict, step: int, steps: int, seconds_left: float) -> str:
    """An entry of the log as a line, and a second one for the groups where there are several."""
    parts = [f"step {step} of {steps}", f"loss {logs['loss']:.4g}"]
    for name, text in (
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("samples_per_second", "{:,.3g} samples/s"),
        ("memory_gb", "{:.2f} GB"),
    ):
        if name in logs:
            parts.append(text.format(logs[name]))
    parts.append(f"{duration(seconds_left)} left")
    for name, text in (("grad_norm", "gradient norm {:.3g}"), ("learning_rate", "rate {:.2e}")):
        if name in logs:
            parts.append(text.format(float(logs[name])))
    groups = []
    for prefix in (BY_KIND, BY_TASK):
        found = {name.removeprefix(prefix): value for name, value in logs.items() if name.startswith(prefix)}
        if 1 < len(found) <= MOST_TASKS:
            groups.append(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    if logs.get("left_out"):
        groups.append(f"{logs['left_out']} left out")
    return " | ".join(parts) + (f"\n    {' | '.join(groups)}" if groups else "")


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"


class LossProgress(ProgressCallback):
    """The library's progress bar with its time left, and the last losses beside it instead of a line for each."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            losses = {key: f"{float(logs[key]):.3f}" for key in ("loss", "eval_loss") if key in logs}
            self.training_bar.set_postfix(losses)
