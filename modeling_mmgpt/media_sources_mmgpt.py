"""Where media come from, and how much of them is read: paths, URLs, base64, bytes and open files to bytes, within `Limits`."""

import base64
import dataclasses
import http.client
import importlib
import os
import re
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .downloads_mmgpt import open_url
from .requests_mmgpt import shown


BYTES = (bytes, bytearray, memoryview)
BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+=*\s*")
# Of PyAV: a file that is a list of other files or of addresses (HLS) must not lead anywhere.
NO_LINKS = {"protocol_whitelist": "none"}
# How files of images, audio and videos begin, some of them (MP4) after four bytes.
SIGNATURES = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|BM|II\*\0|MM\0\*|fLaC|OggS|ID3|\xff[\xe2-\xff]|FORM|\x1aE\xdf\xa3|0&\xb2u|.{4}ftyp|\.snd",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that is read of media. They are checked before decoding, by what files say of themselves, and while decoding, because
    files may lie."""

    image_side: int = 20_000  # pixels
    image_pixels: int = 89_478_485  # PIL.Image.MAX_IMAGE_PIXELS of Pillow; where that was set lower, it holds
    request_pixels: int = 360_000_000  # of all images of a request together
    audio_seconds: float = 1800
    audio_channels: int = 32
    lowest_rate: float = 1_000  # samples a second
    highest_rate: float = 768_000
    audio_bytes: int = 512 * 2**20  # of decoded mono audio
    video_seconds: float = 1800
    video_bytes: int = 512 * 2**20  # of the frames that are taken
    download_bytes: int = 64 * 2**20
    download_seconds: float = 20

    def lowered(self, **limits) -> "Limits":
        """These limits where `limits`, such as those of a checkpoint, are not lower: nothing is raised."""
        unknown = limits.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} is not one of the limits of media: see Limits.")
        choose = {name: max if name == "lowest_rate" else min for name in limits}
        return dataclasses.replace(self, **{name: choose[name](getattr(self, name), limits[name]) for name in limits})


@dataclasses.dataclass(frozen=True)
class MediaPolicy:
    """Where media may come from. Bytes, data URLs, base64 and objects always may."""

    paths: bool = True  # of files here, and file:// URLs
    downloads: bool = True
    folders: tuple[str, ...] | None = None  # paths only of what is in these, links followed
    domains: tuple[str, ...] | None = None  # downloads only from these, and from what is below them
    private_addresses: bool = True  # of this machine and its networks; those that `domains` names may be

    def allows_path(self, path) -> bool:
        if not self.paths or self.folders is None:
            return self.paths
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # letters that no path has
            return False
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in self.folders)


LIMITS, TRUSTED = Limits(), MediaPolicy()
STRANGERS = MediaPolicy(paths=False, private_addresses=False)


class MediaError(Exception):
    """What is wrong with a medium, in words that follow its name; outside `naming` it is an error of `kind`."""

    def __init__(self, words: str, kind: type[Exception] = ValueError):
        super().__init__(words)
        self.kind = kind


@contextmanager
def naming(name: str):
    """Puts the name of a medium before the words of the block's [`MediaError`]."""
    try:
        yield
    except MediaError as error:
        raise error.kind(name + (" " if error.args[0][0] != ":" else "") + error.args[0]) from error.__cause__


