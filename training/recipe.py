r"""A recipe: one YAML file that describes a whole training run, and `key.sub=value` overrides on top of it.

    recipe = load_recipe("configuration/recipes/fsdd.yaml", ["data.root=/elsewhere", "training.max_steps=10"])

The sections are the dataclasses below; `training` takes every field of transformers' TrainingArguments as it is.
An unknown key is refused with the place it stands in and the nearest key that exists.
"""

import dataclasses
import difflib
import functools
import re
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments


CONFIGURATION = Path(__file__).resolve().parent.parent / "configuration"

# What a run of ours needs where TrainingArguments has another default; a recipe may still set each of them.
TRAINING_DEFAULTS = {
    "remove_unused_columns": False,  # the rows' media columns are no arguments of the model's forward
    "prediction_loss_only": True,  # during training only the loss is evaluated: training/evaluation/evaluate.py generates
    "use_cpu": not torch.accelerator.is_available(),  # said aloud, since TrainingArguments refuses bf16 otherwise
    "dataloader_pin_memory": torch.accelerator.is_available(),  # true only warns on a machine without one
    "save_strategy": "no",  # the finished model is saved as one complete folder by save_checkpoint
    "save_total_limit": 2,  # checkpoints of a run are there to continue it: the last one, and one before
    "resume_from_checkpoint": True,  # from the last checkpoint in output_dir; from the beginning where there is none
}

Stage = Literal["pretrain", "align", "finetune"]


PROCESSOR_PARTS = ("image_processor", "video_processor", "feature_extractor")


class RecipeError(ValueError):
    """What is wrong in a recipe, where it stands and the way out."""


@dataclass
class ModelArguments:
    r"""
    preset (`str`, *optional*): name of a file in configuration/models, or the path of such a file; the model starts from
        random weights.
    checkpoint (`str`, *optional*): folder or Hub id of a saved model to continue from, in place of a preset.
    config (`dict`, *optional*): fields of MMGPTConfig laid over the preset's; `vision_config: null` leaves a tower out.
    image_processor, feature_extractor (`dict`, *optional*): laid over the preset's.
    video_processor (`dict`, *optional*): laid over the preset's; `fps` and `num_frames`, how many frames of a video are taken at
        most. What is not said is as of images.
    prompts (`dict`, *optional*): how the training data ask for the tasks of modeling_mmgpt/chat_templates_mmgpt.py, for pipeline().
    """

    preset: str | None = None
    checkpoint: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    image_processor: dict[str, Any] = field(default_factory=dict)
    video_processor: dict[str, Any] = field(default_factory=dict)
    feature_extractor: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)


