r"""Checkpoints of the GPT line -> MMGPT, and back.

    model = from_gpt("openai-community/gpt2")            # a folder, a Hub id, or a model of transformers
    gpt2 = to_gpt(model, "gpt2")                         # the class of transformers, for every tool that knows it
    convert_checkpoint("Qwen/Qwen3-0.6B", "my-qwen")     # folder to folder, with the tokenizer; to="qwen3" goes back

What a family's tensors and fields are called stands in tools/families.py; here they are read and written.
Weights are read one tensor at a time into the finished model: beside it there is never more than one shard in memory.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from ..configuration_mmgpt import MMGPTTextConfig
from ..modeling_mmgpt_text import MMGPTForCausalLM
from ..saving_mmgpt import atomic_folder
from .checkpoints import load_whole, save_checkpoint
from .families import COMPUTED_BUFFERS, FAMILIES, Family
from .layouts import Weight


# In the order in which they are looked for: the index of several files stands before the single file.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# Fields that no logit depends on: a family that lacks them still has the same model.
TRAINING_FIELDS = {
    "attention_dropout",
    "embedding_dropout",
    "residual_dropout",
    "initializer_range",
    "scale_residual_init",
    "use_cache",
    "output_router_logits",
    "router_aux_loss_coef",
}


# Configurations ----------------------------------------------------------------------------------------------------


def family_of(model_type: str) -> Family:
    if model_type not in FAMILIES:
        raise ValueError(
            f"There is no conversion for model_type {model_type!r}; the families are {', '.join(FAMILIES)}. Any other causal "
            "decoder of transformers can be the decoder of a multimodal model as it is: give its config as text_config."
        )
    return FAMILIES[model_type]


def config_from_gpt(theirs: PreTrainedConfig) -> MMGPTTextConfig:
    """Our configuration of their model."""
    family = family_of(theirs.model_type)
    for name, value in family.required.items():
        if getattr(theirs, name) != value:
            raise ValueError(
                f"This {theirs.model_type} checkpoint has {name}={getattr(theirs, name)!r}; our decoder supports only "
                f"{name}={value!r}."
            )
    renamed = {ours: getattr(theirs, name) for ours, name in family.fields.items()}
    return MMGPTTextConfig(**family.fixed, **renamed, **family.to_ours(theirs))


def config_to_gpt(ours: MMGPTTextConfig, model_type: str) -> PreTrainedConfig:
    """Their configuration of our model. What it has no field for is found by converting it back, and refused."""
    family = family_of(model_type)
    refuse_losses({name: (comparable(ours, name), value) for name, value in family.fixed.items()}, model_type)
    renamed = {name: getattr(ours, our_name) for our_name, name in family.fields.items()}
    theirs = transformers.CONFIG_MAPPING[model_type](**renamed, **family.required, **family.to_theirs(ours))
    theirs.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    read_back = config_from_gpt(theirs)
    names = [item.name for item in fields(MMGPTTextConfig) if item.name in MMGPTTextConfig.__annotations__]
    refuse_losses({name: (comparable(ours, name), comparable(read_back, name)) for name in names}, model_type)
    return theirs


def refuse_losses(values: dict[str, tuple], model_type: str) -> None:
    """`values`: of each of our fields, what the model has and what the family would make of it."""
    lost = [
        f"{name} is {mine!r}, the family has {family!r}"
        for name, (mine, family) in values.items()
        if mine != family and name not in TRAINING_FIELDS
    ]
    if lost:
        raise ValueError(f"This model is no {model_type}: {'; '.join(lost)}.")


def comparable(config: MMGPTTextConfig, name: str):
    value = getattr(config, name)
    if name == "rope_parameters" and value:
        return {"partial_rotary_factor": 1.0, **value}
    if name == "attention_scale" and value is None:
        return config.head_dim**-0.5
    return value


# Weights -----------------------------------------------------------------------------------------------------------


def weight_files(source: str) -> list[str]:
    """The files with the weights of a folder or a Hub repository, downloaded if need be."""
    for name in WEIGHT_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            return get_checkpoint_shard_files(source, file)[0] if name.endswith(".index.json") else [file]
    raise FileNotFoundError(f"{source} has none of {', '.join(WEIGHT_FILES)}: it holds no weights.")


def read_tensors(file: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of one file, one after the other, each read when it is asked for."""
    if file.endswith(".safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield name, tensors.get_tensor(name)
    else:
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def find_rule(model_type: str, name: str) -> tuple[Weight, list[str]]:
    """The rule for the family's tensor `name`, and what its wildcards stand for."""
    family = FAMILIES[model_type]
    for candidate in (name, family.prefix + name):
        for rule in family.weights:
            wildcards = rule.match(candidate)
            if wildcards is not None:
                return rule, wildcards
    raise ValueError(
        f"The tensor {name!r} belongs to no part of {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]}: the checkpoint is of another class, such as a "
        "classifier, or of a newer form of the family."
    )


def fill_ours(model: MMGPTForCausalLM, model_type: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copies their tensors into our model one by one, and makes sure that every parameter of ours was filled."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unfilled = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tied = {name: source for name, source in model.all_tied_weights_keys.items() if name in parameters}
    for name, tensor in tensors:
        if COMPUTED_BUFFERS.fullmatch(name):
            continue
        rule, wildcards = find_rule(model_type, name)
        for our_name, piece in zip(rule.our_names(wildcards), rule.layout.split(tensor, model.config), strict=True):
            if our_name not in parameters:
                raise ValueError(
                    f"{name!r} has no place in the model: {our_name} does not exist in its configuration."
                )
            place = parameters[our_name].data
            if rule.place is not None:
                place = rule.place(place, int(wildcards[-1]))
            if place.shape != piece.shape:
                raise ValueError(
                    f"{name!r} of shape {tuple(tensor.shape)} does not fit {our_name}, which is {tuple(place.shape)}: "
                    "the weights are not those of the configuration."
                )
            place.copy_(piece)
            if our_name not in tied:
                unfilled[our_name] -= piece.numel()
    missing = sorted(name for name, count in unfilled.items() if count > 0)
    if missing:
        raise ValueError(f"The checkpoint has no weights for {', '.join(missing)}.")


def empty_model(model_class: type, config: PreTrainedConfig, dtype: torch.dtype | None) -> PreTrainedModel:
    """A model whose parameters are allocated and not initialised."""
    with no_init_weights():
        model = model_class._from_config(config, dtype=dtype)
    model.tie_weights()
    return model.eval()


# Models and folders ------------------------------------------------------------------------------------------------


def from_gpt(source: str | os.PathLike | PreTrainedModel, dtype: torch.dtype | None = None) -> MMGPTForCausalLM:
    """Our decoder with the weights of one of the families of tools/families.py, from GPT to Qwen3-MoE: the same logits.

    Args:
        source: a folder with a checkpoint, the id of one on the Hub, or a model of transformers (which is copied).
        dtype: of the new model's weights. `None`: as the source's configuration says, else float32.
    """
    is_model = isinstance(source, PreTrainedModel)
    source = source if is_model else os.fspath(source)
    theirs = source.config if is_model else AutoConfig.from_pretrained(source)
    config = config_from_gpt(theirs)
    model = empty_model(MMGPTForCausalLM, config, dtype or config.dtype or torch.float32)
    tensors = source.state_dict().items() if is_model else chain.from_iterable(map(read_tensors, weight_files(source)))
    with torch.no_grad():
        fill_ours(model, theirs.model_type, tensors)
    model.generation_config = generation_config_of(source)
    return model


def to_gpt(model: MMGPTForCausalLM, model_type: str) -> PreTrainedModel:
    """The model as transformers' own class of a family (`"gpt2"`, `"llama"`, ...), for tools that know only those.

    Refused where the family lacks one of the model's choices, which the error names."""
    config = config_to_gpt(model.config, model_type)
    theirs = empty_model(getattr(transformers, config.architectures[0]), config, model.dtype)
    tensors = model.state_dict()
    with torch.no_grad():
        for name, place in theirs.state_dict().items():
            rule, wildcards = find_rule(model_type, name)
            pieces = [tensors[our_name] for our_name in rule.our_names(wildcards)]
            place.copy_(rule.layout.join(pieces, model.config))
    theirs.generation_config = GenerationConfig.from_dict(model.generation_config.to_dict())
    return theirs


def generation_config_of(source: str | PreTrainedModel) -> GenerationConfig:
    if isinstance(source, PreTrainedModel):
        if not source.can_generate():
            return GenerationConfig.from_model_config(source.config)
        return GenerationConfig.from_dict(source.generation_config.to_dict())
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(source))


def convert_checkpoint(
    source: str | os.PathLike, destination: str | os.PathLike, to: str = "mmgpt", dtype: torch.dtype | None = None
) -> Path:
    """Folder (or Hub id) to folder, with the tokenizer: a family's checkpoint into our form, or ours into a family's.

    Args:
        source: a checkpoint of one of the families; with `to` naming a family, one of MMGPTForCausalLM.
        destination: the new folder. In our form it holds the code that loads it, too.
        to: `"mmgpt"`, or the family to go back to (`"gpt2"`, `"llama"`, ...).
        dtype: of the new weights. `None`: that of the source.
    """
    source, destination = os.fspath(source), Path(destination)
    if to != "mmgpt":
        family_of(to)  # refused before anything is read
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} has no tokenizer that transformers can load, so a folder made from it could read no text. "
            "To convert the weights alone use from_gpt or to_gpt, and save_pretrained."
        ) from error
    kind = AutoConfig.from_pretrained(source).model_type
    if to == "mmgpt":
        card = {"training": f"The weights are those of {Path(source).name} ({kind}), in the form of MMGPT."}
        return save_checkpoint(destination, from_gpt(source, dtype), tokenizer, card)
    if kind != MMGPTTextConfig.model_type:
        raise ValueError(f"{source} is a {kind}: only a model of MMGPTForCausalLM can become a {to}.")
    theirs = to_gpt(load_whole(MMGPTForCausalLM, source, dtype=dtype or "auto"), to)
    with atomic_folder(destination) as folder:
        tokenizer.save_pretrained(folder)
        theirs.save_pretrained(folder)
    return destination