def import_optional(module: str, package: str, task: str):
    """The module, which only `task` needs. An import statement anywhere in this file would make transformers demand the package
    of everyone who loads the remote code."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{task} needs {package}, which is not installed: `pip install {package}`.") from error


def unwrap(source, key: str):
    """Samples of `datasets` hold media as {"bytes", "path"} when they are not decoded; audio also as {"array", ...}."""
    if isinstance(source, dict) and key not in source:
        return source["bytes"] if source.get("bytes") is not None else source.get("path")
    return source


def is_file_like(source) -> bool:
    """Whether `source` is what `read_bytes` reads: anything but objects that are decoded already."""
    return isinstance(source, (str, os.PathLike, *BYTES)) or callable(getattr(source, "read", None))


def as_array(source) -> np.ndarray:
    """A tensor of any type, with or without gradients and wherever it is, or anything else that numpy makes numbers of."""
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = source.float() if source.dtype.is_floating_point else source
        return source.resolve_conj().resolve_neg().numpy()
    try:
        array = np.asarray(source)
    except (ValueError, TypeError) as error:  # nested lists of different lengths
        raise MediaError(f"is a {type(source).__name__} that is no array: {shown(error)}") from error
    if array.dtype.kind not in "buif":
        raise MediaError(
            f"is a {type(source).__name__} of no real numbers ({shown(array.dtype, 40)}): give an array, a path, a URL, base64 or bytes."
        )
    return array


def read_bytes(source, policy: MediaPolicy = TRUSTED, limits: Limits = LIMITS) -> bytes:
    """The bytes behind a path, an http(s), file or data URL, a base64 string or an open file; bytes are returned as they are."""
    if isinstance(source, BYTES):
        return bytes(source)
    if callable(getattr(source, "read", None)):
        return read_open_file(source)
    if not isinstance(source, str):
        return read_file(os.fspath(source), policy)
    scheme = source[:8].lower()
    if scheme.startswith(("http://", "https://")):
        if not policy.downloads:
            raise MediaError(f": {shown(source)} is not downloaded here: send its content, as a data URL or base64.")
        return download(source, policy, limits)
    if scheme.startswith("data:"):
        head, _, content = source.partition(",")
        return decode_base64(content) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(content)
    if scheme.startswith("file://"):
        return read_file(urllib.request.url2pathname(urllib.parse.urlsplit(source).path), policy)
    if "://" in source[:20]:
        raise MediaError(f": cannot open {shown(source)!r}: give a path, an http(s) or data URL, or base64.")
    if is_base64(source) and not (policy.paths and is_file(source)):
        return decode_base64(source)
    if len(source) > 4096:
        raise MediaError(f": {shown(source, 40)!r} is neither a file nor valid base64.")
    return read_file(source, policy)


def is_base64(text: str) -> bool:
    """Words are base64 too: what is short has to begin as a file of media does."""
    if not BASE64.fullmatch(text):
        return False
    begin = "".join(text[:64].split())[:24]
    return len(text) >= 1024 or bool(SIGNATURES.match(decode_base64(begin[: len(begin) // 4 * 4])))


def is_file(path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or letters that no path has
        return False


def read_file(path, policy: MediaPolicy) -> bytes:
    if not policy.allows_path(path):
        where = "" if policy.folders is None else " outside the allowed folders"
        raise MediaError(f": files{where} are not opened by path here: send its content, as a data URL or base64.")
    if not is_file(path):
        raise MediaError(f": there is no file {shown(path)}.", FileNotFoundError)
    return Path(path).read_bytes()


def read_open_file(file) -> bytes:
    """All of it, wherever it stands."""
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # closed, or not open for reading
        raise MediaError(f"is a file that cannot be read: {shown(error)}") from error
    if not isinstance(content, BYTES):
        raise MediaError("is a file that is open as text: open it with mode 'rb'.")
    return bytes(content)


def decode_base64(text: str) -> bytes:
    """Also in lines, with the letters of URLs, and without the `=` at the end."""
    letters = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except ValueError as error:
        raise MediaError(f": {shown(text, 40)!r} is not valid base64.") from error


def download(url: str, policy: MediaPolicy, limits: Limits) -> bytes:
    """What stands at `url`, in no more than so many bytes and seconds."""
    end = time.monotonic() + limits.download_seconds
    content = bytearray()
    try:
        with open_url(url, policy, limits.download_seconds) as response:
            block = b"first"
            while block:
                block = response.read1(2**16)
                content += block
                if len(content) > limits.download_bytes:
                    raise ValueError(f"it has more than {limits.download_bytes:,} bytes, the most that is downloaded")
                if time.monotonic() > end:
                    raise ValueError(f"it takes longer than {limits.download_seconds} s")
            if response.length:  # bytes that were promised and did not come
                raise http.client.IncompleteRead(bytes(content), response.length)
    except (OSError, ValueError, http.client.HTTPException) as error:  # no such place, no URL, no whole answer
        reason = shown(error) if time.monotonic() < end else f"it takes longer than {limits.download_seconds} s"
        raise MediaError(f": cannot download {shown(url)}: {reason}") from error
    return bytes(content)