@dataclass
class SourceArguments:
    r"""
    format (`str`): how the records become samples: a shape of `training.data.formats.FORMATS`, or a data adapter of
        `training.data.ADAPTERS`, which brings its own files.
    split (`str`, *optional*): split to read; defaults to the name of the list the source stands in.
    files (`str` or `list[str]`, *optional*): for a shape: file, folder or pattern such as `photos/{split}-*.parquet`,
        relative to `data.root`.
    dataset (`str`, *optional*): for a shape, in place of `files`: id of a data set of the Hub.
    load (`dict`, *optional*): further arguments of `datasets.load_dataset`, such as the `name` of a subset.
    name (`str`, *optional*): what the samples are called in tables; defaults to the name of the folder or data set.
    weight (`float`, *optional*, defaults to 1.0): passes over this source in one epoch; 0.5 takes a random half of it. Streamed:
        its share of the samples, in proportion to the other weights.
    limit (`int`, *optional*): random sample of so many rows, the same at every run.
    metric (`str`, *optional*): name of what its answers are judged by; it stands in each row.
    license (`str`, *optional*): of the data, by the Hub's name for it (`cc-by-4.0`); it stands in the model card.
    strict (`bool`, *optional*, defaults to False): stop at a broken sample instead of leaving it out.
    augment (`dict`, *optional*): random changes to its samples, laid over the recipe's `augment`.
    span (`list[float]`, *optional*, defaults to `[0, 1]`): with `data.block`, from where to where in the epoch its rows come.
    options (`dict`, *optional*): keyword arguments of the adapter; for each shape also `id` (column that names a sample),
        `media_folder` (where relative paths of media start) and `detokenise` (column: language of Moses-tokenised text).
    """

    format: str
    split: str | None = None
    files: Any = None
    dataset: str | None = None
    load: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    weight: float = 1.0
    limit: int | None = None
    metric: str | None = None
    license: str | None = None
    strict: bool = False
    augment: dict[str, Any] = field(default_factory=dict)
    span: list[float] = field(default_factory=lambda: [0.0, 1.0])
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataArguments:
    r"""
    train (`list[SourceArguments]`): what the model learns from, and the tokenizer where it is trained.
    validation, test (`list[SourceArguments]`, *optional*): what training/evaluation/evaluate.py can measure on.
    root (`str`, *optional*): folder with one folder per data set.
    streaming (`bool`, *optional*, defaults to False): read `train` as it is needed, without a copy on the disk and without end
        (training/data/streaming.py); `training.max_steps` says how long.
    block (`int`, *optional*): the sources of `train` alternate in blocks of so many rows, each source evenly over its `span` of the
        epoch, in the order that `training.train_sampling_strategy: sequential` keeps. Batches of this size are then of one
        source, and texts in them alike in length. What does not fill a block is left out.
    shuffle_buffer (`int`, *optional*, defaults to 1000): streamed records of a source that are shuffled at a time.
    """

    train: list[SourceArguments]
    validation: list[SourceArguments] = field(default_factory=list)
    test: list[SourceArguments] = field(default_factory=list)
    root: str | None = None
    streaming: bool = False
    block: int | None = None
    shuffle_buffer: int = 1000


@dataclass
class TokenizerArguments:
    r"""
    path (`str`, *optional*): folder or Hub id of a fast tokenizer; without it one is trained on the texts of `data.train`.
    vocab_size (`int`, *optional*, defaults to 512): most tokens that a trained tokenizer may have.
    """

    path: str | None = None
    vocab_size: int = 512


@dataclass
class SequenceArguments:
    r"""
    max_length (`int`, *optional*): longest row in tokens; text beyond it is cut.
    pack_to (`int`, *optional*): rows share sequences of up to so many tokens, each as if it were alone, and
        `training.per_device_train_batch_size` counts these sequences. Pre-training always packs: defaults to the decoder's
        `max_position_embeddings` there.
    """

    max_length: int | None = None
    pack_to: int | None = None


@dataclass
class LearningRateArguments:
    r"""Peak learning rates that differ from `training.learning_rate`; all follow the same schedule.

    vision_tower, audio_tower (`float`, *optional*): pretrained encoders usually want a tenth.
    connectors (`float`, *optional*): new matrices between towers and decoder.
    decoder (`float`, *optional*): embeddings, decoder and head; with `peft` their adapters.
    """

    vision_tower: float | None = None
    audio_tower: float | None = None
    connectors: float | None = None
    decoder: float | None = None

    def given(self) -> dict[str, float]:
        return {part: rate for part, rate in dataclasses.asdict(self).items() if rate is not None}


