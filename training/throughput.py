r"""Speed in Trainer's own log: tokens and samples per second, the share of tokens that stand for media, FLOP/s, and MFU where it
is known.

The work of a step is counted, not measured (Chowdhery et al. 2022, PaLM, appendix B), by what was computed:

    decoder               for each real token: 2 per weight forward, 2 per weight backward to the inputs, and 2 more per weight
                          that is trained. Embedding tables are looked up, not multiplied. Of a mixture's experts, the share
                          that a token goes to. Gated blocks count with the decoder.
    head                  the same for each token whose logits are worked out, tied or not
    connectors            the same for each of their vectors
    attention             for each pair of a query and a key that it may attend to (causal, in its own sample, in the window): 4 H E
                          forward, 8 H E backward, in each layer
    encoders              for each of their vectors: 2 per weight forward, and 4 more where the encoder is trained; their own
                          attention is left out. Convolutions do more than that.

What gradient checkpointing computes twice counts once. MFU is this work per second over the peak of the device in the
precision of the run, from its data sheet (dense); on any other device, and in fp32, there is none.
"""

import time
from functools import partial

import torch
from torch import nn
from transformers import TrainerCallback


# Dense bf16/fp16 FLOP/s with fp32 accumulation, from the data sheets; names as torch.cuda.get_device_name() begins.
PEAKS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}

BESIDE_THE_DECODER = ("vision_tower", "vision_connector", "audio_tower", "audio_connector")


def peak_flops(args) -> float | None:
    """Peak FLOP/s of one device of this run, or None where no data sheet states it."""
    if not torch.cuda.is_available() or args.use_cpu or not (args.bf16 or args.fp16):
        return None
    name = torch.cuda.get_device_name()
    longest = max((known for known in PEAKS if name.startswith(known)), key=len, default=None)
    return PEAKS.get(longest)


class Throughput(TrainerCallback):
    """Counts in hooks on the model, without synchronising the device, and adds to each log entry that has a loss."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.peak = peak_flops(args)
        self.config = base_model(model).config
        self.rates = flops_per_item(model, self.config)
        self.hooks = [base_model(model).register_forward_pre_hook(self.count_tokens, with_kwargs=True)]
        for name, module in base_model(model).model.named_children():
            if name in BESIDE_THE_DECODER:
                self.hooks.append(module.register_forward_hook(partial(self.count_vectors, name)))
        self.counts = {}
        self.tokens: torch.Tensor | int = 0  # of the whole run, or of the part since it was taken up again
        self.restart()

    def on_train_end(self, args, state, control, **kwargs):
        self.tokens = self.tokens + self.counts.get("tokens", 0)
        if torch.distributed.is_initialized():
            self.tokens = torch.as_tensor(self.tokens, device=args.device)
            torch.distributed.all_reduce(self.tokens)
        for hook in self.hooks:
            hook.remove()

    def restart(self, *args, **kwargs):
        self.tokens = self.tokens + self.counts.get("tokens", 0)
        self.counts: dict[str, torch.Tensor | int] = {}
        self.started = time.perf_counter()

    on_evaluate = on_save = restart  # their time is not training's

    def add(self, name: str, count) -> None:
        self.counts[name] = self.counts.get(name, 0) + count

    def count_tokens(self, module: nn.Module, args, kwargs) -> None:
        ids = kwargs.get("input_ids")
        if not module.training or ids is None:
            return
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if positions is None:
            positions = torch.ones_like(ids).cumsum(-1) - 1 if mask is None else mask.long().cumsum(-1) - 1
        is_real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        self.add("tokens", is_real.sum())
        only_learnt = kwargs.get("skip_logits") and kwargs.get("labels") is not None
        self.add("lm_head", (kwargs["labels"][:, 1:] != -100).sum() if only_learnt else is_real.sum())
        media = [getattr(self.config, f"{kind}_token_id") for kind in ("image", "video", "audio")]
        self.add("media", sum((ids == token).sum() for token in media if token is not None))
        text = self.config.get_text_config()
        window = getattr(text, "sliding_window", None)
        for kind in getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers:
            seen = positions + 1
            if kind == "sliding_attention" and window is not None:
                seen = seen.clamp(max=window)
            self.add("pairs", (seen * is_real).sum())

    def count_vectors(self, name: str, module: nn.Module, args, output) -> None:
        if module.training:
            vectors = output if torch.is_tensor(output) else output.last_hidden_state
            self.add(name, vectors.shape[:-1].numel() if vectors.ndim == 3 else 0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or "tokens" not in self.counts:
            return
        names = (*self.rates, "media", "samples")
        totals = torch.stack(
            [torch.as_tensor(self.counts.get(name, 0), device=args.device).double() for name in names]
        )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        seconds = time.perf_counter() - self.started
        counts = dict(zip(names, totals.tolist(), strict=True))
        work = sum(counts[name] * rate for name, rate in self.rates.items()) / seconds / args.world_size
        speed = {
            "tokens_per_second": round(counts["tokens"] / seconds, 1),
            "samples_per_second": round(counts["samples"] / seconds, 2),
            "media_share": round(counts["media"] / counts["tokens"], 3),
            "tflops_per_device": round(work / 1e12, 4),
        }
        if self.peak is not None:
            speed["mfu"] = round(work / self.peak, 4)
        logs.update(speed)
        state.log_history[-1].update(speed)
        self.restart()


def base_model(model: nn.Module):
    """The MMGPT model inside PEFT's and the launchers' wrappers."""
    return next(module for module in model.modules() if type(module).__name__ == "MMGPTForConditionalGeneration")


def flops_per_item(model: nn.Module, config) -> dict[str, float]:
    """FLOPs of a training step for each token ("tokens"), pair of tokens ("pairs"), token of the head, and vector of an encoder or
    connector."""
    rates = dict.fromkeys(("tokens", "pairs", *BESIDE_THE_DECODER, "lm_head"), 0.0)
    text = config.get_text_config()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    experts = getattr(text, "num_experts", None)
    for name, parameter in model.named_parameters():
        part = next((part for part in (*BESIDE_THE_DECODER, "lm_head") if part in name.split(".")), "tokens")
        if part == "tokens" and id(parameter) in tables:
            continue
        frozen = 2 if part.endswith("tower") else 4
        share = text.num_experts_per_tok / experts if experts and ".experts." in name else 1
        rates[part] += (6 if parameter.requires_grad else frozen) * parameter.numel() * share
    head = base_model(model).get_output_embeddings().weight
    if id(head) in tables:
        rates["lm_head"] += (6 if head.requires_grad else 4) * head.numel()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rates["pairs"] = 12.0 * text.num_attention_heads * width
    return rates
