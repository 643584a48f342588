"""Features of media: outputs that hold them, features given in place of pixels or cached, features of each medium, features repeated for beams.

The chunks of a batch (an image or a tile, a frame of a video, a window of audio) stand one after the other, in the order of their
placeholders, whichever sample they belong to.

Shapes: B samples, L tokens, N chunks, T vectors of the longest chunk, D decoder width.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    ModelOutput,
    MoeCausalLMOutputWithPast,
    MoeModelOutputWithPast,
)
from transformers.utils import auto_docstring


# Arguments of the model that hold one entry for each chunk of a modality; the first decides how many there are.
MEDIA_INPUTS = {
    "image": ("pixel_values", "tile_positions", "spatial_shapes"),
    "video": ("pixel_values_videos",),
    "audio": ("input_features", "input_features_mask"),
}
EMBEDS = {"image": "image_embeds", "audio": "audio_embeds"}
# These hold one entry for each medium, its number of chunks: only `get_video_features` and `get_audio_features` tell media apart.
CHUNK_COUNTS = {"video": "num_frames_per_video", "audio": "audio_windows"}
MEDIA_ARGUMENTS = {
    *(name for names in MEDIA_INPUTS.values() for name in names),
    *EMBEDS.values(),
    *CHUNK_COUNTS.values(),
    "mm_encoder_outputs",
}

# What the arguments are, for the forwards and the methods that encode one modality.
IMAGE_ARGS = r"""
tile_positions (`torch.LongTensor` of shape `(num_tiles, 2)`, *optional*):
    Row and column, counted from 1, of each tile in its image; (0, 0): the overview, with which each image ends.
spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
    Rows and columns of patches, where `pixel_values` are patches of images of any shape.
"""
VIDEO_ARGS = r"""
pixel_values_videos (`torch.FloatTensor` of shape `(num_frames, channels, height, width)`, *optional*):
    The frames of all videos, one after the other.
num_frames_per_video (`torch.LongTensor` of shape `(num_videos,)`, *optional*):
    Number of frames of each video, by which `get_video_features` tells videos apart. `None`: one frame each.
"""
AUDIO_ARGS = r"""
input_features_mask (`torch.Tensor` of shape `(num_windows, num_frames)`, *optional*):
    1 for frames of audio, 0 for padding. `None`: there is no padding.
audio_windows (`torch.LongTensor` of shape `(num_audios,)`, *optional*):
    Number of windows of each audio clip, by which `get_audio_features` tells clips apart. `None`: one window each.
"""
MEDIA_ARGS = (
    IMAGE_ARGS
    + VIDEO_ARGS
    + AUDIO_ARGS
    + r"""
image_embeds (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)` or one such tensor for each image, *optional*):
    In place of `pixel_values`: the `pooler_output` of `get_image_features`, so that several questions about an image encode it once.
audio_embeds (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)` or one such tensor for each audio clip, *optional*):
    In place of `input_features`: the `pooler_output` of `get_audio_features`.
mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
    In place of pixels and spectrograms: the outputs of `get_image_features`, `get_video_features` and `get_audio_features` under
    `"image"`, `"video"` and `"audio"`; with fusion="cross_attention" their `pooler_output` must have an entry for each chunk.
    `generate()` encodes the media of a prompt this way, once for all of its beams.
"""
)


@auto_docstring(
    custom_intro="What an encoder and its connector made of the chunks of one modality: images, tiles, frames or windows."
)
@dataclass
class MMGPTMediaOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_chunks, encoder_length, encoder_hidden_size)`, *optional*):
        The encoder's own output. It is `None`, as are its hidden states and attentions, where features were given or cached.
    pooler_output (`torch.FloatTensor` of shape `(num_chunks, num_tokens, hidden_size)`):
        Features of each chunk after the connector.
    attention_mask (`torch.LongTensor` of shape `(num_chunks, num_tokens)`, *optional*):
        1 for features of media, 0 for padding after those of a shorter chunk. `None`: there is no padding.
    """

    attention_mask: torch.LongTensor | None = None


@auto_docstring(
    custom_intro="The media features that went into the decoder: a part of the outputs of the model and of its head."
)
@dataclass
class MMGPTMediaFields(ModelOutput):
    r"""
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Features of all images of the batch after the connector, in the order of their placeholders.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The same for audio.
    video_hidden_states (`torch.FloatTensor` of shape `(num_video_tokens, hidden_size)`, *optional*):
        The same for videos.
    image_outputs (`MMGPTMediaOutput`, *optional*):
        What the vision encoder and its connector made of each chunk of the images: a whole image or a tile.
    audio_outputs (`MMGPTMediaOutput`, *optional*):
        The same for audio, whose chunks are windows.
    video_outputs (`MMGPTMediaOutput`, *optional*):
        The same for videos, whose chunks are frames.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None
    video_hidden_states: torch.FloatTensor | None = None
    image_outputs: MMGPTMediaOutput | None = None
    audio_outputs: MMGPTMediaOutput | None = None
    video_outputs: MMGPTMediaOutput | None = None


@auto_docstring(custom_intro="Hidden states of the decoder, and the media features that went into it.")
@dataclass
class MMGPTModelOutputWithPast(MMGPTMediaFields, MoeModelOutputWithPast):
    pass


@auto_docstring(custom_intro="Logits and loss, and the media features that went into the decoder.")
@dataclass
class MMGPTCausalLMOutputWithPast(MMGPTMediaFields, MoeCausalLMOutputWithPast):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is provided):
        Language-modelling loss.
    logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`, *optional*):
        Scores of each token of the vocabulary before the softmax; `None` with `skip_logits`.
    """


