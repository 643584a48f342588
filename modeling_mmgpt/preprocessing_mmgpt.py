"""Media to chunks, what an encoder takes one of: images and their tiles, windows of audio, frames of videos.

Each function runs one of transformers' processors and returns what the model takes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from transformers.image_utils import get_image_size

from .token_counts_mmgpt import (
    audio_token_count,
    audio_windows,
    grid_token_count,
    image_token_count,
    most_tiles,
    shortest_audio,
    tiles_per_image,
    window_frames,
)
from .tower_families_mmgpt import vision_family
from .vllm_mmgpt import in_vllm, pad_end


FPS, NUM_FRAMES = 1.0, 32  # of videos, where their processor names none

NO_PART = "The model has a {!r} encoder: give the {} that feeds it."

# What a video's frames share with images.
SHARED_SETTINGS = (
    "size",
    "crop_size",
    "do_center_crop",
    "do_resize",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "do_convert_rgb",
    "image_mean",
    "image_std",
    "resample",
)


def takes_any_size(image_processor) -> bool:
    """Whether it cuts images of any shape into patches (NaFlex)."""
    return "spatial_shapes" in image_processor.model_input_names


def cuts_tiles(image_processor) -> bool:
    return bool(getattr(image_processor, "crop_to_patches", False))


def check_image_processor(config, image_processor) -> None:
    """Refuses a missing image processor, and one that makes another form of input than the vision encoder takes."""
    if config.vision_config is None:
        return
    if image_processor is None:
        raise ValueError(NO_PART.format(config.vision_config.model_type, "image_processor"))
    kind, family = config.vision_config.model_type, vision_family(config.vision_config)
    any_size, tiles = takes_any_size(image_processor), cuts_tiles(image_processor)
    name = type(image_processor).__name__
    if not (family.patches if any_size else family.pixels):
        takes = "images of any shape as patches" if not family.pixels else "images of one size"
        raise ValueError(f"The model's {kind!r} encoder takes {takes}, which {name} does not make: use another one.")
    if tiles != (config.vision_max_tiles is not None):
        raise ValueError(
            f"vision_max_tiles is {config.vision_max_tiles} but {name} cuts {'tiles' if tiles else 'none'}: tiles need both, "
            "vision_max_tiles in the model's config and crop_to_patches=True in an image processor that has it (GotOcr2ImageProcessor)."
        )
    if tiles and image_processor.max_patches > config.vision_max_tiles:
        raise ValueError(
            f"{name} cuts up to {image_processor.max_patches} tiles, but vision_max_tiles is {config.vision_max_tiles}."
        )


def check_feature_extractor(config, feature_extractor) -> None:
    """Refuses a missing feature extractor, and one whose windows are not as long as those of the audio encoder."""
    if config.audio_config is None:
        return
    if feature_extractor is None:
        raise ValueError(NO_PART.format(config.audio_config.model_type, "feature_extractor"))
    frames, longest = window_frames(config.audio_config), framing(feature_extractor).longest
    if frames not in (None, longest):
        raise ValueError(
            f"The model's {config.audio_config.model_type!r} encoder takes spectrograms of {frames} frames, but those of "
            f"{type(feature_extractor).__name__} have {longest or 'any number'}: use the feature extractor of its checkpoint."
        )


def image_chunks(image_processor, images: list, **kwargs) -> dict:
    """`pixel_values`, with `tile_positions` of a processor that cuts tiles and `spatial_shapes` of one that takes any size."""
    if takes_any_size(image_processor):
        processed = image_processor(images, **{**kwargs, "return_tensors": "pt"})
        # The processor pads to its own maximum. In vLLM it stays so: an image must not depend on its neighbours there.
        shapes = processed["spatial_shapes"]
        longest = None if in_vllm() else int(shapes.prod(-1).max())
        return {"pixel_values": processed["pixel_values"][:, :longest], "spatial_shapes": shapes}
    if not cuts_tiles(image_processor):
        return image_processor(images, **kwargs)
    pixel_values, positions = [], []
    for image in images:
        rows, columns = tile_grid(image_processor, *size_of(image), **kwargs)
        # Asked for exactly so many tiles, the processor has one choice of the grid's shape: ours.
        options = {**kwargs, "return_tensors": "pt", "min_patches": rows * columns, "max_patches": rows * columns}
        pixel_values.append(image_processor(image, **options)["pixel_values"])
        positions += tile_positions(rows, columns)
    return {"pixel_values": torch.cat(pixel_values), "tile_positions": torch.tensor(positions)}


def image_tokens(chunks: dict, num_images: int, geometry: dict) -> list[int]:
    """Tokens of each image of what `image_chunks` returned."""
    if "spatial_shapes" in chunks:
        return [grid_tokens(*grid, geometry) for grid in chunks["spatial_shapes"].tolist()]
    numbers = tiles_per_image(chunks["tile_positions"]).tolist() if "tile_positions" in chunks else [1] * num_images
    height, width = chunks["pixel_values"][0].shape[-2:]  # all chunks are of one size
    return [number * image_token_count(height, width, **geometry) for number in numbers]


def plan_image(image_processor, height: int, width: int, geometry: dict, **kwargs) -> tuple[int, int]:
    """Tokens of an image of so many pixels, and the number of chunks that the vision encoder takes it in."""
    if takes_any_size(image_processor):
        return grid_tokens(*patch_grid(image_processor, height, width, **kwargs), geometry), 1
    chunks = 1
    if cuts_tiles(image_processor):
        chunks = len(tile_positions(*tile_grid(image_processor, height, width, **kwargs)))
    return chunks * image_token_count(*chunk_size(image_processor), **geometry), chunks


def grid_tokens(rows: int, columns: int, geometry: dict) -> int:
    return grid_token_count(rows, columns, geometry["merge_size"], geometry.get("tokens_per_row"))


def tile_grid(image_processor, height: int, width: int, **kwargs) -> tuple[int, int]:
    """Rows and columns of tiles that an image is cut into, its shape kept as well as the number of tiles allows."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    settings = {
        name: getattr(image_processor, name) if kwargs.get(name) is None else kwargs[name]
        for name in ("crop_to_patches", "size", "min_patches", "max_patches")
    }
    if not settings["crop_to_patches"]:
        return 1, 1
    tile_size = settings["size"]["height"], settings["size"]["width"]
    most = most_tiles(height, width, tile_size, settings["max_patches"])
    least = min(settings["min_patches"], settings["max_patches"])
    columns, rows = get_optimal_tiled_canvas((height, width), tile_size, least, max(least, most))
    return rows, columns