@dataclass
class AugmentationArguments:
    r"""Random changes to the training samples, drawn anew at every step. All are off unless set; see
    training/data/augmentation.py for what each one does.

    audio_crop (`float`, *optional*, defaults to 0.0): up to this fraction of a sound is cut off, anywhere at its two ends.
    audio_shift (`float`, *optional*, defaults to 0.0): up to so many seconds of silence before a sound.
    audio_speed (`float`, *optional*, defaults to 0.0): up to this fraction faster or slower.
    audio_gain (`float`, *optional*, defaults to 0.0): up to so many decibels louder or softer.
    audio_noise (`float`, *optional*, defaults to 0.0): white noise of up to this fraction of the sound's own level.
    spectrogram_bands (`int`, *optional*, defaults to 0): masked frequency bands (SpecAugment, Park et al. 2019).
    spectrogram_band_width (`int`, *optional*, defaults to 0): widest masked band, in mel bins.
    spectrogram_spans (`int`, *optional*, defaults to 0): masked spans of time.
    spectrogram_span_width (`int`, *optional*, defaults to 0): longest masked span, in frames.
    image_flip (`bool`, *optional*, defaults to False): mirror every second image.
    image_shift (`int`, *optional*, defaults to 0): up to so many pixels sideways and up or down; here and in the next two edges
        are repeated.
    image_rotation (`float`, *optional*, defaults to 0.0): turned by up to so many degrees.
    image_scale (`float`, *optional*, defaults to 0.0): up to this fraction larger or smaller.
    image_light (`float`, *optional*, defaults to 0.0): brightness, contrast and saturation up to this fraction higher or lower.
    """

    audio_crop: float = 0.0
    audio_shift: float = 0.0
    audio_speed: float = 0.0
    audio_gain: float = 0.0
    audio_noise: float = 0.0
    spectrogram_bands: int = 0
    spectrogram_band_width: int = 0
    spectrogram_spans: int = 0
    spectrogram_span_width: int = 0
    image_flip: bool = False
    image_shift: int = 0
    image_rotation: float = 0.0
    image_scale: float = 0.0
    image_light: float = 0.0


@dataclass
class EvaluationArguments:
    r"""
    split (`str`, *optional*, defaults to `"test"`): `test` or `validation`, the list of `data` to measure on.
    batch_size (`int`, *optional*, defaults to 64): samples generated at once.
    max_new_tokens (`int`, *optional*, defaults to 16): longest answer.
    baselines (`bool`, *optional*, defaults to True): also answer with the media exchanged and blank, which takes as long again
        each.
    card (`bool`, *optional*, defaults to True): write what was measured into the card of the model's folder.
    """

    split: str = "test"
    batch_size: int = 64
    max_new_tokens: int = 16
    baselines: bool = True
    card: bool = True


@dataclass
class PrepareArguments:
    r"""What training/prepare_data.py leaves out of `data.train`, beside broken samples, blank media and equal samples.

    min_characters, max_characters (`int`, *optional*): shortest and longest text of a sample, all its turns together.
    max_repetition (`float`, *optional*, defaults to 0.3): largest share of runs of five words that stood in the text before.
    similarity (`float`, *optional*, defaults to 0.8): texts that share at least so much of their runs of five words are nearly the
        same; null keeps them.
    image_distance (`int`, *optional*, defaults to 4): images look alike when so many bits of 64 differ in their hashes, or fewer.
    contamination_words (`int`, *optional*, defaults to 13): a run of so many words in common with a sample of `data.validation` or
        `data.test` is contamination.
    languages (`list[str]`, *optional*): codes of the languages to keep, such as `en`; empty: all.
    """

    min_characters: int = 1
    max_characters: int | None = None
    max_repetition: float = 0.3
    similarity: float | None = 0.8
    image_distance: int = 4
    contamination_words: int = 13
    languages: list[str] = field(default_factory=list)


@dataclass
class Recipe:
    r"""One training run.

    stage (`str`, *optional*, defaults to `"finetune"`):
        `"pretrain"`: the decoder alone, on text as it is: no chat template, packed, every token is learnt;
        `"align"`: connectors alone, between pretrained parts that stay as they are (LLaVA's first stage, Liu et al. 2023);
        `"finetune"`: conversations, every part.
    peft (`dict`, *optional*): a config of PEFT by its own field names, `peft_type` first (`{peft_type: LORA, r: 16}`); only these
        adapters and the connectors are then trained, and the merged model is saved beside the adapter.
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


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file, lay the `key.sub=value` overrides over it and check every key."""
    path = Path(path)
    return build_recipe(read_recipe_tree(path, overrides), name=path.stem, place=str(path))


