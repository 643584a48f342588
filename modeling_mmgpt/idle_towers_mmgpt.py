"""Training with several processes, one of which has no image, or no sound, in its batch.

Its tower would get no gradient there while the other processes wait for it: DistributedDataParallel fails, FSDP and ZeRO-3 hang
(DeepSpeed#7170, trl#6617). The cure is the smallest input that the tower takes, whose features are added with weight zero: every
parameter then gets a gradient, of zero.
"""

import torch
from torch import nn


def trains_with_others(*parts: nn.Module) -> bool:
    """Whether gradients of `parts` are about to be computed here and gathered from other processes."""
    distributed = torch.distributed
    return (
        torch.is_grad_enabled()
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and any(parameter.requires_grad for part in parts for parameter in part.parameters())
    )


def with_zero_weight(features: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
    return inputs_embeds + 0.0 * features.mean().to(inputs_embeds.dtype)


__all__ = ["trains_with_others", "with_zero_weight"]
