"""Decoders of other families: any causal decoder that transformers builds, unchanged, in the place of ours.

What differs between families and is not inside their base model: the name of the embeddings, and what is done to the logits.
"""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from .modeling_mmgpt_text import MMGPTTextModel


def build_decoder(config) -> PreTrainedModel:
    return MMGPTTextModel._from_config(config) if config.model_type == "mmgpt_text" else AutoModel.from_config(config)


def tied_head(model: PreTrainedModel) -> dict[str, str]:
    """Which parameter the head shares when it is tied to the embeddings, under the decoder's own name for them."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    return {"lm_head.weight": f"{name}.weight"}


def finish_logits(logits: torch.Tensor, config) -> torch.Tensor:
    """What some families do to their logits behind the head; ours and most others do nothing."""
    if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (bound := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = nn.functional.tanh(logits / bound) * bound
    return logits


__all__ = ["build_decoder", "finish_logits", "tied_head"]
