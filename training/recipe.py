r"""A recipe: one YAML file that describes a whole training run, and `key.sub=value` overrides on top of it.

    recipe = load_recipe("configuration/recipes/fsdd.yaml", ["data.root=/elsewhere", "training.max_steps=10"])

The sections are the dataclasses of recipe_sections.py; `training` takes every field of transformers' TrainingArguments as it is.
What `load_recipe` returns is resolved: presets are read and merged, every default is filled in, all names and rules are checked.
Code that takes a recipe reads values and checks nothing again.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import yaml
from transformers import TrainingArguments

from training.recipe_files import (
    CONFIGURATION,
    RecipeError,
    apply_override,
    check_keys,
    check_name,
    read_yaml,
    valid_name,
    without_words,
    write_atomically,
)
from training.recipe_sections import (
    AugmentationArguments,
    DataArguments,
    EvaluationArguments,
    LearningRateArguments,
    ModelArguments,
    PrepareArguments,
    SequenceArguments,
    SourceArguments,
    TokenizerArguments,
    field_names,
)
from training.recipe_types import Amount, Count, Share, Whole, build, typed


# What a run of ours needs where TrainingArguments has another default; a recipe may still set each of them.
TRAINING_DEFAULTS = {
    "remove_unused_columns": False,  # the samples' media columns are no arguments of the model's forward
    "prediction_loss_only": True,  # during training only the loss is evaluated: training/evaluation/evaluate.py generates
    "use_cpu": not torch.accelerator.is_available(),  # explicit, since TrainingArguments refuses bf16 otherwise
    "dataloader_pin_memory": torch.accelerator.is_available(),  # true only warns on a machine without one
    "logging_nan_inf_filter": False,  # true shows a NaN loss as 0
    "save_strategy": "no",  # the finished model is saved as one complete folder by save_checkpoint
    "save_total_limit": 2,  # checkpoints of a run are there to continue it: the last one, and one before
    "resume_from_checkpoint": True,  # from the last checkpoint in output_dir; from the beginning where there is none
}
# Types of its fields that take more or less than their annotations say.
TRAINING_TYPES = {
    "resume_from_checkpoint": str | bool | None,
    "max_steps": Annotated[int, (-1, math.inf)],
    "eval_steps": Amount | None,
    **dict.fromkeys(("seed", "dataloader_num_workers"), Whole),
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), Count
    ),
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "num_train_epochs"), Amount),
    **dict.fromkeys(("warmup_steps", "logging_steps", "save_steps"), Amount),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), Share),
}

Stage = Literal["pretrain", "align", "finetune"]
# Parts of the model that a stage trains; "finetune" trains all of them.
TRAINED_PARTS = {"pretrain": ("decoder",), "align": ("connectors",)}


@dataclass
class Recipe:
    """One training run.

    stage: `"pretrain"`: the decoder alone, on plain text: no chat template, packed, a loss on every token;
        `"align"`: connectors alone, between frozen pretrained parts (LLaVA's first stage, Liu et al. 2023);
        `"finetune"`: conversations, every part.
    peft: a config of PEFT by its own field names, `peft_type` first (`{peft_type: LORA, r: 16}`); only these adapters and
        the connectors are then trained, and the merged model is saved beside the adapter.
    """

    name: str
    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    stage: Stage = "finetune"
    peft: dict[str, Any] | None = None
    learning_rates: LearningRateArguments = field(default_factory=LearningRateArguments)
    sequence: SequenceArguments = field(default_factory=SequenceArguments)
    tokenizer: TokenizerArguments = field(default_factory=TokenizerArguments)
    augment: AugmentationArguments = field(default_factory=AugmentationArguments)
    eval: EvaluationArguments = field(default_factory=EvaluationArguments)
    prepare: PrepareArguments = field(default_factory=PrepareArguments)

    def to_yaml(self) -> str:
        """What a recipe file holds, every default filled in; of TrainingArguments only what differs from its defaults."""
        tree = dataclasses.asdict(dataclasses.replace(self, training=None))
        del tree["name"]  # that of the file
        plain = plain_training_arguments(self.training.use_cpu)
        tree["training"] = {key: value for key, value in self.training.to_dict().items() if value != plain[key]}
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)

    def write(self, path: Path) -> None:
        """A file that training/train.py takes again."""
        write_atomically(path, self.to_yaml())


SECTIONS = {
    item.name: item.type
    for item in dataclasses.fields(Recipe)
    if dataclasses.is_dataclass(item.type) and item.type is not TrainingArguments
}


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file, lay the `key.sub=value` overrides over it, resolve and check it."""
    tree = read_yaml(path, listed_in=CONFIGURATION / "recipes")
    for override in overrides or []:
        apply_override(tree, override)
    return build_recipe(tree, name=Path(path).stem, place=str(path))


def build_recipe(tree: dict, name: str, place: str) -> Recipe:
    """Turn nested dicts into a resolved `Recipe`; `place` names their origin in errors."""
    try:
        check_keys(tree, [*SECTIONS, "training", "stage", "peft"], "")
        sections = build_sections(tree)
        training = TRAINING_DEFAULTS | {"output_dir": f"outputs/{name}"}
        if sections[
            "data"
        ].streaming:  # the checkpoint knows the place in the stream: nothing is read again to get there
            training["ignore_data_skip"] = True
        training |= section_of(tree, "training")
        training["use_cpu"] = typed(training["use_cpu"], bool, "training.use_cpu")
        plain_training_arguments(training["use_cpu"])  # before the recipe's own
        sections["training"] = build(TrainingArguments, training, "training", TRAINING_TYPES)
        values = {"stage": tree.get("stage"), "peft": section_of(tree, "peft") or None}
        given = {key: without_words(value) for key, value in values.items() if value is not None}
        recipe = Recipe(name=name, **sections, **given)
        check_stage(recipe)
        check_training(recipe)
        if recipe.peft is not None:
            check_peft(recipe.peft)
        return recipe
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None


def section_of(tree: dict, key: str) -> dict:
    """A section as the file has it, empty where it has none."""
    section = tree.get(key) or {}
    check_keys(section, section, key)
    return section


def build_sections(tree: dict) -> dict[str, Any]:
    """Every section but `training`, resolved."""
    tree = {key: section_of(tree, key) for key in SECTIONS}
    augment = dataclasses.asdict(build(AugmentationArguments, tree["augment"], "augment"))
    data = dict(tree["data"])
    for split in ("train", "validation", "test"):
        listed = data.get(split) or []
        if not isinstance(listed, list):
            raise RecipeError(f"`data.{split}` is {listed!r}; it must be a list of sources, each `- format: NAME`.")
        sources = data[split] = []
        for i, section in enumerate(listed):
            where = f"data.{split}.{i}"
            check_keys(section, field_names(SourceArguments), where)
            source = build(SourceArguments, {"split": split} | section, where)
            changes = augment | typed(source.augment or {}, dict, f"{where}.augment")
            source.augment = build(AugmentationArguments, changes, f"{where}.augment")
            sources.append(source)
    return {key: build(SECTIONS[key], section, key) for key, section in (tree | {"data": data}).items()}


def check_stage(recipe: Recipe) -> None:
    """What a stage cannot do, with the way out."""
    stage = recipe.stage
    check_name("stage", stage, get_args(Stage))
    trained = TRAINED_PARTS.get(stage, tuple(field_names(LearningRateArguments)))
    idle = [part for part in recipe.learning_rates.given() if part not in trained]
    if idle:
        raise RecipeError(f"learning_rates.{idle[0]} is set, but stage {stage!r} trains only the {trained[0]}.")
    if recipe.model.checkpoint is None and (stage == "align" or recipe.peft is not None):
        what = "stage 'align' trains only connectors" if stage == "align" else "peft trains only adapters"
        raise RecipeError(f"{what}, but model.preset starts from random weights: set model.checkpoint.")
    if stage == "align" and recipe.peft is not None:
        raise RecipeError("stage 'align' trains only connectors: leave peft out, or take stage 'finetune'.")
    if stage == "pretrain" and recipe.sequence.max_length is not None:
        raise RecipeError("stage 'pretrain' cuts nothing off: set sequence.pack_to in place of max_length.")
    augments = [recipe.augment, *(source.augment for source in recipe.data.train)]
    if stage == "pretrain" and any(augment != AugmentationArguments() for augment in augments):
        raise RecipeError("stage 'pretrain' reads text alone: leave augment out.")


def check_training(recipe: Recipe) -> None:
    """The rules that concern `training` or the sources beside other keys."""
    if recipe.data.streaming and recipe.training.max_steps <= 0:
        raise RecipeError("data.streaming has no end: set training.max_steps.")
    if recipe.data.block is not None and recipe.training.train_sampling_strategy != "sequential":
        raise RecipeError("data.block sets an order: add training.train_sampling_strategy: sequential.")
    if recipe.training.remove_unused_columns:
        raise RecipeError("training.remove_unused_columns must be false, else images and audio are dropped.")
    found: dict[str, AugmentationArguments] = {}
    for source in recipe.data.train:
        if found.setdefault(source.task, source.augment) != source.augment:
            raise RecipeError(
                f"two sources are called {source.task!r} and have different `augment`: give them a `name` each."
            )


def check_peft(section: dict) -> None:
    """Refuse what the PEFT config of this `peft_type` does not have, and types whose result is no model of its own."""
    types = mergeable_peft_types()
    name = str(section.get("peft_type", "")).upper()
    if name not in types:
        way_out = f"{valid_name(name, types)}. These can be merged into the model: {', '.join(types)}"
        raise RecipeError(f"peft.peft_type is {section.get('peft_type')!r}; {way_out}.")
    check_keys(section, [item.name for item in dataclasses.fields(types[name]) if item.init], "peft")


def mergeable_peft_types() -> dict[str, type]:
    """PEFT's config classes by type, of those that can be merged into the weights (prompts and prefixes cannot)."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return {
        peft_type.value: PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
        for peft_type, tuner in sorted(PEFT_TYPE_TO_TUNER_MAPPING.items())
        if hasattr(tuner, "merge_and_unload")
    }


@functools.cache
def plain_training_arguments(use_cpu: bool) -> dict:
    """What `TrainingArguments` has where nothing is set. Making one more of them later would reset the state of a trainer."""
    return TrainingArguments(use_cpu=use_cpu).to_dict()
