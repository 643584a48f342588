r"""What a run trains: the parts that a stage does not freeze, and PEFT's adapters.

model = prepare_model(model, "align")  # frozen as the stage wants, adapters added
"""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from modeling_mmgpt import MMGPTForConditionalGeneration
from training.recipe import TRAINED_PARTS, RecipeError, Stage, mergeable_peft_types


# All that is new when pretrained parts are put together: between encoders and decoder, and the gated blocks inside the decoder.
CONNECTORS = ("vision_connector", "audio_connector", "tile_embedding", "cross_block")


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to, by its name, inside PEFT's wrappers or not."""
    pieces = set(name.split("."))
    for tower in ("vision_tower", "audio_tower"):
        if tower in pieces:
            return tower
    return "connectors" if pieces.intersection(CONNECTORS) else "decoder"


def prepare_model(model: MMGPTForConditionalGeneration, stage: Stage, peft: dict | None = None) -> PreTrainedModel:
    """The model with all parameters frozen but those that the stage trains, in a PeftModel where there are fields of `peft`."""
    if stage in TRAINED_PARTS:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in TRAINED_PARTS[stage])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(f"Stage {stage!r} has nothing to train: the model {model.name_or_path!r} has no connectors.")
    return model if peft is None else add_adapter(model, peft)


def add_adapter(model: PreTrainedModel, fields: dict):
    """PEFT's adapters in the decoder's matrices, unless the fields name others, and the connectors trained as they are."""
    from peft import get_peft_model

    config_class = mergeable_peft_types()[str(fields["peft_type"]).upper()]
    fields = {"task_type": "CAUSAL_LM", **{key: value for key, value in fields.items() if key != "peft_type"}}
    config = config_class(**fields)
    if getattr(config, "target_modules", "") is None:
        config.target_modules = decoder_matrices(model)
    if getattr(config, "modules_to_save", "") is None:
        there = {name.split(".")[-1] for name, _ in model.named_modules()}
        config.modules_to_save = [name for name in CONNECTORS if name in there] or None
    base = Path(model.name_or_path)
    # The note by which the adapter finds its base again, from any folder.
    config.base_model_name_or_path = str(base.resolve()) if base.is_dir() else model.name_or_path
    return get_peft_model(model, config)


def decoder_matrices(model: PreTrainedModel) -> str:
    """A pattern for PEFT that fits the linear layers of the decoder itself: none in the encoders, nor in gated blocks."""
    decoder = model.model.language_model
    names = {name.split(".")[-1] for name, module in decoder.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return rf"(?!.*\bcross_block\b).*\blanguage_model\..*\.({'|'.join(sorted(names))})"
