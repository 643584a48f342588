r"""The sections of a recipe, resolved and checked as they are made: `ModelArguments(preset="nano")` holds the whole config of
the preset, a source the licence and the metric that its format implies. What concerns several sections is in recipe.py.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import transformers
from transformers import CONFIG_MAPPING
from transformers.processing_utils import VideosKwargs

from modeling_mmgpt import MMGPTConfig, MMGPTTextConfig
from training.data.cleaning.personal_data import KINDS as PERSONAL_DATA
from training.data.formats import FORMATS, OWN_DATA, format_options
from training.recipe_files import RecipeError, check_keys, check_name, merge, read_preset
from training.recipe_types import Amount, Count, Share, Whole


# The parts of a processor, and the encoder without which each of them is left out.
PROCESSOR_PARTS = {
    "image_processor": "vision_config",
    "video_processor": "vision_config",
    "feature_extractor": "audio_config",
}
# Fields that a model of transformers 5.17 reads and its config class does not declare.
UNDECLARED = {"siglip_vision_model": ["vision_use_head"]}


@dataclass
class ModelArguments:
    """Either new weights in the shape of a preset, with the recipe's changes, or a saved model."""

    preset: str | None = None  # name of a file in configuration/models, or the path of such a file
    checkpoint: str | None = None  # folder or Hub id of a saved model to continue from
    # Fields of MMGPTConfig laid over the preset's; `vision_config: null` leaves an encoder out.
    config: dict[str, Any] = field(default_factory=dict)
    image_processor: dict[str, Any] = field(default_factory=dict)  # laid over the preset's, as the next two
    # `fps` and `num_frames`, how many frames of a video are taken at most. What is not set is as of images.
    video_processor: dict[str, Any] = field(default_factory=dict)
    feature_extractor: dict[str, Any] = field(default_factory=dict)
    # How the training data ask for the tasks of modeling_mmgpt/chat_templates_mmgpt.py, for pipeline().
    prompts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if (self.preset is None) == (self.checkpoint is None):
            raise RecipeError("set exactly one of model.preset (new weights) and model.checkpoint (saved weights).")
        if self.checkpoint is not None:
            laid_over = [key for key in ("config", *PROCESSOR_PARTS) if getattr(self, key)]
            if laid_over:
                raise RecipeError(f"model.{laid_over[0]} can only change a preset; a checkpoint keeps its own.")
            return
        try:
            preset = read_preset(self.preset)
            self.config = merge(preset.get("config", {}), self.config)
            for part, encoder in PROCESSOR_PARTS.items():
                has_encoder = self.config.get(encoder) is not None
                setattr(self, part, merge(preset.get(part, {}), getattr(self, part)) if has_encoder else {})
            self.check_preset()
        except RecipeError as error:
            raise RecipeError(f"preset {self.preset} with the recipe's model section: {error}") from None

    def check_preset(self) -> None:
        """Refuse fields that no config class has, which the classes themselves take silently, and unknown processor classes."""
        check_keys(self.config, field_names(MMGPTConfig), "config")
        for key in ("text_config", "vision_config", "audio_config"):
            fields = self.config.get(key)
            if fields is not None:
                model_type = fields.get("model_type", MMGPTTextConfig.model_type)
                check_keys({model_type: None}, ["mmgpt_text", *CONFIG_MAPPING], f"config.{key}.model_type")
                known = [*field_names(CONFIG_MAPPING[model_type]), *UNDECLARED.get(model_type, [])]
                check_keys(fields, ["model_type", *known], f"config.{key}")
        check_keys(self.video_processor, VideosKwargs.__annotations__, "video_processor")
        for part in ("image_processor", "feature_extractor"):
            if self.config.get(PROCESSOR_PARTS[part]) is None:
                continue
            name = getattr(self, part).get(f"{part}_type")
            if name is None or not hasattr(transformers, name):
                raise RecipeError(
                    f"`{part}.{part}_type` is {name!r}: name a class that transformers {transformers.__version__} has, since "
                    "the model has this encoder."
                )


