"""Images of every kind become what a person sees on white paper, in RGB of 8 bits; others are refused by name."""

import io
import re

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_mmgpt.image_loading_mmgpt import load_image
from modeling_mmgpt.media_sources_mmgpt import Limits
from tests.conftest import make_image


def saved(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixels(source) -> np.ndarray:
    image = load_image(source, "image 7")
    assert image.mode == "RGB"
    return np.asarray(image)


def drawn_in_black(mode: str = "RGBA"):
    """A transparent image, 8 x 8, black all over, with an opaque square."""
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[2:5, 2:5] = 255
    image = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putalpha(PIL.Image.fromarray(alpha))
    return image.convert(mode), np.repeat(255 - alpha[..., None], 3, axis=2)


def palette_with_transparency():
    image = PIL.Image.fromarray((drawn_in_black()[1][..., 0] > 0).astype(np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    "source",
    [
        drawn_in_black()[0],
        drawn_in_black("LA")[0],
        drawn_in_black("RGBa")[0],
        drawn_in_black("LA")[0].convert("La"),
        palette_with_transparency(),
        np.asarray(drawn_in_black()[0]),
        np.asarray(drawn_in_black("LA")[0]),
        torch.tensor(np.asarray(drawn_in_black()[0])).permute(2, 0, 1),
        saved(drawn_in_black()[0], "PNG"),
        saved(drawn_in_black("LA")[0], "PNG"),
        saved(palette_with_transparency(), "PNG"),
        saved(drawn_in_black()[0], "GIF"),
        saved(drawn_in_black()[0], "WebP", lossless=True, exact=True),
        saved(drawn_in_black()[0], "TIFF"),
        saved(drawn_in_black()[0], "ICO", sizes=[(8, 8)]),
    ],
)
def test_what_is_transparent_shows_white(source):
    np.testing.assert_array_equal(pixels(source), drawn_in_black()[1])


def test_a_colour_that_counts_as_transparent_shows_white():
    grey = PIL.Image.fromarray(np.array([[0, 90], [180, 255]], dtype=np.uint8))
    assert pixels(saved(grey, "PNG", transparency=90))[..., 0].tolist() == [[0, 255], [180, 255]]
    colours = PIL.Image.new("RGB", (2, 1), (1, 2, 3))
    colours.putpixel((1, 0), (9, 9, 9))
    assert pixels(saved(colours, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]


def test_half_transparent_colours_are_mixed_with_white():
    image = PIL.Image.new("RGBA", (1, 1), (200, 100, 0, 128))
    np.testing.assert_allclose(pixels(image)[0, 0], [227, 177, 127], atol=1)


def test_opaque_images_stay_as_they_are():
    image = make_image(0)
    for source in (image, image.convert("RGBA"), np.asarray(image), saved(image, "PNG"), saved(image, "BMP")):
        np.testing.assert_array_equal(pixels(source), np.asarray(image))


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "source",
    [
        RAMP,
        RAMP[..., None],
        RAMP[None],
        RAMP.astype(np.int64),
        RAMP.astype(np.int16),
        RAMP.astype(np.uint16) * 257,
        RAMP / 255,
        (RAMP / 255).astype(np.float32),
        RAMP.astype(np.float64),
        torch.tensor(RAMP / 255),
        torch.tensor(RAMP / 255).requires_grad_(),
        torch.tensor(RAMP.astype(np.float32)).bfloat16()[None],
        np.stack([RAMP] * 3, axis=2),
        np.stack([RAMP] * 3),
        torch.tensor(np.stack([RAMP / 255] * 3))[None],
        PIL.Image.fromarray(RAMP.astype(np.uint16) * 257),
        PIL.Image.fromarray(RAMP.astype(np.int32)),
        PIL.Image.fromarray((RAMP / 255).astype(np.float32)),
        saved(PIL.Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
        saved(PIL.Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
        saved(PIL.Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    ],
)
def test_numbers_of_every_type_and_order_are_the_same_image(source):
    np.testing.assert_array_equal(pixels(source), np.stack([RAMP] * 3, axis=2))


def test_booleans_are_black_and_white():
    assert pixels(np.array([[True, False]]))[..., 0].tolist() == [[255, 0]]
    assert pixels(PIL.Image.fromarray(np.array([[True, False]])))[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 40, 3), (40, 1)),
        ((40, 1, 3), (1, 40)),
        ((3, 40, 3), (40, 3)),
        ((3, 40, 50), (50, 40)),
        ((9, 5, 1), (5, 9)),
    ],
)
def test_channels_are_found_first_or_last(shape, size):
    assert load_image(np.zeros(shape, dtype=np.uint8)).size == size


def test_both_ends_may_be_channels_and_arrays_have_them_last_tensors_first():
    assert load_image(np.zeros((3, 5, 4))).size == (5, 3) and load_image(torch.zeros(3, 5, 4)).size == (4, 5)


def test_images_are_turned_upright():
    image = PIL.Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    for kind in ("PNG", "TIFF"):
        turned = pixels(saved(image, kind, exif=exif))
        assert turned.shape == (20, 10, 3) and turned[5, 5].tolist() == [0, 0, 255]
    grey = PIL.Image.fromarray((RAMP.astype(np.uint16) * 257)[:, :8])
    assert load_image(saved(grey, "PNG", exif=exif)).size == (16, 8)


def test_print_colours_are_converted():
    image = PIL.Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    for source in (image, saved(image, "TIFF"), saved(image, "JPEG", quality=100)):
        np.testing.assert_allclose(pixels(source)[5, 5], [255, 0, 0], atol=3)
    np.testing.assert_allclose(
        pixels(PIL.Image.new("RGB", (4, 4), (9, 99, 199)).convert("YCbCr"))[0, 0], [9, 99, 199], atol=2
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((4, 4)) - 1, "image 7 has float64 values from -1 to -1"),
        (np.full((4, 4), 256), "image 7 has int64 values from 256 to 256"),
        (np.full((4, 4), 1e30), "image 7 has float64 values from 1e+30"),
        (np.full((4, 4), -5, dtype=np.int8), "image 7 has int8 values"),
        (PIL.Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)), "image 7 has int32 values"),
        (np.array([[np.nan, 0.5, np.inf]]), "image 7 has 2 values that are NaN or infinite"),
        (np.zeros((0, 4, 3)), "image 7 has shape (0, 4, 3)"),
        (np.zeros(7), "image 7 has shape (7,)"),
        (np.zeros((2, 4, 4, 3)), "image 7 has shape (2, 4, 4, 3)"),
        (np.zeros((9, 9, 9)), "image 7 has shape (9, 9, 9)"),
        (np.array(5), "image 7 has shape ()"),
        (np.array(["a" * 500]), "image 7 is a ndarray of no real numbers"),
        (np.zeros((4, 4), dtype=complex), "image 7 is a ndarray of no real numbers"),
        (5, "image 7 is a int"),
        (object(), "image 7 is a object"),
        ({"picture": 1}, "image 7 is None"),
        ([[1, 2], [3]], "image 7 is a list"),
        (b"", "image 7 is not an image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(source, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        load_image(source, "image 7")
    assert len(str(refusal.value)) < 300


def test_sides_that_are_too_long_are_refused_before_decoding():
    long = PIL.Image.new("1", (20_001, 2))
    for source in (saved(long, "PNG"), np.zeros((20_001, 2), dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"image 7 has .* pixels, more than 20,000 on a side"):
            load_image(source, "image 7")
    assert load_image(saved(long, "PNG"), limits=Limits(image_side=30_000)).size == (20_001, 2)


def test_fewer_pixels_may_be_allowed():
    with pytest.raises(ValueError, match="image 7 has 16 x 16 pixels, more than the 255 that are decoded"):
        load_image(saved(PIL.Image.fromarray(RAMP), "PNG"), "image 7", limits=Limits().lowered(image_pixels=255))
