r"""Whether a step may be taken: its losses and gradients are finite and some token of it is learnt from, in all processes.

Gradients that overflow in fp16 are left to the loss scaler, which leaves out the step and lowers the scale, unless it does
nothing else any more.
"""

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.data.batches import Notes
from training.data.samples import LeftOut
from training.stopping import RunFailed


NAMED_AT_MOST = 20  # samples in an error
SKIPPED_AT_MOST = 32  # steps in a row that overflow in fp16: every loss scale was tried by then
EMPTY_AT_MOST = 10  # steps in a row of which every sample was left out

LOSS = "the loss is NaN or infinite"
LABELS = "no token of the batch has a label, so that there is no loss"
EMPTY = f"for the {EMPTY_AT_MOST + 1}th time in a row every sample of the batch is left out"
GRADIENTS = "the gradients are NaN or infinite, though the loss is finite"
SKIPPED = f"the gradients overflow in fp16 for the {SKIPPED_AT_MOST + 1}th time in a row, whatever the loss scale"
WAYS_OUT = {  # the first in which any process is, is what is said of the step
    LOSS: "look at these samples, or lower training.learning_rate or training.max_grad_norm",
    LABELS: "give them an answer, leave them out, or raise sequence.max_length",
    EMPTY: "bring the data back",
    SKIPPED: "train in bf16 (training.bf16=true), or look at these samples",
    GRADIENTS: "look at these samples, or lower training.learning_rate or training.max_grad_norm",
}


class StepChecks:
    """What goes into a step, noted as it is computed, until it is checked.

    left_out (`LeftOut`): to which the samples are added that no batch could be made of."""

    def __init__(self, left_out: LeftOut):
        self.left_out, self.left_out_before = left_out, len(left_out.names)
        self.left_out_of_stream = 0
        self.micro_batches: list[tuple[torch.Tensor, Notes]] = []
        self.skipped, self.empty = 0, 0  # steps in a row

    def add(self, loss: torch.Tensor, notes: Notes) -> None:
        self.micro_batches.append((loss, notes))
        self.left_out_of_stream += notes.left_out_before
        for name, problem in notes.left_out:
            self.left_out.add(name, problem)

    def count_left_out(self, device: torch.device) -> int:
        """How many samples and files could not be used, in all processes."""
        here = len(self.left_out.names) - self.left_out_before + self.left_out_of_stream
        return self.left_out_before + int(total(here, device))

    def check(self, step: int, norm, learnt_tokens, model: nn.Module, device: torch.device, scales_loss: bool) -> None:
        """Raises `RunFailed`, in each process with the same sentence.

        norm (`float` or `torch.Tensor`, *optional*): of the gradients.
        learnt_tokens (`int` or `torch.Tensor`, *optional*): those that have a label, of all processes."""
        micro_batches, self.micro_batches = self.micro_batches, []
        finite = torch.stack([loss for loss, _ in micro_batches]).isfinite().tolist()
        spoilt = [notes for (_, notes), is_finite in zip(micro_batches, finite, strict=True) if not is_finite]
        other = self.other_trouble(norm, learnt_tokens, micro_batches, device, scales_loss)
        trouble = LOSS if spoilt else other
        if not total(trouble is not None, device):
            return
        names = [name for notes in spoilt or [notes for _, notes in micro_batches] for name in notes.names]
        everyone = gather((trouble, names, not_finite(model)))
        said = next(one for one in WAYS_OUT if any(one == other for other, _, _ in everyone))
        concerned = [(process, names) for process, (what, names, _) in enumerate(everyone) if what == said]
        names = [name for _, listed in concerned for name in listed]
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        weights = next((listed for _, _, listed in everyone if listed), [])
        since = f" Weights are so since an earlier step: {named(weights)}." if weights else ""
        processes = ", ".join(f"process {process}" for process, _ in concerned)
        raise RunFailed(
            f"step {step}, {processes}: {said}. The samples of the batch: {', '.join(names[:NAMED_AT_MOST])}{more}.{since} Nothing of "
            f"this step was learnt, and earlier checkpoints are as they were: {WAYS_OUT[said]}."
        )

    def other_trouble(self, norm, learnt_tokens, micro_batches, device, scales_loss: bool) -> str | None:
        """What can be wrong with a step whose losses are finite here."""
        overflows = norm is not None and not math.isfinite(norm)
        self.skipped = self.skipped + 1 if overflows and scales_loss else 0
        if learnt_tokens is None or learnt_tokens > 0:
            self.empty = 0
        elif not total(any(notes.left_out for _, notes in micro_batches), device):
            return LABELS
        else:
            self.empty += 1
        if self.empty > EMPTY_AT_MOST:
            return EMPTY
        if self.skipped > SKIPPED_AT_MOST:
            return SKIPPED
        return GRADIENTS if overflows and not scales_loss else None


def not_finite(model: nn.Module) -> list[str]:
    """Weights that are NaN or infinite and saved buffers that are NaN: of sharded ones, the part of this process."""
    found = []
    for prefix, module in model.named_modules():
        buffers = dict(module.named_buffers(recurse=False))
        saved = {name: buffers[name] for name in buffers.keys() - module._non_persistent_buffers_set}
        for name, one in (*module.named_parameters(recurse=False), *saved.items()):
            one = one.to_local() if isinstance(one, DTensor) else one
            if (one.isnan() if name in saved else ~one.isfinite()).any():
                found.append(f"{prefix}.{name}")
    return found


def named(weights: list[str]) -> str:
    return weights[0] + (f" and {len(weights) - 1} more" if len(weights) > 1 else "")


def total(number: float, device: torch.device) -> float:
    """The sum over all processes; each must ask."""
    if not torch.distributed.is_initialized():
        return float(number)
    count = torch.tensor(float(number), device=device)
    torch.distributed.all_reduce(count)
    return count.item()


def gather(mine) -> list:
    """What each process has, in the order of the processes; each must ask."""
    if not torch.distributed.is_initialized():
        return [mine]
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone
