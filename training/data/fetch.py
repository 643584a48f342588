r"""Brings the data set of a recipe from its public origin, at a fixed commit, as the very samples that the recipe was measured on.

    python -m training.data.fetch fsdd                      # into data/fsdd, where the recipes look for it
    python -m training.data.fetch joint --root /data        # all that a recipe reads, elsewhere: train with data.root=/data
    python -m training.data.fetch fsdd --mirror https://mirror.example/github

configuration/datasets says where each set comes from, under which licence, and which samples it has. Every original is compared with
git's checksum of it, and the finished set with a digest of its samples; it appears as a whole or not at all. What was fetched stays in
`.NAME.fetch` beside it until then: the same command goes on from there. Proxies are taken from the environment (`HTTPS_PROXY`).
"""

import argparse
import errno
import gzip
import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml
from filelock import FileLock, Timeout
from huggingface_hub.utils import httpx
from tqdm import tqdm

from training.data.originals import CONVERTERS, Records, digest_of
from training.recipe_files import CONFIGURATION, read_yaml, valid_name


DATASETS = CONFIGURATION / "datasets"
SINGLE_FILES = "https://raw.githubusercontent.com"  # /OWNER/NAME/COMMIT/PATH
ARCHIVES = "https://codeload.github.com"  # /OWNER/NAME/tar.gz/COMMIT
FEW = 50  # missing files that are asked for one by one; more come in one archive, where there is one
AT_ONCE = 8
ATTEMPTS = 5  # without a byte more
PAUSE = 1.0  # seconds before the second attempt, then twice as long each time
LONGEST_PAUSE = 60.0
BROKEN = (httpx.TransportError, tarfile.ReadError, EOFError, zlib.error)


class FetchError(Exception):
    """Why a set is not there, and the way out."""


class NotThere(Exception):
    """The server has no such file."""


@dataclass(frozen=True)
class Original:
    r"""
    origin (`str`): name of the origin in the set's file; `repository` (`str`): owner/name; `commit` (`str`): in full.
    path (`str`): in the repository.
    bytes (`int`): its size; `blob` (`str`): git's SHA-1 of it, or the first digits.
    """

    origin: str
    repository: str
    commit: str
    path: str
    bytes: int
    blob: str

    @property
    def place(self) -> Path:
        return Path(self.origin, *self.path.split("/"))

    def is_right(self, data: bytes) -> bool:
        return len(data) == self.bytes and blob_of(data).startswith(self.blob)