def split_given(embeds, size: int | None) -> list[torch.Tensor]:
    """`image_embeds` or `audio_embeds` as one tensor for each chunk of `size` vectors; `None`: for each medium."""
    media = [embeds] if isinstance(embeds, torch.Tensor) and embeds.ndim == 2 else list(embeds)
    return media if size is None else [chunk for medium in media for chunk in medium.split(size)]


def pad_chunks(chunks: list[torch.Tensor], length: int | None = None) -> MMGPTMediaOutput:
    """Features of chunks `(vectors, D)` as one output, padded to the longest of them and to at least `length`."""
    lengths = [len(chunk) for chunk in chunks]
    padded = pad_sequence(chunks, batch_first=True)
    padded = torch.nn.functional.pad(padded, (0, 0, 0, max(0, (length or 0) - padded.shape[1])))  # (N, T, D)
    if set(lengths) == {padded.shape[1]}:
        return MMGPTMediaOutput(pooler_output=padded)
    lengths = torch.tensor(lengths, device=padded.device)
    is_real = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return MMGPTMediaOutput(pooler_output=padded, attention_mask=is_real.long())


def split_media(media: MMGPTMediaOutput, chunks_per_medium: torch.Tensor | None) -> BaseModelOutputWithPooling:
    """The same output with the features of each medium, `(tokens, D)`, in a tuple; `None`: each chunk is a medium of its own."""
    features = media.pooler_output
    mask = features.new_ones(features.shape[:2]) if media.attention_mask is None else media.attention_mask
    is_real = mask.bool()
    sizes = is_real.sum(-1)  # (N,)
    if chunks_per_medium is not None:
        if int(chunks_per_medium.sum()) != len(sizes):
            raise ValueError(
                f"The media should have {int(chunks_per_medium.sum())} chunks (tiles, windows or frames), but {len(sizes)} "
                "were given: pass on all that the processor returns."
            )
        sizes = torch.stack([one.sum() for one in sizes.split(chunks_per_medium.tolist())])
    return BaseModelOutputWithPooling(
        last_hidden_state=media.last_hidden_state,
        pooler_output=features[is_real].split(sizes.tolist()),
        hidden_states=media.hidden_states,
        attentions=media.attentions,
    )


class MediaCache:
    """The features of the `max_items` chunks that were used last, found by their content: what `media_cache()` opens."""

    def __init__(self, max_items: int):
        if max_items < 1:
            raise ValueError(f"max_items ({max_items}) must be at least 1: it is the number of chunks that are kept.")
        self.max_items = max_items
        self.chunks: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def look_up(
        self, inputs: dict[str, torch.Tensor | None], encode: Callable[..., MMGPTMediaOutput]
    ) -> MMGPTMediaOutput:
        """The features of all chunks in `inputs`; `encode` makes those that are not here, each content once."""
        inputs = {name: value for name, value in inputs.items() if value is not None}
        keys = chunk_keys(inputs)
        missing = [key for key in dict.fromkeys(keys) if key not in self.chunks]
        if missing:
            places = [keys.index(key) for key in missing]
            encoded = encode(**{name: value[places] for name, value in inputs.items()})
            self.chunks |= zip(missing, split_media(encoded, None).pooler_output, strict=True)  # without padding
        media = pad_chunks([self.chunks[key] for key in keys])
        for key in keys:
            self.chunks.move_to_end(key)
        while len(self.chunks) > self.max_items:  # only now, for one batch may hold more
            self.chunks.popitem(last=False)
        return media


def chunk_keys(inputs: dict[str, torch.Tensor]) -> list[bytes]:
    """A hash of each chunk's numbers, shapes and types, under the names of the encoder's arguments.

    Padding after audio, and after the patches of an image of any shape, is left out: the neighbours in the batch decide how much
    there is."""
    inputs = {name: value.detach().cpu() for name, value in inputs.items()}
    mask = inputs.pop("input_features_mask", None)
    shapes = inputs.get("spatial_shapes")
    keys = []
    for place in range(len(next(iter(inputs.values())))):
        digest = hashlib.blake2b(digest_size=16)
        for name, value in inputs.items():
            chunk = value[place] if mask is None else value[place][..., : int(mask[place].sum())]
            if shapes is not None and name == "pixel_values":
                chunk = chunk[: int(shapes[place].prod())]
            digest.update(f"{name} {chunk.dtype} {tuple(chunk.shape)}".encode())
            digest.update(chunk.contiguous().view(torch.uint8).numpy().tobytes())
        keys.append(digest.digest())
    return keys


def repeat_pieces(pieces, sizes: list[int], placeholders: torch.Tensor, times: int) -> list[torch.Tensor]:
    """Features of media for samples that are repeated `times` times each: `[a, b | c]` becomes `[a, b, a, b | c, c]`.

    Args:
        pieces: features of a medium, of a chunk, or another piece of them that belongs to one sample.
        sizes: tokens that stand for each piece.
        placeholders: `(B,)` tokens that stand for the modality in each sample.
    """
    tokens = torch.tensor(sizes, device=placeholders.device)  # (N,)
    sample = torch.searchsorted(placeholders.cumsum(0), tokens.cumsum(0) - tokens, right=True)  # (N,)
    copies = sample * times + torch.arange(times, device=sample.device)[:, None]  # (times, N) the sample it goes to
    return [pieces[place % len(pieces)] for place in copies.flatten().argsort(stable=True).tolist()]