def read_recipe_tree(path: str | Path, overrides: list[str] | None = None) -> dict:
    """The recipe as plain nested dicts, overrides applied, nothing checked."""
    tree = read_yaml(path, listed_in=CONFIGURATION / "recipes")
    for override in overrides or []:
        apply_override(tree, override)
    return tree


def build_recipe(tree: dict, name: str, place: str) -> Recipe:
    """Turn nested dicts into a `Recipe`; `place` names their origin in errors."""
    section_classes = {
        "model": ModelArguments,
        "data": DataArguments,
        "tokenizer": TokenizerArguments,
        "sequence": SequenceArguments,
        "augment": AugmentationArguments,
        "training": TrainingArguments,
        "learning_rates": LearningRateArguments,
        "eval": EvaluationArguments,
        "prepare": PrepareArguments,
    }
    check_keys(tree, [*section_classes, "stage", "peft"], "", place)
    values = {key: tree[key] for key in ("stage", "peft") if tree.get(key) is not None}
    tree = {key: dict(section or {}) for key, section in tree.items() if key in section_classes}
    tree["training"] = TRAINING_DEFAULTS | {"output_dir": f"outputs/{name}"} | tree.get("training", {})
    plain_training_arguments(bool(tree["training"]["use_cpu"]))  # before the recipe's own
    data = tree.setdefault("data", {})
    if data.get("streaming"):  # the checkpoint knows the place in the stream: nothing is read again to get there
        tree["training"] = {"ignore_data_skip": True} | tree["training"]
    for split in ("train", "validation", "test"):
        sources = data.get(split) or []
        data[split] = [
            build_section(SourceArguments, {"split": split} | source, f"data.{split}.{index}", place)
            for index, source in enumerate(sources)
        ]
    sections = {key: build_section(section_classes[key], section, key, place) for key, section in tree.items()}
    recipe = Recipe(name=name, **({"model": ModelArguments()} | sections | values))
    check_recipe(recipe, place)
    check_sources(recipe, place)
    check_stage(recipe, place)
    if recipe.peft is not None:
        check_peft(recipe.peft, place)
    return recipe


def check_recipe(recipe: Recipe, place: str) -> None:
    """The rules that concern more than one key."""
    if (recipe.model.preset is None) == (recipe.model.checkpoint is None):
        raise RecipeError(
            f"{place}: set exactly one of model.preset (new weights) and model.checkpoint (saved weights)."
        )
    if recipe.model.checkpoint is not None:
        laid_over = [key for key in ("config", *PROCESSOR_PARTS) if getattr(recipe.model, key)]
        if laid_over:
            raise RecipeError(f"{place}: model.{laid_over[0]} can only change a preset; a checkpoint keeps its own.")
    if not recipe.data.train:
        raise RecipeError(f"{place}: data.train lists no source: add at least `- format: NAME`.")
    if recipe.data.streaming and recipe.training.max_steps <= 0:
        raise RecipeError(f"{place}: data.streaming has no end: set training.max_steps.")
    if recipe.data.shuffle_buffer < 1:
        raise RecipeError(
            f"{place}: data.shuffle_buffer is {recipe.data.shuffle_buffer}; 1 keeps the order, more shuffle."
        )
    if recipe.eval.split not in ("test", "validation"):
        raise RecipeError(f"{place}: eval.split is {recipe.eval.split!r}; it is 'test' or 'validation'.")
    if recipe.training.remove_unused_columns:
        raise RecipeError(
            f"{place}: training.remove_unused_columns must be false, else images and sounds are dropped."
        )