@dataclass
class SourceArguments:
    """A data set, or the part of one, and how its records become samples."""

    format: str  # a name of training/data/formats.py: of a kind of records, or of a data set that brings its own files
    split: str | None = None  # by default the name of the list that the source stands in
    # File, folder or pattern such as `photos/{split}-*.parquet`, or several; relative to `data.root`.
    files: Any = None
    dataset: str | None = None  # in place of `files`: id of a data set of the Hub
    load: dict[str, Any] = field(default_factory=dict)  # more arguments of `load_dataset`, such as a subset's `name`
    name: str | None = None  # what its samples are called in tables; by default as the folder or the data set
    # Passes over this source in one epoch; 0.5 takes a random half of it. Streamed: its share of the samples, in proportion
    # to the other weights.
    weight: float = 1.0
    limit: Count | None = None  # random selection of so many samples, the same at every run
    # What its answers are judged by (training/evaluation/metrics); it stands in each sample. Plain text has `perplexity`.
    metric: str | None = None
    license: str | None = None  # of the data, by the Hub's name for it (`cc-by-4.0`); it stands in the model card
    strict: bool = False  # stop at a broken sample instead of leaving it out
    augment: Any = field(default_factory=dict)  # random changes to its samples, laid over the recipe's `augment`
    # With `data.block`: where in the epoch its samples come.
    span: list[float] = field(default_factory=lambda: [0.0, 1.0])
    # Keyword arguments of the format; where it reads records also `id` (column that names a sample), `media_folder` (where
    # relative paths of media start) and `detokenise` (column: language of Moses-tokenised text).
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_name("format", self.format, [*FORMATS, *OWN_DATA])
        if self.format in OWN_DATA:
            for key in ("files", "dataset", "name", "load"):
                if getattr(self, key):
                    raise RecipeError(f"format {self.format} brings its own data with their names: leave out `{key}`.")
            self.license = self.license or OWN_DATA[self.format].license
        elif (self.files is None) == (self.dataset is None):
            raise RecipeError(
                f"the source of format {self.format} needs one of `files` (local) and `dataset` (on the Hub)."
            )
        if isinstance(self.files, str):
            self.files = [self.files]
        if self.format == "text":
            self.metric = self.metric or "perplexity"
        known = format_options(self.format)
        if self.options and not known:
            raise RecipeError(f"format {self.format} takes no options: leave them out.")
        for name in self.options:
            check_name(f"option of format {self.format}:", name, known)
        if self.weight <= 0:
            raise RecipeError(f"weight is {self.weight}; it must be above 0 (leave the source out instead).")
        if len(self.span) != 2 or not 0 <= self.span[0] < self.span[1] <= 1:
            raise RecipeError(f"span is {self.span}: two parts of the epoch, such as [0, 0.5].")

    @property
    def task(self) -> str:
        """What its samples are called in tables, where they have no names of their own."""
        if self.name is not None:
            return self.name
        if self.dataset is not None:
            return self.dataset.rpartition("/")[2]
        if self.files is None:
            return self.format
        path = Path(self.files[0])
        return path.parent.name or path.stem


@dataclass
class DataArguments:
    """The sources of a recipe."""

    train: list[SourceArguments]  # what the model learns from, and the tokenizer where it is trained
    validation: list[SourceArguments] = field(default_factory=list)  # this and the next: what can be measured on
    test: list[SourceArguments] = field(default_factory=list)
    root: str | None = None  # folder with one folder per data set
    # Read `train` as it is needed, without a copy on the disk and without end (training/data/streaming.py);
    # `training.max_steps` sets how long.
    streaming: bool = False
    # The sources of `train` alternate in blocks of so many samples, each source evenly over its `span` of the epoch, in the
    # order that `training.train_sampling_strategy: sequential` keeps. Batches of this size are then of one source, and texts
    # in them alike in length. What does not fill a block is left out.
    block: int | None = None
    shuffle_buffer: int = 1000  # streamed records of a source that are shuffled at a time

    def __post_init__(self):
        if not self.train:
            raise RecipeError("data.train lists no source: add at least `- format: NAME`.")
        if self.shuffle_buffer < 1:
            raise RecipeError(f"data.shuffle_buffer is {self.shuffle_buffer}; 1 keeps the order, more shuffle.")
        if self.block is not None and (self.block < 1 or self.streaming):
            raise RecipeError(f"data.block is a number of samples, of data that are not streamed; it is {self.block}.")
        for index, source in enumerate(self.train):
            where = f"data.train.{index}"
            if source.span != [0.0, 1.0] and self.block is None:
                raise RecipeError(f"{where}.span needs data.block, which sets the order of the samples.")
            if self.streaming and source.limit is not None:
                raise RecipeError(
                    f"{where}.limit draws from all samples, which a stream does not have: leave `limit` out."
                )


@dataclass
class TokenizerArguments:
    path: str | None = None  # folder or Hub id of a fast tokenizer; without it one is trained on `data.train`
    vocab_size: Count = 512  # most tokens that a trained tokenizer may have


