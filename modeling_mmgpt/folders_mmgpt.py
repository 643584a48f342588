"""Folders written atomically, and their manifest: sizes and checksums, by which a mixture of two saves and damage are known."""

import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports


CONFIGURATION = "configuration_mmgpt.py"
VERSION_MARK = "\n# Hash of the code saved beside this file: "
PIPELINE = "pipeline_mmgpt.py"  # named by custom_pipelines, which config.json does not hold
MANIFEST = "checkpoint_manifest.json"
SAVING = ".saving"  # ends the name of a folder that is being written
WEIGHTS = re.compile(r"((?:adapter_)?model)(?:\.([^/]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"(model)\.safetensors\.index(?:\.([^/]+))?\.json")
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def weights_of(name: str) -> tuple[str, str | None] | None:
    """Which weights the file belongs to, as a shard or as their index: `model` or `adapter_model`, and the variant."""
    match = WEIGHTS.fullmatch(name) or INDEX.fullmatch(name)
    return match and match.groups()


@contextmanager
def atomic_folder(folder: str | os.PathLike):
    """A temporary folder to write into, on the file system of `folder`. Only when the block succeeds does its content take its
    place: in one step where the system allows that (not for mount points), else file by file, the manifest last."""
    folder = Path(folder).resolve()  # behind a link, the folder itself is written
    if folder.name.startswith(".") and folder.suffix == SAVING:
        yield folder  # of another's block, which puts all of it in its place
        return
    if folder.is_file():
        raise FileExistsError(f"Cannot save to {folder}: a file of that name is in the way.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder if folder.exists() else folder.parent
    temporary = place / f".{folder.name}.{uuid.uuid4().hex[:8]}{SAVING}"
    temporary.mkdir()
    with suppress(OSError):  # a mount point, a parent that cannot be written: it stays inside
        temporary = temporary.rename(folder.parent / temporary.name)
    try:
        yield temporary
        for path in temporary.rglob("*.safetensors"):
            with suppress(OSError):  # written for their owner alone, where all else follows the umask
                path.chmod(path.stat().st_mode | temporary.stat().st_mode & 0o666)
        with one_after_another(folder.parent):
            stale = find_stale_files(temporary, folder)
            mark_version(temporary, folder, stale)
            describe_save(temporary, folder, stale)
            if not folder.exists():
                temporary.rename(folder)
            elif not swap_folder(temporary, folder, stale):
                replace_files(temporary, folder, stale)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_after_another(folder: Path):
    """Processes that save into one folder wait for each other, else it may keep files of both: by a lock on the folder above it,
    where the system has such locks."""
    handle = None
    with suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def swap_folder(new: Path, folder: Path, stale: set[str]) -> bool:
    """Exchanges `folder` for `new`, to which its other files are linked, in one step. False where that is impossible: on a mount
    point, in a parent that cannot be written, under a process that works in the folder, on systems other than Linux."""
    try:
        before, after = folder.stat(), new.stat()
        same_owner = (before.st_uid, before.st_gid) == (after.st_uid, after.st_gid)
        if new.parent == folder or Path.cwd().is_relative_to(folder) or not same_owner:
            return False
        exchange = ctypes.CDLL(None).renameat2
        shutil.copystat(folder, new)
        move_other_files(folder, new, stale, functools.partial(os.link, follow_symlinks=False))
        if exchange(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE) != 0:
            return False
    except (
        OSError,
        AttributeError,
        TypeError,
    ):  # no links on this file system, another one mounted below, no renameat2
        return False
    move_other_files(new, folder, stale, os.replace)  # what others wrote in the meantime
    return True


def move_other_files(old: Path, new: Path, stale: set[str], move: Callable) -> None:
    for path in sorted(old.rglob("*")):
        place = new / path.relative_to(old)
        if os.path.lexists(place) or path.relative_to(old).as_posix() in stale:
            continue
        if path.is_dir() and not path.is_symlink():
            place.mkdir()
            shutil.copystat(path, place)
        else:
            move(path, place)


def replace_files(new: Path, folder: Path, stale: set[str]) -> None:
    """Each file in one step: weights, index, code and the rest, configuration, manifest. Whoever stops it leaves a folder that
    its manifest does not describe, which [`check_manifest`] finds."""

    def turn(path: Path) -> int:
        if path.name in ("config.json", MANIFEST):
            return 3 + (path.name == MANIFEST)
        return 2 if weights_of(path.name) is None else int(path.suffix == ".json")

    for path in sorted((path for path in new.rglob("*") if path.is_file()), key=turn):
        if path.name == MANIFEST:
            for name in stale:
                (folder / name).unlink(missing_ok=True)
        place = folder / path.relative_to(new)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)


def read_manifest(folder: Path) -> dict:
    """`files`: size and sha256 of each by its name. `unfinished` while a training checkpoint is written, `damaged` if unreadable."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if all(file.keys() == {"size", "sha256"} for file in manifest["files"].values()):
            return manifest
    except FileNotFoundError:
        return {"files": {}}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return {"damaged": True, "files": {}}


def write_manifest(folder: Path, manifest: dict) -> None:
    unfinished = folder / f"{MANIFEST}.part"
    unfinished.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)


def describe_file(path: Path) -> dict:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def makes_model(name: str) -> bool:
    """Whether a save describes the file; the others, as the card, are free to be edited."""
    return weights_of(name) is not None or name == "config.json" or name.endswith(".py")


def describe_save(new: Path, old: Path, stale: set[str]) -> None:
    """The manifest of `new`. What it does not replace in `old` is described as before."""
    manifest = read_manifest(old)
    manifest.pop("damaged", None)
    before = {name: file for name, file in manifest["files"].items() if name not in stale}
    names = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()}
    described = {name: describe_file(new / name) for name in names if makes_model(name) or name in before}
    if described:
        write_manifest(new, {**manifest, "files": before | described})


def find_difference(path: Path, described: dict, checksum: bool = True) -> str | None:
    """What is wrong with a file, by its description in the manifest."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != described["size"]:
        return f"has {size:,} bytes in place of {described['size']:,}"
    return "is not what was written" if checksum and describe_file(path) != described else None


def check_manifest(folder: str | os.PathLike, variant: str | None = None, checksums: bool = False) -> None:
    """Raises an error where some weights of the folder are those of its last save and others are not, and warns where all of them,
    the configuration or the code were changed since. Names and sizes are compared; on demand checksums too, and then weights that all
    differ are an error as well. Folders without a manifest are not judged."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = manifest["files"]

    def differs(name: str) -> bool:
        return name not in files or find_difference(folder / name, files[name], checksums) is not None

    weights = {name for name in {*files, *os.listdir(folder)} if weights_of(name) == ("model", variant)}
    mixed = sorted(filter(differs, weights)) if weights & files.keys() else []
    if mixed and (checksums or len(mixed) < len(weights)):
        raise OSError(
            f"{folder} mixes files of several saves: {', '.join(mixed)} are not what {MANIFEST} describes. Save the model again, "
            f"or delete {MANIFEST} if the files are as you want them."
        )
    others = {name for name in files if makes_model(name) and weights_of(name) is None and (folder / name).exists()}
    changed = [*mixed, *sorted(filter(differs, others)), *([MANIFEST] if "damaged" in manifest else [])]
    if changed:
        warnings.warn(
            f"{folder}: {', '.join(changed)} changed after the last save, by hand or by a save that was stopped. If it "
            f"was you, delete {MANIFEST}.",
            stacklevel=3,
        )


def reachable_code(auto_map: dict, find: Callable[[str], Path | None]) -> dict[str, Path | None]:
    """Where `find` finds the files that `auto_map` and the pipelines name, and all that they import relatively; `None`: nowhere.
    What `auto_map` takes from another repository is not ours to carry."""
    references = [name for name in auto_map.values() if isinstance(name, str) and "--" not in name]
    found, waiting = {}, [PIPELINE, *(f"{name.partition('.')[0]}.py" for name in references)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = find(name)
        if found[name] is not None:
            waiting += [f"{module}.py" for module in get_relative_imports(found[name])]
    return found


def find_file(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_file() else None


def find_stale_files(new: Path, old: Path) -> set[str]:
    """What an earlier save needed and this one supersedes: shards of another size of the same weights, which would be read
    beside the new ones, and code. Any other file of the folder is its owner's."""
    written = {weights_of(path.name) for path in new.glob("*")} - {None}
    there = {path.name for path in old.glob("*")} | read_manifest(old)["files"].keys()
    stale = {name for name in there if weights_of(name) in written}
    if (new / "config.json").is_file() and (old / "config.json").is_file():
        auto_map = {}
        with suppress(ValueError, AttributeError):  # of a damaged one nothing tells what was its code
            auto_map = json.loads((old / "config.json").read_text(encoding="utf-8")).get("auto_map")
        stale |= reachable_code(auto_map, lambda name: find_file(old, name)).keys() if auto_map else set()
    return {name for name in stale if not (new / name).exists()}


def mark_version(new: Path, old: Path, stale: set[str]) -> None:
    """Writes a hash of all code that will lie together into the configuration's file.

    transformers runs local folders of one name by the content of that file and its imports: it keeps one configuration class for
    all whose content is the same, and loads their models with the code of the first. With the hash it tells versions apart."""
    entry = new / CONFIGURATION
    if not entry.is_file():
        return
    code = {path.name: path for folder in (old, new) for path in folder.glob("*.py") if path.name not in stale}
    del code[CONFIGURATION]
    digest = hashlib.sha256(b"".join(path.read_bytes() for _, path in sorted(code.items()))).hexdigest()
    text = entry.read_text(encoding="utf-8").partition(VERSION_MARK)[0]
    entry.write_text(f"{text}{VERSION_MARK}{digest[:16]}\n", encoding="utf-8")