def tile_positions(rows: int, columns: int) -> list[tuple[int, int]]:
    """Row and column of each tile, counted from 1, and (0, 0) of the overview at the end, which stands alone for one tile."""
    tiles = [(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
    return [*(tiles if len(tiles) > 1 else []), (0, 0)]


def patch_grid(
    image_processor, height: int, width: int, max_num_patches: int | None = None, **kwargs
) -> tuple[int, int]:
    """Rows and columns of patches that a processor of any size cuts an image into."""
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    side = image_processor.patch_size
    most = max_num_patches or image_processor.max_num_patches
    height, width = get_image_size_for_max_num_patches(height, width, side, most)
    return height // side, width // side


def chunk_size(processor) -> tuple[int, int]:
    """Height and width of what an image or video processor makes of each image, tile or frame."""
    size = processor.crop_size if getattr(processor, "do_center_crop", None) else processor.size
    return size["height"], size["width"]


def size_of(image) -> tuple[int, int]:
    """Height and width of an image object or array."""
    return (image.height, image.width) if hasattr(image, "height") else get_image_size(image)


class Framing(NamedTuple):
    """How a feature extractor makes frames of samples; of a waveform each sample is a frame."""

    hop: int  # samples from one frame to the next
    overlap: int  # samples by which a frame is longer than that
    longest: int | None  # frames of the windows that it pads to; None: any number
    least: int  # samples that it needs
    counts_begun: bool  # whether a frame that padding completes counts as audio

    def samples(self, num_frames: int) -> int:
        return num_frames * self.hop + self.overlap

    def frames(self, num_samples: int, in_window: bool) -> int:
        """Frames that are audio and not padding."""
        hops = (num_samples - self.overlap) / self.hop
        return math.ceil(hops) if in_window and self.counts_begun else math.floor(hops)

    @property
    def window(self) -> int:
        """Samples of the windows that it pads to."""
        return self.samples(self.longest)

    def shortest(self, convolutions: list) -> int:
        """Samples that shorter audio is padded to: enough for a frame, and for one token."""
        return max(self.least, self.samples(shortest_audio(convolutions)))


def framing(feature_extractor) -> Framing:
    if hop := getattr(feature_extractor, "hop_length", None):  # spectrograms as Whisper's
        longest = getattr(feature_extractor, "nb_max_frames", None)
        return Framing(hop, 0, longest, getattr(feature_extractor, "n_fft", 1), counts_begun=True)
    if longest := getattr(feature_extractor, "max_length", None):  # Kaldi's, of 25 ms every 10 ms at 16 kHz (AST)
        return Framing(160, 240, longest, 400, counts_begun=False)
    return Framing(1, 0, None, 1, counts_begun=False)


def audio_chunks(feature_extractor, waveforms: list, window: int | None, shortest: int, **kwargs) -> dict:
    """`input_features` and `input_features_mask`; with a `window` also `audio_windows`, how many each audio was cut into.

    Each window goes through the extractor by itself, so that its spectrogram does not depend on its neighbours."""
    kwargs |= {"padding": "longest" if window is None else "max_length", "truncation": False}
    kwargs |= {"return_attention_mask": True, "return_tensors": "np", "sampling_rate": feature_extractor.sampling_rate}
    name = feature_extractor.model_input_names[0]
    spectrograms, lengths, counts = [], [], []
    for waveform in waveforms:
        sizes = audio_windows(len(waveform), window, shortest)
        waveform = np.pad(waveform, (0, sum(sizes) - len(waveform)))
        for piece in np.split(waveform, np.cumsum(sizes)[:-1]):
            features = feature_extractor(piece, **kwargs)
            mask = features.get("attention_mask")
            if mask is None:  # Kaldi's: (frames, mel), of which the extractor does not say how many are padding
                spectrograms.append(features[name][0].T)
                lengths.append(framing(feature_extractor).frames(len(piece), window is not None))
            else:
                spectrograms.append(features[name][0])  # (mel, frames), or (samples,)
                lengths.append(int(mask[0].sum()))
        counts.append(len(sizes))
    longest = max(spectrogram.shape[-1] for spectrogram in spectrograms)
    padded = [pad_end(one, longest) for one in spectrograms]
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    chunks = {"input_features": np.stack(padded).astype(np.float32), "input_features_mask": mask}
    return chunks if window is None else {**chunks, "audio_windows": np.array(counts)}


def audio_tokens(chunks: dict, geometry: dict) -> list[int]:
    """Tokens of each audio clip of what `audio_chunks` returned."""
    frames = chunks["input_features_mask"].sum(-1)  # (windows of all audio clips,)
    ends = np.cumsum(chunks.get("audio_windows", np.ones(len(frames), dtype=int)))
    return [int(audio_token_count(own, **geometry).sum()) for own in np.split(frames, ends[:-1])]


def video_chunks(video_processor, videos: list[dict], **kwargs) -> dict:
    """`pixel_values_videos` of all frames and `num_frames_per_video`, how many are each video's, of videos that `load_video` returned."""
    kwargs |= {"return_tensors": "pt", "do_sample_frames": False}
    frames = [video_processor([video["frames"]], **kwargs)["pixel_values_videos"][0] for video in videos]
    return {
        "pixel_values_videos": torch.cat(frames),
        "num_frames_per_video": torch.tensor([len(one) for one in frames]),
    }


def shared_settings(image_processor) -> dict:
    settings = {name: getattr(image_processor, name, None) for name in SHARED_SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


def video_processor_like(image_processor, **choices):
    """A video processor that prepares frames as `image_processor` prepares images, each frame as a whole.

    `choices` are settings of its own, such as `fps` and `num_frames`, the most frames of a second and of a video."""
    from transformers import LlavaOnevisionVideoProcessor

    settings = shared_settings(image_processor)
    if takes_any_size(image_processor):
        side = int(image_processor.max_num_patches**0.5) * image_processor.patch_size
        settings["size"] = {"height": side, "width": side}
    return LlavaOnevisionVideoProcessor(**settings | {"fps": FPS, "num_frames": NUM_FRAMES} | choices)


def tiling_processor_like(image_processor, max_tiles: int):
    """A processor that cuts large images into up to `max_tiles` tiles, each like an image of `image_processor`."""
    from transformers import GotOcr2ImageProcessor

    settings = shared_settings(image_processor)
    height, width = chunk_size(image_processor)
    settings["size"] = {"height": height, "width": width}
    for name in ("crop_size", "do_center_crop"):
        settings.pop(name, None)
    return GotOcr2ImageProcessor(**settings, crop_to_patches=True, max_patches=max_tiles)


def sampling(video_processor, fps: float | None = None, num_frames: int | None = None) -> tuple[float, int]:
    """Frames per second and the most frames of a video: what the caller says, or its processor."""
    return fps or video_processor.fps or FPS, num_frames or video_processor.num_frames or NUM_FRAMES