@dataclass
class SequenceArguments:
    max_length: Count | None = None  # longest sample in tokens; text beyond it is cut
    # Samples share sequences of up to so many tokens, each as if it were alone, and
    # `training.per_device_train_batch_size` counts these sequences. Pre-training always packs: by default to the decoder's
    # `max_position_embeddings` there.
    pack_to: Count | None = None

    def __post_init__(self):
        if self.max_length is not None and self.pack_to is not None and self.max_length > self.pack_to:
            raise RecipeError(
                f"sequence.max_length={self.max_length} does not fit sequence.pack_to={self.pack_to}: lower it."
            )


@dataclass
class LearningRateArguments:
    """Peak learning rates that differ from `training.learning_rate`; all follow the same schedule."""

    vision_tower: Amount | None = None  # pretrained encoders usually want a tenth
    audio_tower: Amount | None = None
    connectors: Amount | None = None  # new matrices between encoders and decoder
    decoder: Amount | None = None  # embeddings, decoder and head; with `peft` their adapters

    def given(self) -> dict[str, float]:
        return {part: rate for part, rate in dataclasses.asdict(self).items() if rate is not None}


@dataclass
class AugmentationArguments:
    """Random changes to the training samples, drawn anew at every step; see training/data/augmentation.py."""

    audio_crop: Share = 0.0  # up to this fraction of a clip is cut off, anywhere at its two ends
    audio_shift: Amount = 0.0  # up to so many seconds of silence before a clip
    audio_speed: Share = 0.0  # up to this fraction faster or slower
    audio_gain: Amount = 0.0  # up to so many decibels louder or softer
    audio_noise: Amount = 0.0  # white noise of up to this fraction of the clip's own level
    spectrogram_bands: Whole = 0  # masked frequency bands (SpecAugment, Park et al. 2019)
    spectrogram_band_width: Whole = 0  # widest masked band, in mel bins
    spectrogram_spans: Whole = 0  # masked spans of time
    spectrogram_span_width: Whole = 0  # longest masked span, in frames
    image_flip: bool = False  # mirror every second image
    image_shift: Whole = 0  # up to so many pixels sideways and up or down; here and in the next two edges are repeated
    image_rotation: Amount = 0.0  # turned by up to so many degrees
    image_scale: Share = 0.0  # up to this fraction larger or smaller
    image_light: Share = 0.0  # brightness, contrast and saturation up to this fraction higher or lower


@dataclass
class EvaluationArguments:
    split: str = "test"  # `test` or `validation`, the list of `data` to measure on
    batch_size: Count = 64  # samples generated at once
    max_new_tokens: Count = 16  # longest answer
    baselines: bool = True  # also answer with shuffled and with blank media, which takes as long again each
    quality: bool = False  # also measure how sure the model is of its answers, and whether it is right as often
    card: bool = True  # write what was measured into the card of the model's folder

    def __post_init__(self):
        if self.split not in ("test", "validation"):
            raise RecipeError(f"eval.split is {self.split!r}; it is 'test' or 'validation'.")


@dataclass
class ClassifierArguments:
    """A sequence classifier of Hugging Face, and what it leaves out."""

    model: str  # folder or Hub id
    label: str  # a name in its `id2label`
    threshold: Share = 0.5  # samples whose text has this probability of the label, or more, are left out


@dataclass
class PrepareArguments:
    """What training/prepare_data.py leaves out of `data.train`, beside broken samples, blank media and equal samples."""

    min_characters: Whole = 1  # shortest and longest text of a sample, all its turns together
    max_characters: Count | None = None
    max_repetition: Share = 0.3  # largest share of runs of five words that stood in the text before
    # Texts that share at least so much of their runs of five words are nearly the same; null keeps them.
    similarity: Share | None = 0.8
    image_distance: Annotated[int, (0, 64)] = (
        4  # images look alike when so many bits of 64 differ in their hashes, or fewer
    )
    # A run of so many words in common with a sample of `data.validation` or `data.test` is contamination.
    contamination_words: Count = 13
    languages: list[str] = field(default_factory=list)  # codes of the languages to keep, such as `en`; empty: all
    # Samples with e-mail addresses and the like are left out (drop), or `[email]` takes their place (mask); null keeps them.
    personal_data: Literal["drop", "mask"] | None = None
    personal_data_kinds: list[str] = field(default_factory=lambda: list(PERSONAL_DATA))
    classifiers: list[ClassifierArguments] = field(default_factory=list)  # in this order

    def __post_init__(self):
        for kind in self.personal_data_kinds:
            check_name("personal_data_kinds:", kind, PERSONAL_DATA)


def field_names(config_class: type) -> list[str]:
    return [item.name for item in dataclasses.fields(config_class)]
