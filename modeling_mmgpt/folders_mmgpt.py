"""Folders written atomically: exchanged in one step, or file by file with a manifest, by which loading knows a mixture of two saves."""

import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports


CONFIGURATION = "configuration_mmgpt.py"
VERSION_MARK = "\n# Hash of the code saved beside this file: "
PIPELINE = "pipeline_mmgpt.py"  # named by custom_pipelines, which config.json does not hold
MANIFEST = "checkpoint_manifest.json"
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
    if folder.is_file():
        raise FileExistsError(f"Cannot save to {folder}: a file of that name is in the way.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder if folder.exists() else folder.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".saving", dir=place))
    try:
        yield temporary
        follow_umask(temporary)
        stale = find_stale_files(temporary, folder)
        mark_version(temporary, folder, stale)
        write_manifest(temporary, folder, stale)
        if not folder.exists():
            temporary.rename(folder)
        elif not swap_folder(temporary, folder, stale):
            replace_files(temporary, folder, stale)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """mkdtemp and safetensors write for the owner alone; a saved folder has the rights of any other."""
    umask = os.umask(0)  # it can be read only by setting it
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            with suppress(OSError):  # of a file system without such rights
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask | path.stat().st_mode & stat.S_ISGID)


def swap_folder(new: Path, folder: Path, stale: set[str]) -> bool:
    """Exchanges `folder` for `new`, to which its other files are linked, in one step. False where that is impossible: on a mount
    point, in a parent that cannot be written, under a process that works in the folder, on systems other than Linux."""
    beside, linked = folder.parent / new.name, False
    try:
        before, after = folder.stat(), new.stat()
        if Path.cwd().is_relative_to(folder) or (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
            return False
        exchange = ctypes.CDLL(None).renameat2
        new.rename(beside)
    except (OSError, AttributeError, TypeError):
        return False
    try:
        shutil.copystat(folder, beside)
        move_other_files(folder, beside, stale, functools.partial(os.link, follow_symlinks=False))
        linked = exchange(AT_FDCWD, os.fsencode(beside), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE) == 0
    except OSError:  # no links on this file system, another one mounted below
        pass
    if not linked:
        beside.rename(new)
        return False
    move_other_files(beside, folder, stale, os.replace)  # what others wrote in the meantime
    shutil.rmtree(beside, ignore_errors=True)
    return True


def move_other_files(old: Path, new: Path, stale: set[str], move: Callable) -> None:
    for path in sorted(old.rglob("*")):
        place = new / path.relative_to(old)
        if path.is_dir() and not path.is_symlink():
            if not place.exists():
                place.mkdir()
                shutil.copystat(path, place)
        elif not os.path.lexists(place) and place.relative_to(new).as_posix() not in stale:
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
            break
        place = folder / path.relative_to(new)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    if (new / MANIFEST).exists():
        os.replace(new / MANIFEST, folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, dict]:
    """Size and sha256 of each file that makes the model of the folder, by its name."""
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else {}


def describe_file(path: Path) -> dict:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(new: Path, old: Path, stale: set[str]) -> None:
    """Describes weights, index, configuration and code of `new`. What it does not replace in `old` is described as before."""
    inner, files = read_manifest(new), read_manifest(old)
    places = [new] if files else [old, new]
    for path in (path for place in places for path in place.glob("*")):
        name, written = path.name, path.parent == new
        if name in stale or (not written and (new / name).exists()):
            continue
        if weights_of(name) and written and inner.get(name, {}).get("size") == path.stat().st_size:
            files[name] = inner[name]  # hashed already, by a save into this temporary folder
        elif weights_of(name) or name == "config.json" or (path.suffix == ".py" and written):
            files[name] = describe_file(path)
    files = {name: files[name] for name in sorted(files) if name not in stale}
    if any((new / name).exists() for name in files):
        (new / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def check_manifest(folder: str | os.PathLike, variant: str | None = None, checksums: bool = False) -> None:
    """Raises an error where some weights of the folder are those of its last save and others are not, and warns where all of them,
    the configuration or the code were changed since. Names and sizes are compared; on demand checksums too, and then weights that all
    differ are an error as well. Folders without a manifest are not judged."""
    folder = Path(folder)
    files = read_manifest(folder)

    def differs(name: str) -> bool:
        path = folder / name
        if name not in files or not path.is_file() or path.stat().st_size != files[name]["size"]:
            return True
        return checksums and describe_file(path) != files[name]

    listed = {name for name in files if weights_of(name) == ("model", variant)}
    present = {path.name for path in folder.iterdir() if weights_of(path.name) == ("model", variant)}
    others = {name for name in files if weights_of(name) is None and (folder / name).exists()}
    weights = listed | present
    mixed = sorted(filter(differs, weights)) if listed and present else []
    if mixed and (checksums or len(mixed) < len(weights)):
        raise OSError(
            f"{folder} mixes files of several saves: {', '.join(mixed)} are not what {MANIFEST} describes. Save the model again, "
            f"or delete {MANIFEST} if the files are as you want them."
        )
    changed = [*mixed, *sorted(filter(differs, others))]
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
    there = {path.name for path in old.glob("*")} | read_manifest(old).keys()
    stale = {name for name in there if weights_of(name) in written}
    if (new / "config.json").is_file() and (old / "config.json").is_file():
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
