"""Images in every form to RGB images of Pillow: upright, transparent ones on white, of 8 bits a channel.

Pillow is imported when it is first needed: a model loads without it."""

import importlib
import io
import sys
import warnings

import numpy as np
import torch

from .media_sources_mmgpt import (
    LIMITS,
    TRUSTED,
    Limits,
    MediaError,
    MediaPolicy,
    as_array,
    import_optional,
    is_file_like,
    naming,
    read_bytes,
    unwrap,
)
from .requests_mmgpt import shown


FORMS = "give an image object, an array, a path, a URL, base64 or bytes"


def is_image(source) -> bool:
    """Whether `source` is an image object of Pillow; where Pillow was never imported there is none."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


def load_image(source, name: str = "image", policy: MediaPolicy = TRUSTED, limits: Limits = LIMITS):
    """`source` as an RGB image of Pillow.

    Arrays and tensors are `(height, width)`, `(height, width, channels)` or `(channels, height, width)` with 1 to 4 channels: grey,
    grey with alpha, RGB, RGBA; of integers to 255, uint16, or floats to 1 or to 255. Raises `ValueError` or
    `FileNotFoundError` with `name` in it when there is no image to be had."""
    with naming(name):
        source = unwrap(source, "image")
        if source is None:
            raise MediaError(f"is None: {FORMS}.")
        if isinstance(source, (np.ndarray, torch.Tensor)):
            return image_of_array(source, limits)
        if is_image(source):
            return decode_image(source, limits)
        if not is_file_like(source):
            raise MediaError(f"is a {type(source).__name__}: {FORMS}.")
        return decode_image(io.BytesIO(read_bytes(source, policy, limits)), limits)


def decode_image(source, limits: Limits):
    """An image object of Pillow, or an open file, upright and in RGB."""
    pillow = import_optional("PIL.Image", "pillow", "Reading images")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)  # `bound_pixels` deals with it
            image = source if is_image(source) else pillow.open(source)
        bound_pixels(image, limits)
        return opaque(importlib.import_module("PIL.ImageOps").exif_transpose(image), limits)
    except pillow.UnidentifiedImageError as error:
        raise MediaError("is not an image that can be read (wrong format or damaged file).") from error
    except pillow.DecompressionBombError as error:
        raise MediaError(f"is too large: {error} Make it smaller.") from error
    except (OSError, SyntaxError, EOFError, OverflowError) as error:  # what Pillow raises for damaged files
        raise MediaError(f"is damaged: {shown(error)}.") from error


def opaque(image, limits: Limits):
    """`image`, in any mode of Pillow, in RGB; what is transparent shows white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # grey of 16 bits
        return image_of_array(np.asarray(image).astype(np.uint16), limits)
    if image.mode in ("I", "F"):
        return image_of_array(np.asarray(image), limits)
    if image.has_transparency_data:
        pillow = importlib.import_module("PIL.Image")
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:  # of colours that Pillow does not convert (LAB)
        raise MediaError(f"has colours ({image.mode}) that cannot be read: save it as RGB.") from error


def image_of_array(source, limits: Limits):
    """An array or tensor, see `load_image`, as an RGB image of Pillow."""
    array = as_array(source)
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]  # (height, width, 1)
    if array.ndim == 3:
        last = channels_are_last(array.shape, prefer_last=not isinstance(source, torch.Tensor))
        array = array if last else np.moveaxis(array, 0, -1)  # (height, width, channels)
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or not array.size:
        raise MediaError(
            f"has shape {shape}: give (height, width), (height, width, channels) or (channels, height, width), with 1 to 4 channels."
        )
    check_size(*array.shape[1::-1], limits)
    array = to_bytes(array)
    array = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
    return opaque(import_optional("PIL.Image", "pillow", "Reading images").fromarray(array), limits)


def channels_are_last(shape: tuple[int, ...], prefer_last: bool) -> bool:
    """Three or four channels are looked for before one or two; where both ends could be channels, arrays have them last, tensors first."""
    for counts in ((3, 4), (1, 2)):
        first, last = shape[0] in counts, shape[-1] in counts
        if first or last:
            return last and (prefer_last or not first)
    return True


def to_bytes(array: np.ndarray) -> np.ndarray:
    """Brightness as uint8: of uint16 and booleans by their range, of other integers as they are, of floats by the range they keep to."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype == np.uint16:
        return (array / 257).round().astype(np.uint8)
    if not np.isfinite(array).all():
        raise MediaError(f"has {int((~np.isfinite(array)).sum())} values that are NaN or infinite.")
    low, high = array.min(), array.max()
    is_float = array.dtype.kind == "f"
    slack = 1e-3 if is_float else 0  # resizing leaves values a little beyond the range
    if low < -slack or high > 255 * (1 + slack):
        raise MediaError(
            f"has {array.dtype} values from {low:.4g} to {high:.4g}: give uint8, uint16, integers from 0 to 255, or floats from 0 to 1 or "
            "from 0 to 255."
        )
    if is_float and high <= 1 + slack:
        array = array * 255
    return array.clip(0, 255).round().astype(np.uint8)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuses sides that are too long; for pixels see `bound_pixels`."""
    if max(width, height) > limits.image_side:
        raise MediaError(
            f"has {width} x {height} pixels, more than {limits.image_side:,} on a side: make it smaller, or raise Limits.image_side."
        )


def most_pixels(limits: Limits) -> int:
    """The lower of the limit and Pillow's bound, which its users may have moved; `None` there: it has none."""
    bound = importlib.import_module("PIL.Image").MAX_IMAGE_PIXELS
    return limits.image_pixels if bound is None else min(bound, limits.image_pixels)


def bound_pixels(image, limits: Limits) -> None:
    """Has a JPEG of more pixels than `most_pixels` decoded at a half, a quarter or an eighth of its sides; refuses other
    files that are larger. Only the header has been read so far; an image in memory stays as it is."""
    if not getattr(image, "tile", None):
        return
    limit, (width, height) = most_pixels(limits), image.size
    check_size(width, height, limits)
    if width * height <= limit:
        return
    reduction = next((factor for factor in (2, 4, 8) if width * height <= limit * factor**2), None)
    if image.format != "JPEG" or reduction is None:
        raise MediaError(
            f"has {width} x {height} pixels, more than the {limit:,} that are decoded: make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS and Limits.image_pixels."
        )
    image.draft("RGB", (width // reduction, height // reduction))
