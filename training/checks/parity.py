r"""Is our decoder the same function as transformers' own classes? One line for each family of the GPT line.

    python -m training.checks.parity          # prints the table in Markdown

Every family gets a tiny model of transformers with random values in every parameter, norms and biases included; it is converted
to ours and back. tests/test_convert.py asserts the same numbers.
"""

from typing import NamedTuple

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from modeling_mmgpt import MMGPTForCausalLM
from modeling_mmgpt.layers_mmgpt import CACHE
from modeling_mmgpt.tools.convert import from_gpt, to_gpt


TOLERANCE = 1e-4  # largest difference of a logit, float32
NEW_TOKENS = 64

OPENAI = dict(
    n_embd=48, n_layer=4, n_head=4, n_positions=128, layer_norm_epsilon=1e-3, resid_pdrop=0.05, initializer_range=0.03
)
SIZES = dict(num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=128)
NEOX = SIZES | dict(hidden_size=64, intermediate_size=96)
LLAMA = SIZES | dict(hidden_size=48, intermediate_size=80, num_key_value_heads=2, rms_norm_eps=1e-5)
QWEN3 = LLAMA | dict(head_dim=16, max_window_layers=4)
NEO = dict(
    hidden_size=48,
    num_layers=4,
    num_heads=4,
    max_position_embeddings=128,
    attention_types=[[["global", "local"], 2]],
    window_size=6,
)
LINEAR = dict(rope_type="linear", rope_theta=1e4, factor=2.0)
DYNAMIC = dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, original_max_position_embeddings=16)
LLAMA3 |= dict(low_freq_factor=1.0, high_freq_factor=4.0)
LONGROPE = dict(rope_type="longrope", rope_theta=1e4, factor=4.0, original_max_position_embeddings=40)
LONGROPE |= dict(short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5], long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
QWEN3_MOE = LLAMA | dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, head_dim=16)
# Name in the table: family, and configuration where it differs from the family's defaults.
MODELS = {
    "openai-gpt": ("openai-gpt", OPENAI),
    "gpt2": ("gpt2", OPENAI | dict(n_inner=96)),
    "gpt_neo": ("gpt_neo", NEO),
    "gptj": ("gptj", OPENAI | dict(rotary_dim=8)),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox, sequential": ("gpt_neox", NEOX | dict(use_parallel_residual=False, attention_bias=False)),
    "llama": ("llama", LLAMA),
    "llama 3, biases": (
        "llama",
        LLAMA | dict(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, head_dim=16),
    ),
    "llama, linear": ("llama", LLAMA | dict(rope_parameters=LINEAR)),
    # The greedy texts of these two grow past the length at which their RoPE frequencies change.
    "llama, dynamic": ("llama", LLAMA | dict(max_position_embeddings=40, rope_parameters=DYNAMIC)),
    "llama, longrope": ("llama", LLAMA | dict(rope_parameters=LONGROPE)),
    "mistral": ("mistral", LLAMA | dict(head_dim=16, sliding_window=6)),
    "qwen2": ("qwen2", LLAMA | dict(tie_word_embeddings=True, max_window_layers=4)),
    "qwen2, sliding": ("qwen2", LLAMA | dict(use_sliding_window=True, sliding_window=6, max_window_layers=2)),
    "qwen3": ("qwen3", QWEN3),
    "qwen3, yarn": ("qwen3", QWEN3 | dict(rope_parameters=YARN)),
    "mixtral": ("mixtral", LLAMA | dict(num_local_experts=6, num_experts_per_tok=2, router_aux_loss_coef=0.02)),
    "mixtral, sliding": ("mixtral", LLAMA | dict(num_local_experts=4, sliding_window=6, head_dim=16)),
    "qwen3_moe": ("qwen3_moe", QWEN3_MOE | dict(mlp_only_layers=[1], norm_topk_prob=True)),
    "qwen3_moe, own weights": (
        "qwen3_moe",
        LLAMA | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=False),
    ),
}
TOKENS = {"vocab_size": 199, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "dtype": "float32"}


class Parity(NamedTuple):
    """Largest differences of logits in float32; True where what must be identical is."""

    logits: float
    left_padding: float
    right_padding: float
    cached: float
    greedy: bool
    weights_back: bool
    config_back: bool

    @property
    def passed(self) -> bool:
        differences = (self.logits, self.left_padding, self.right_padding, self.cached)
        return max(differences) <= TOLERANCE and self.greedy and self.weights_back and self.config_back


@torch.no_grad()
def random_model(model_type: str, options: dict, seed: int = 0) -> PreTrainedModel:
    """A model of transformers in which no parameter has the value of its initialisation."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[model_type](**TOKENS | options)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
        else:
            parameter.normal_(std=0.2)
    return model


def random_ids(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(10, TOKENS["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def largest(difference: torch.Tensor) -> float:
    return difference.abs().max().item()


@torch.no_grad()
def compare(theirs: PreTrainedModel, ours: MMGPTForCausalLM) -> dict[str, float]:
    """Largest difference of a logit: whole sequences, with padding on either side, and continued from a cache."""
    ids = random_ids(3, 24)
    found = {"logits": largest(theirs(ids).logits - ours(ids).logits)}
    for side in ("left", "right"):
        mask = torch.ones_like(ids)
        for sequence, padding in enumerate((0, 5, 11)):
            mask[sequence, slice(0, padding) if side == "left" else slice(24 - padding, 24)] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        # Without position ids their positions count padding too; generate() passes these ids.
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
        actual = ours(ids, attention_mask=mask).logits
        found[f"{side}_padding"] = largest((expected - actual)[mask.bool()])
    first = ours(ids[:, :16], use_cache=True)
    rest = [ours(ids[:, 16:17], use_cache=True, **{CACHE: first[CACHE]})]
    rest.append(ours(ids[:, 17:], use_cache=True, **{CACHE: rest[0][CACHE]}))
    found["cached"] = largest(theirs(ids).logits[:, 16:] - torch.cat([step.logits for step in rest], 1))
    return found


def same_weights(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    mine, others = model.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def measure(name: str) -> Parity:
    model_type, options = MODELS[name]
    theirs = random_model(model_type, options)
    ours = from_gpt(theirs)
    back = to_gpt(ours, model_type)
    ids = random_ids(2, 8, seed=2)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    texts = [model.generate(ids, do_sample=False, **options) for model in (theirs, ours)]
    configs = [model.config.to_dict() | {"architectures": None} for model in (theirs, back)]
    return Parity(
        **compare(theirs, ours),
        greedy=torch.equal(*texts),
        weights_back=same_weights(theirs, back),
        config_back=configs[0] == configs[1],
    )


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU\n")
    columns = ("logits", "left padding", "right padding", "cached", "greedy, 64 tokens", "weights back", "config back")
    print(f"| model | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    failed = []
    for name in MODELS:
        parity = measure(name)
        cells = [("DIFFERENT", "same")[value] if isinstance(value, bool) else f"{value:.1e}" for value in parity]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
        if not parity.passed:
            failed.append(name)
    if failed:
        raise SystemExit(f"not equal within {TOLERANCE}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