def check_sources(recipe: Recipe, place: str) -> None:
    """What a source can only say beside other keys."""
    block = recipe.data.block
    if block is not None and (block < 1 or recipe.data.streaming):
        raise RecipeError(f"{place}: data.block is a number of rows, of data that are not streamed; it is {block}.")
    if block is not None and recipe.training.train_sampling_strategy != "sequential":
        raise RecipeError(f"{place}: data.block sets an order: add training.train_sampling_strategy: sequential.")
    for index, source in enumerate(recipe.data.train):
        where = f"data.train.{index}"
        if source.augment:
            build_section(AugmentationArguments, source.augment, f"{where}.augment", place)
        if source.augment and recipe.stage == "pretrain":
            raise RecipeError(f"{place}: stage 'pretrain' reads text alone: leave {where}.augment out.")
        if source.span != [0.0, 1.0] and block is None:
            raise RecipeError(f"{place}: {where}.span needs data.block, which sets the order of the rows.")
        if len(source.span) != 2 or not 0 <= source.span[0] < source.span[1] <= 1:
            raise RecipeError(f"{place}: {where}.span is {source.span}: two parts of the epoch, such as [0, 0.5].")


def check_stage(recipe: Recipe, place: str) -> None:
    """What a stage cannot do, with the way out."""
    stage, rates = recipe.stage, recipe.learning_rates.given()
    if stage not in get_args(Stage):
        nearest = difflib.get_close_matches(str(stage), get_args(Stage), n=1, cutoff=0.0)[0]
        raise RecipeError(f"{place}: stage is {stage!r}; the nearest valid name is {nearest!r}.")
    trained = {"pretrain": ["decoder"], "align": ["connectors"]}.get(
        stage, list(dataclasses.asdict(recipe.learning_rates))
    )
    idle = [part for part in rates if part not in trained]
    if idle:
        raise RecipeError(
            f"{place}: learning_rates.{idle[0]} is set, but stage {stage!r} trains only the {trained[0]}."
        )
    if recipe.model.checkpoint is None and (stage == "align" or recipe.peft is not None):
        what = "stage 'align' trains only connectors" if stage == "align" else "peft trains only adapters"
        raise RecipeError(f"{place}: {what}, but model.preset starts from random weights: set model.checkpoint.")
    if stage == "align" and recipe.peft is not None:
        raise RecipeError(f"{place}: stage 'align' trains only connectors: leave peft out, or take stage 'finetune'.")
    if stage == "pretrain" and recipe.augment != AugmentationArguments():
        raise RecipeError(f"{place}: stage 'pretrain' reads text alone: leave augment out.")
    if stage == "pretrain" and recipe.sequence.max_length is not None:
        raise RecipeError(f"{place}: stage 'pretrain' cuts nothing off: set sequence.pack_to in place of max_length.")
    longest, budget = recipe.sequence.max_length, recipe.sequence.pack_to
    if longest is not None and budget is not None and longest > budget:
        raise RecipeError(f"{place}: sequence.max_length={longest} does not fit sequence.pack_to={budget}: lower it.")


def check_peft(section: Any, place: str) -> None:
    """Refuse what the PEFT config of this `peft_type` does not have, and types whose result is no model of its own."""
    check_keys(section, section, "peft", place)
    types = mergeable_peft_types()
    name = str(section.get("peft_type", "")).upper()
    if name not in types:
        nearest = difflib.get_close_matches(name, types, n=1, cutoff=0.0)[0]
        raise RecipeError(
            f"{place}: peft.peft_type is {section.get('peft_type')!r}; the nearest valid name is {nearest!r}. "
            f"These can be merged into the model: {', '.join(types)}."
        )
    known = [item.name for item in dataclasses.fields(types[name]) if item.init]
    check_keys(section, known, "peft", place)