def blob_of(data: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read_description(name: str) -> dict:
    """The file of a set in configuration/datasets."""
    known = known_sets()
    if name not in known:
        raise FetchError(f"there is no data set {name!r} to fetch, but {', '.join(known)}; {valid_name(name, known)}.")
    return yaml.safe_load((DATASETS / f"{name}.yaml").read_text(encoding="utf-8"))


def known_sets() -> list[str]:
    return sorted(path.stem for path in DATASETS.glob("*.yaml"))


def sets_of(name: str) -> list[str]:
    """The set of that name, or those that the recipe of that name reads."""
    known, path = known_sets(), CONFIGURATION / "recipes" / f"{name}.yaml"
    if name in known or not path.is_file():
        return [name]
    data = read_yaml(path, listed_in=path.parent)["data"]
    sources = [source for split in ("train", "validation", "test") for source in data.get(split) or []]
    read = [Path(source["files"]).parts[0] if "files" in source else source["format"] for source in sources]
    return [one for one in dict.fromkeys(read) if one in known]


def originals_of(name: str, description: dict) -> list[Original]:
    """Those that the set's file names, and those of its list NAME.files.gz, a line each: path, bytes, checksum."""
    originals = []
    for key, origin in description["origins"].items():
        files = [(path, *about) for path, about in origin["files"].items()]
        if "listed" in origin:
            lines = gzip.decompress((DATASETS / f"{name}.files.gz").read_bytes()).decode().splitlines()
            files += [tuple(line.split("\t")) for line in lines]
        originals += [
            Original(key, origin["repository"], origin["commit"], path, int(size), blob) for path, size, blob in files
        ]
    return originals


# ---- the whole way


def fetch(name: str, root: Path, mirror: str | None = None) -> Path:
    """The folder of the set, fetched if it is not there."""
    description = read_description(name)
    target, staging = root / name, root / f".{name}.fetch"
    print(f"{name}: {description['about']}\n  licence: {description['license']}. {description['terms']}")
    if target.exists():
        print(f"  {target} is there already; remove it to fetch it again.")
        return target
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with FileLock(staging.with_suffix(".lock"), blocking=False):
            originals = originals_of(name, description)
            check_room(originals, staging)
            download(originals, staging / "originals", mirror)
            check_lists(name, description, staging / "originals")
            convert(name, description, staging)
            os.replace(staging / "set", target)
            shutil.rmtree(staging)
    except Timeout:
        raise FetchError(f"another process is fetching {name} into {root}: wait for it.") from None
    except PermissionError as error:
        raise FetchError(f"{error}: name a folder that can be written with --root.") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise FetchError(no_room(staging, sum(original.bytes for original in originals))) from error
    staging.with_suffix(".lock").unlink(missing_ok=True)
    print(
        f"  written to {target}: "
        + ", ".join(f"{file} ({about['samples']:,})" for file, about in description["files"].items())
    )
    return target


def check_room(originals: list[Original], staging: Path) -> None:
    """The converted set is about as large as its originals, or smaller."""
    size = sum(original.bytes for original in originals)
    fetched = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    if shutil.disk_usage(staging).free < 2 * size - fetched:
        raise FetchError(no_room(staging, size))


def no_room(staging: Path, size: int) -> str:
    free = shutil.disk_usage(staging).free
    return (
        f"the disk of {staging.parent} is full: {2 * size / 1e6:.0f} MB are needed while the set is made, {free / 1e6:.0f} MB are free. "
        "Make room, or name another folder with --root; the same command goes on from here."
    )


def convert(name: str, description: dict, staging: Path) -> None:
    """Writes staging/set; refuses samples that are not those that were measured."""
    unfinished = staging / "set"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    files = CONVERTERS[name](staging / "originals")
    for file, about in description["files"].items():
        records = files[file]
        if len(records) != about["samples"] or digest_of(records, description["decoded"]) != about["sha256"]:
            raise FetchError(
                f"{file} of {name} came out with {len(records):,} samples that are not the {about['samples']:,} of the description, "
                "though the originals are right: another version of a library may decode them otherwise. Nothing was written; please "
                "report it with `pip list`."
            )
        write_records(unfinished / file, records)
    facts = {key: description[key] for key in ("about", "license", "stated_in", "terms", "origins")}
    (unfinished / "ORIGIN.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_records(path: Path, records: Records) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, compression="zstd")
    elif path.suffix == ".gz":
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    else:
        path.write_text(records[0]["text"], encoding="utf-8", newline="")


# ---- originals


def download(originals: list[Original], folder: Path, mirror: str | None) -> None:
    """Every original in its place under `folder`, each right or not there."""
    missing = [original for original in originals if not is_fetched(original, folder)]
    timeout = httpx.Timeout(60.0, connect=20.0)
    with httpx.Client(follow_redirects=True, timeout=timeout) as client:
        for repository, commit in dict.fromkeys((original.repository, original.commit) for original in missing):
            wanted = [one for one in missing if (one.repository, one.commit) == (repository, commit)]
            if len(wanted) > FEW:
                read_archive(client, f"{mirror or ARCHIVES}/{repository}/tar.gz/{commit}", wanted, folder)
        missing = [original for original in missing if not is_fetched(original, folder)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            single = pool.map(lambda original: fetch_file(client, original, folder, mirror or SINGLE_FILES), missing)
            for _ in tqdm(single, total=len(missing), desc="files", disable=not missing):
                pass


def is_fetched(original: Original, folder: Path) -> bool:
    path = folder / original.place
    return path.is_file() and path.stat().st_size == original.bytes and original.is_right(path.read_bytes())


def read_archive(client: httpx.Client, url: str, wanted: list[Original], folder: Path) -> None:
    """Those of an archive that are wanted and right; where the server has no archive, none. It is read as it comes, and cannot be asked
    for its second half: what was read before the connection broke stays."""
    by_path = {original.path: original for original in wanted}
    bar = tqdm(total=len(wanted), desc="archive")
    pauses = Pauses()
    while by_path:
        before = len(by_path)
        try:
            with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
                check_status(response)
                with tarfile.open(fileobj=Chunks(response.iter_raw()), mode="r|gz") as archive:
                    for member in archive:
                        original = by_path.get(member.name.partition("/")[2])
                        if original is None or member.size != original.bytes:
                            continue
                        data = archive.extractfile(member).read()
                        if original.is_right(data):
                            write_atomically(folder / original.place, data)
                            del by_path[original.path]
                            bar.update()
            return  # those that it does not have are asked for one by one
        except NotThere:
            return
        except BROKEN as error:
            if len(by_path) < before:
                pauses = Pauses()
            pauses.wait(url, error)


class Chunks:
    """A stream of bytes as the file that tarfile reads."""

    def __init__(self, chunks: Iterator[bytes]):
        self.chunks, self.rest = chunks, b""

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (chunk := next(self.chunks, None)) is not None:
            self.rest += chunk
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def fetch_file(client: httpx.Client, original: Original, folder: Path, server: str) -> None:
    """One original. A broken connection goes on at the byte where it broke."""
    path = urllib.parse.quote(original.path)
    url = f"{server}/{original.repository}/{original.commit}/{path}"
    pauses, data, is_second = Pauses(), b"", False
    while True:
        before = len(data)
        try:
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={before}-"} if before else {})
            with client.stream("GET", url, headers=headers) as response:
                check_status(response)
                if response.status_code != 206:
                    data = b""
                for chunk in response.iter_raw():
                    data += chunk
                    if len(data) > original.bytes:
                        break
        except NotThere:
            raise FetchError(f"{url} is not there: ask another --mirror, or none.") from None
        except BROKEN as error:
            if len(data) > before:
                pauses = Pauses()
            pauses.wait(url, error)
            continue
        if original.is_right(data):
            return write_atomically(folder / original.place, data)
        if is_second:
            raise FetchError(
                f"{url} gave {len(data):,} bytes with checksum {blob_of(data)}; those of the data set are {original.bytes:,} with "
                f"{original.blob}. Ask another --mirror, or look at what stands between: a proxy may answer in its place."
            )
        data, is_second = b"", True


def check_status(response: httpx.Response) -> None:
    if response.status_code in (404, 410):
        raise NotThere
    if response.status_code == 429 or response.status_code >= 500:
        wait = response.headers.get("Retry-After", "")
        raise Busy(f"the server answers {response.status_code}", float(wait) if wait.isdigit() else 0.0)
    if response.status_code not in (200, 206):
        raise FetchError(f"{response.url} answers {response.status_code} {response.reason_phrase}.")


class Busy(httpx.TransportError):
    """The server wants to be asked later, after so many seconds."""

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


class Pauses:
    """Between attempts, longer each time; after the last one an error."""

    def __init__(self):
        self.attempts = 0

    def wait(self, url: str, error: Exception) -> None:
        self.attempts += 1
        if self.attempts == ATTEMPTS:
            raise FetchError(
                f"{url}: {type(error).__name__}: {error}; {ATTEMPTS} attempts. What was fetched stays: the same command goes on. Behind "
                "a proxy set HTTPS_PROXY; --mirror names another server."
            ) from error
        time.sleep(min(LONGEST_PAUSE, max(PAUSE * 2 ** (self.attempts - 1), getattr(error, "seconds", 0.0))))


def write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def check_lists(name: str, description: dict, folder: Path) -> None:
    """The originals of a list by their full checksums, of which the list has the first digits."""
    for key, origin in description["origins"].items():
        if "listed" not in origin:
            continue
        paths = [original.path for original in originals_of(name, description) if original.path not in origin["files"]]
        lines = [
            f"{path}\t{blob_of((folder / key / path).read_bytes())}\n"
            for path in sorted(paths, key=lambda path: path.encode())
        ]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        if digest != origin["listed"]["digest"]:
            raise FetchError(
                f"the originals of {name} have the digest {digest}, not {origin['listed']['digest']}: remove {folder}."
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(known_sets())}, or a recipe")
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="folder with one folder per data set (default: data)"
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=f"server that has OWNER/NAME/COMMIT/PATH, as {SINGLE_FILES}, and perhaps OWNER/NAME/tar.gz/COMMIT, as {ARCHIVES}",
    )
    arguments = parser.parse_args()
    try:
        sets = dict.fromkeys(one for name in arguments.names for one in sets_of(name))
        for one in sets:
            fetch(one, arguments.root, arguments.mirror and arguments.mirror.rstrip("/"))
    except FetchError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not sets:
        print(f"{', '.join(arguments.names)}: reads no files, there is nothing to fetch.")


if __name__ == "__main__":
    main()
