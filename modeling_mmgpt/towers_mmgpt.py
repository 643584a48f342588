"""Vision and audio encoders ("towers"): transformers' own, and two encoder-free ones, whose only layer embeds pixels or frames.

What is known of each family stands in tower_families_mmgpt.py.

Shapes: N chunks (images, tiles, frames of videos, windows of audio), L patches of the longest one, T vectors of one, C width of the
encoder (hidden_size), p patch size, f frame size.
"""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import auto_docstring, can_return_tuple

from .configuration_mmgpt import MMGPTFrameConfig, MMGPTPatchConfig
from .token_counts_mmgpt import image_geometry, shortest_audio
from .tower_families_mmgpt import audio_family, tower_family, vision_family


class EncoderFreeTower(PreTrainedModel):
    """A tower of one embedding. It has no attention, and so supports every form of it."""

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def outputs(self, embedded: torch.Tensor, output_hidden_states=None, output_attentions=None, **kwargs):
        """As of an encoder without layers: the embedding is the only hidden state, and there are no attentions."""
        shows_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        shows_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states, attentions = (embedded,) if shows_states else None, () if shows_attentions else None
        return BaseModelOutput(last_hidden_state=embedded, hidden_states=hidden_states, attentions=attentions)


@auto_docstring(custom_intro="Encoder-free vision: each patch of pixels becomes one vector by one matrix (Fuyu).")
class MMGPTPatchTower(EncoderFreeTower):
    config: MMGPTPatchConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: MMGPTPatchConfig):
        super().__init__(config)
        side = config.image_size // config.patch_size
        self.patch_embedding = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.row_embedding = nn.Embedding(side, config.hidden_size)
        self.column_embedding = nn.Embedding(side, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, pixel_values: torch.FloatTensor, spatial_shapes: torch.LongTensor | None = None, **kwargs
    ) -> BaseModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)` or `(num_images, num_patches, patch_size ** 2 * channels)`):
            Images of one size, or, with `spatial_shapes`, the patches of images of any shape, as SigLIP 2 (NaFlex) takes them.
        spatial_shapes (`torch.LongTensor` of shape `(num_images, 2)`, *optional*):
            Rows and columns of patches of each image.
        """
        if spatial_shapes is not None:
            return self.outputs(self.embed_patches(pixel_values, spatial_shapes), **kwargs)
        p = self.config.patch_size
        items, channels, height, width = pixel_values.shape
        rows, columns = height // p, width // p
        if max(height, width) > self.config.image_size or height % p or width % p:
            raise ValueError(
                f"pixel_values are {height} x {width} pixels, but the model takes up to {self.config.image_size} on a side, "
                f"in multiples of {p}: let the processor resize the images."
            )
        patches = pixel_values.view(items, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(items, rows * columns, channels * p * p)  # 8-bit kernels take three axes and no more
        hidden_states = self.patch_embedding(patches.to(self.dtype)).unflatten(1, (rows, columns))
        # Through the modules themselves, which an offloaded model brings their weights only when they are called.
        index = torch.arange(max(rows, columns), device=patches.device)
        hidden_states = hidden_states + self.row_embedding(index[:rows, None]) + self.column_embedding(index[:columns])
        return self.outputs(self.norm(hidden_states.flatten(1, 2)), **kwargs)  # (N, T, C)

    def embed_patches(self, patches: torch.Tensor, spatial_shapes: torch.Tensor) -> torch.Tensor:
        """The same of `(N, L, p * p * channels)`. An image of more rows or columns than have a vector shares them out evenly."""
        p = self.config.patch_size
        pixels = patches.unflatten(-1, (p, p, -1)).movedim(-1, 2).flatten(2)  # (N, L, channels * p * p), as above
        hidden_states = self.patch_embedding(pixels.to(self.dtype))
        places = patch_places(spatial_shapes, patches.shape[1])[:2]
        for place, size, embedding in zip(
            places, spatial_shapes.unbind(-1), (self.row_embedding, self.column_embedding), strict=True
        ):
            known = embedding.num_embeddings
            index = place * known // size.clamp(min=known)[:, None]
            hidden_states = hidden_states + embedding(index.clamp(max=known - 1))  # padding may lie outside
        return self.norm(hidden_states)


@auto_docstring(custom_intro="Encoder-free audio: each group of mel frames becomes one vector by one matrix.")
class MMGPTFrameTower(EncoderFreeTower):
    config: MMGPTFrameConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: MMGPTFrameConfig):
        super().__init__(config)
        self.frame_embedding = nn.Linear(config.num_mel_bins * config.frame_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(self, input_features: torch.FloatTensor, **kwargs) -> BaseModelOutput:
        f = self.config.frame_size
        frames = nn.functional.pad(input_features, (0, -input_features.shape[-1] % f)).transpose(1, 2)
        frames = frames.reshape(frames.shape[0], -1, self.config.num_mel_bins * f)  # (N, T, mel * f)
        return self.outputs(self.norm(self.frame_embedding(frames.to(self.dtype))), **kwargs)  # (N, T, C)


# Classes that a family names; Whisper's config describes an encoder and a decoder, of which only the encoder is used.
TOWER_CLASSES = {cls.__name__: cls for cls in (MMGPTPatchTower, MMGPTFrameTower, WhisperEncoder)}


def build_tower(config) -> PreTrainedModel:
    tower_class = TOWER_CLASSES.get(tower_family(config).model_class)
    return fitted(AutoModel.from_config(config) if tower_class is None else tower_class._from_config(config))


def fitted(tower: PreTrainedModel) -> PreTrainedModel:
    """The encoder without the modules whose output is not used, and ready to be offloaded (accelerate): a module then has its weights
    only while it is called, so those that the encoder reads outside their calls are brought for the whole of its own call."""
    family = tower_family(tower.config)
    for name in family.unread:
        setattr(tower, name, nn.Identity())
    if any(name.endswith(family.read_outside) for name, _ in tower.named_modules()):
        tower.register_forward_pre_hook(bring_weights)
        tower.register_forward_hook(release_weights, always_call=True)
    return tower


def bring_weights(tower: PreTrainedModel, args) -> None:
    for module in offloaded(tower):
        module._hf_hook.pre_forward(module)


def release_weights(tower: PreTrainedModel, args, outputs) -> None:
    for module in offloaded(tower):
        module._hf_hook.post_forward(module, None)


def offloaded(tower: PreTrainedModel) -> list[nn.Module]:
    names = tower_family(tower.config).read_outside
    return [one for name, one in tower.named_modules() if name.endswith(names) and hasattr(one, "_hf_hook")]


def run_vision_tower(tower: PreTrainedModel, pixel_values: torch.Tensor, spatial_shapes, **kwargs):
    """The outputs of a vision encoder; `spatial_shapes` `(N, 2)` where the images come as patches, each of a shape of its own. The map of
    an encoder of convolutions becomes a sequence of vectors, from the top left to the bottom right."""
    pixel_values = pixel_values.to(tower.dtype)  # processors return float32
    if spatial_shapes is not None:
        mask = patch_places(spatial_shapes, pixel_values.shape[1])[2].to(torch.int32)  # (N, L)
        return tower(pixel_values, spatial_shapes=spatial_shapes, pixel_attention_mask=mask, **kwargs)
    family = vision_family(tower.config)
    if family.convolutional and any(side % family.patch_size(tower.config) for side in pixel_values.shape[-2:]):
        raise ValueError(
            f"pixel_values are {' x '.join(map(str, pixel_values.shape[-2:]))} pixels, but the vision encoder takes multiples of "
            f"{family.patch_size(tower.config)}: let the image processor resize the images."
        )
    outputs = tower(pixel_values, **kwargs)
    if (features := outputs.last_hidden_state).ndim == 4:  # DINOv3's ConvNeXt returns a sequence itself
        outputs.last_hidden_state = features.flatten(2).transpose(1, 2)  # (N, C, rows, columns) -> (N, T, C)
    return outputs


def cut_patches(pixel_values: torch.Tensor, patch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one size as encoders of any shape take them: patches `(N, L, p * p * channels)`, each pixel with its channels
    together, and the rows and columns of patches `(N, 2)`."""
    items, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.view(items, channels, rows, patch_size, columns, patch_size).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([rows, columns], device=pixel_values.device).expand(items, 2)
    return patches.reshape(items, rows * columns, -1), shapes


def patch_places(spatial_shapes: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row and column of each of `length` patches of images of `spatial_shapes` (rows, columns), and whether it is one or
    padding: `(N, L)` each."""
    index = torch.arange(length, device=spatial_shapes.device)
    rows, columns = spatial_shapes[:, :1], spatial_shapes[:, 1:]
    return index // columns, index % columns, index < rows * columns


def smallest_image(config) -> tuple[int, ...]:
    """Shape of the smallest `pixel_values` that an MMGPTConfig's vision encoder takes."""
    tower, family = config.vision_config, vision_family(config.vision_config)
    geometry = image_geometry(config)
    size = family.image_size(tower) if family.sizes == "one" else geometry["patch_size"] * geometry["merge_size"]
    return 1, tower.num_channels, size, size


def smallest_audio(config) -> tuple[int, ...]:
    """Shape of the smallest `input_features` that an MMGPTConfig's audio encoder takes in training."""
    tower, family = config.audio_config, audio_family(config.audio_config)
    if family.waveform:
        return 1, max(family.smallest, shortest_audio(family.convolutions(tower)))
    frames = family.frames_per_vector(tower) if family.frames is None else family.frames(tower)
    return 1, tower.num_mel_bins, frames


def run_audio_tower(tower: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor | None, **kwargs):
    """The outputs of an audio encoder, such that padding does not change what comes of the audio, in the order of time.

    Spectrogram encoders take silence for padding, as they were trained. Waveform encoders take a mask; those that were trained
    without one encode each audio clip by itself."""
    family, inputs = audio_family(tower.config), inputs.to(tower.dtype)
    if not family.waveform:
        outputs = tower(inputs.transpose(1, 2) if family.time_first else inputs, **kwargs)
        if family.bands is not None:
            vectors = outputs.last_hidden_state[:, family.special_tokens :]
            vectors = vectors.unflatten(1, (family.bands(tower.config), -1))  # (N, bands, steps, C)
            outputs.last_hidden_state = vectors.transpose(1, 2).flatten(1, 2)  # (N, T, C)
        return outputs
    if mask is None or mask.all():
        return tower(inputs, **kwargs)
    if family.takes_mask(tower.config):
        return tower(inputs, attention_mask=mask, **kwargs)
    clips = [tower(clip[None, :length], **kwargs) for clip, length in zip(inputs, mask.sum(-1).tolist(), strict=True)]
    return BaseModelOutput(
        last_hidden_state=pad_together([clip.last_hidden_state for clip in clips]),
        hidden_states=pad_layers([clip.hidden_states for clip in clips]),
        attentions=pad_layers([clip.attentions for clip in clips]),
    )


def pad_layers(layers: list[tuple[torch.Tensor, ...] | None]) -> tuple[torch.Tensor, ...] | None:
    """One tensor for each layer, of the layers of each audio clip; `None` if they were not asked for."""
    return None if layers[0] is None else tuple(map(pad_together, zip(*layers, strict=True)))


def pad_together(states: list[torch.Tensor]) -> torch.Tensor:
    """States of audio clips of several lengths, `(1, T, C)`, or attentions, `(1, heads, T, T)`, with zeros behind the shorter ones."""
    longest = [max(sizes) for sizes in zip(*(one.shape[1:] for one in states), strict=True)]
    padded = states[0].new_zeros(len(states), *longest)
    for place, one in enumerate(states):
        padded[(place, *map(slice, one.shape[1:]))] = one[0]
    return padded