def mergeable_peft_types() -> dict[str, type]:
    """PEFT's config classes by type, of those that can be merged into the weights (prompts and prefixes cannot)."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return {
        peft_type.value: PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
        for peft_type, tuner in sorted(PEFT_TYPE_TO_TUNER_MAPPING.items())
        if hasattr(tuner, "merge_and_unload")
    }


def build_section(cls: type, section: dict, where: str, place: str) -> Any:
    fields = [item for item in dataclasses.fields(cls) if item.init]
    check_keys(section, [item.name for item in fields], where, place)
    missing = [
        item.name
        for item in fields
        if item.default is MISSING and item.default_factory is MISSING and item.name not in section
    ]
    if missing:
        raise RecipeError(f"{place}: `{where}.{missing[0]}` is missing.")
    return HfArgumentParser(cls).parse_dict(section)[0]


def check_keys(section: Any, known, where: str, place: str) -> None:
    """Refuse keys of `section` that are not among `known`, naming the nearest one."""
    if not isinstance(section, dict):
        raise RecipeError(f"{place}: `{where or 'the recipe'}` must be a list of `key: value` lines, not {section!r}.")
    for key in section:
        if key in known:
            continue
        full = f"{where}.{key}" if where else str(key)
        nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
        raise RecipeError(f"{place}: unknown key `{full}`; the nearest valid name is `{nearest[0]}`.")


def apply_override(tree: dict, override: str) -> None:
    """Set one `key.sub=value` in the tree; the value is read as YAML, an index steps into a list."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"{override!r} is no override: write key.sub=value, for example training.max_steps=100.")
    node: Any = tree
    keys = dotted.removeprefix("--").split(".")
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise RecipeError(
                    f"{override!r}: {'.'.join(keys[:depth])} is a list of {len(node)}; {key!r} is not in it."
                )
            key = int(key)
        elif not isinstance(node, dict):
            raise RecipeError(f"{override!r}: {'.'.join(keys[:depth])} is a single value and has no {key!r}.")
        if depth == len(keys) - 1:
            node[key] = yaml.load(value, Loader=RecipeLoader)
        elif isinstance(node, dict):
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
        else:
            node = node[key]


def merge(base: dict, changes: dict) -> dict:
    """`changes` laid over `base`, dict by dict; any other value, and a part of another `model_type`, replaces what was there."""
    merged = dict(base)
    for key, value in changes.items():
        there = merged.get(key)
        both = isinstance(value, dict) and isinstance(there, dict)
        same_kind = both and value.get("model_type", there.get("model_type")) == there.get("model_type")
        merged[key] = merge(there, value) if same_kind else value
    return merged


class RecipeLoader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, which YAML 1.1 reads as a string."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path, listed_in: Path) -> dict:
    """Read a YAML file of `key: value` lines; `listed_in` is the folder whose files a missing name is compared with."""
    path = Path(path)
    if not path.is_file():
        names = sorted(str(found.relative_to(listed_in).with_suffix("")) for found in listed_in.glob("*.yaml"))
        raise FileNotFoundError(f"{path} does not exist; {listed_in} has: {', '.join(names)}.")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must be `key: value` lines, but holds {type(tree).__name__}.")
    return tree


def read_preset(name: str) -> dict:
    """A preset of configuration/models by name, or any preset file by path."""
    folder = CONFIGURATION / "models"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    preset = read_yaml(path, listed_in=folder)
    check_keys(preset, ["config", *PROCESSOR_PARTS], "", str(path))
    return preset


def recipe_tree(recipe: Recipe) -> dict:
    """The recipe with every default filled in; of TrainingArguments only what differs from its defaults."""
    tree = dataclasses.asdict(dataclasses.replace(recipe, training=None))
    plain = plain_training_arguments(recipe.training.use_cpu)
    tree["training"] = {key: value for key, value in recipe.training.to_dict().items() if value != plain[key]}
    return tree


@functools.cache
def plain_training_arguments(use_cpu: bool) -> dict:
    """What `TrainingArguments` has where nothing is set. Making one more of them later would reset the state of a trainer."""
    return TrainingArguments(use_cpu=use_cpu).to_dict()


def format_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML."""
    return yaml.safe_dump(recipe_tree(recipe), sort_keys=False, allow_unicode=True)
