r"""What 8-bit and 4-bit weights cost a trained model: its scores in full precision, and with the decoder's weights in fewer bits.

    make quantised MODEL=outputs/demo/model RECIPE=configuration/recipes/demo.yaml

prints the scores of the recipe's test split side by side. Only weights are quantised, by torchao: one scale for each output channel
(8 bits) or for each group of 32 weights of a channel (4 bits, where groups fit). Encoders, connectors and head keep full
precision: they are small, and the decoder cannot make up for their errors.
"""

import dataclasses

import torch
from torch import nn
from transformers import TorchAoConfig

from modeling_mmgpt import MMGPTForConditionalGeneration
from modeling_mmgpt.media_sources_mmgpt import import_optional
from training.data.training_set import load_mixture
from training.evaluation.evaluate import command_line, evaluate_samples
from training.evaluation.metrics import METRICS
from training.model_building import load_checkpoint
from training.recipe import EvaluationArguments, RecipeError, load_recipe


# Names from the root of the model; it need not have all of these parts.
FULL_PRECISION = [f"model.{kind}_{part}" for part in ("tower", "connector") for kind in ("vision", "audio")]
FULL_PRECISION += ["lm_head"]
GROUP = 32  # weights that share a scale at 4 bits


def weight_only(bits: int, model: nn.Module) -> TorchAoConfig:
    """To load `model` again with the decoder's weights in 8 or 4 bits; on every device, unlike torchao's fastest kernels."""
    torchao = import_optional("torchao.quantization", "torchao", "Quantising weights")
    if bits == 8:
        return TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=FULL_PRECISION)
    by_group = torchao.IntxWeightOnlyConfig(torch.int4, torchao.PerGroup(GROUP))
    by_channel = torchao.IntxWeightOnlyConfig(torch.int4, torchao.PerAxis(0))
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kinds = {name: by_channel if module.in_features % GROUP else by_group for name, module in linear.items()}
    return TorchAoConfig(torchao.FqnToConfig(kinds), modules_to_not_convert=FULL_PRECISION)


def compare(folder: str, samples: list[dict], arguments: EvaluationArguments) -> dict[str, dict]:
    """{"full" | "8 bits" | "4 bits": the scores of `evaluate_samples`}"""
    model, processor = load_checkpoint(folder)
    arguments = dataclasses.replace(arguments, baselines=False)  # the same for all precisions
    results = {}
    for name, bits in (("full", None), ("8 bits", 8), ("4 bits", 4)):
        if bits is not None:
            config = weight_only(bits, model)
            model = MMGPTForConditionalGeneration.from_pretrained(folder, quantization_config=config)
        results[name] = evaluate_samples(model, processor, samples, arguments)["tasks"]
    return results


def format_comparison(results: dict[str, dict]) -> str:
    """A line for each task, a column for each model."""
    lines = [f"{'task':<20}{'n':>7}  {'measure':<18}" + "".join(f"{name:>10}" for name in results)]
    for task, score in results["full"].items():
        measure = METRICS[score["metric"]].measure
        values = [scores[task][measure] for scores in results.values()]
        lines.append(f"{task:<20}{score['n']:>7}  {measure:<18}" + "".join(f"{value:>10.4f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__doc__)
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        samples = list(load_mixture(recipe.data.test, recipe.data.root))
        print(format_comparison(compare(arguments.model, samples, recipe.eval)))
    except (ImportError, FileNotFoundError, RecipeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
