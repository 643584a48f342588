"""Complete checkpoint folders, on the disk and on the Hub, written atomically.

A folder that a stranger can load holds weights, configuration, generation configuration, the code that its Auto classes and
pipelines reach, the processor and a model card. transformers writes the first three and the code of the classes in hand; this
module adds the rest and makes the writing atomic: on the disk by renaming, on the Hub by one commit.
"""

import ctypes
import filecmp
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers.dynamic_module_utils import get_relative_imports


CODE = Path(__file__).parent  # the package, or the folder that transformers has copied the remote code to
CONFIGURATION = "configuration_mmgpt.py"
VERSION_MARK = "\n# Hash of the code saved beside this file: "
PIPELINE = "pipeline_mmgpt.py"  # named by custom_pipelines, which config.json does not hold
MANIFEST = "checkpoint_manifest.json"
WEIGHTS = re.compile(r"((?:adapter_)?model)(?:\.([^/]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"(model)\.safetensors\.index(?:\.([^/]+))?\.json")
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
# What stays behind when a checkpoint's other files are copied or pushed: dotfiles, what training runs leave, and exports, whose
# weights are not those of the model that is saved.
LEFT_FILES = re.compile(
    r"\.|checkpoint-|global_step|rng_state|events\.out|(optimizer|scheduler|scaler|training_args|trainer_state)\."
    r"|(runs|logs|wandb|mlruns|onnx|openvino|coreml|gguf|original|consolidated|__pycache__)$|" + re.escape(MANIFEST)
)
LEFT_KINDS = {
    *(
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".gguf",
        ".onnx",
        ".onnx_data",
        ".pte",
        ".pt2",
    ),
    *(".tflite", ".log", ".parquet", ".arrow", ".jsonl", ".tar", ".zip", ".py", ".pyc"),
}
HUB_ARGUMENTS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "revision",
    "create_pr",
    "token",
    "tags",
)
WRITTEN = {"config.json", "generation_config.json", "adapter_config.json"}  # by the save itself, where they apply
TOKENIZER = re.compile(r"tokenizer|vocab|merges\.txt|special_tokens_map|added_tokens|[^/]*\.(model|spm|tiktoken)$")


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
    """Raises an error where the weights of the folder are not those of its last save, warns where configuration or code are not.
    Names and sizes are compared, on demand checksums too. Folders without a manifest are not judged."""
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
    mixed = sorted(filter(differs, listed | present)) if listed and present else []
    if mixed:
        raise OSError(
            f"{folder} mixes files of several saves: {', '.join(mixed)} are not what {MANIFEST} describes. Save the model again, "
            f"or delete {MANIFEST} if the files are as you want them."
        )
    changed = sorted(filter(differs, others))
    if changed:
        warnings.warn(
            f"{folder}: {', '.join(changed)} changed after the weights were saved, by hand or by a save that was stopped. If it "
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


def list_files(folder: Path) -> list[str]:
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not LEFT_FILES.match(name)]
        names += [Path(root, name).relative_to(folder).as_posix() for name in files]
    return names


def companion_files(names: list[str]) -> list[str]:
    """Of the files of a checkpoint, those that are neither its weights nor its code: of the processor, the card, adapters and
    chat templates in sub-folders, and whatever else its owner put there. Models in sub-folders are checkpoints of their own."""
    paths = [PurePosixPath(name) for name in names]
    models = {path.parent for path in paths if (weights_of(path.name) or [""])[0] == "model"}
    kept = []
    for path in paths:
        below = len(path.parts) > 1
        adapter = below and (weights_of(path.name) or [""])[0] == "adapter_model"
        left = any(LEFT_FILES.match(part) for part in path.parts) or (not below and path.name in WRITTEN)
        left |= path.name.endswith(".index.json") or models.intersection(path.parents[:-1]) != set()
        if adapter or path.suffix not in LEFT_KINDS:
            kept += [] if left else [str(path)]
    return kept


@functools.cache  # one look at the Hub for all saves of a run
def download_companions(origin: str, commit: str | None) -> Path | None:
    """The code and the other files of a Hub repository but its weights, in the cache; `None` where they cannot be had. Without a
    commit nothing is downloaded: `origin` may be a folder that was removed, and a stranger's repository of that name would take
    its place."""
    # No such repository, no connection, no right to read it: none of it may fail a save.
    if commit is not None:
        with suppress(Exception):
            names = HfApi().list_repo_files(origin, revision=commit)
            wanted = [*companion_files(names), *(name for name in names if name.endswith(".py"))]
            return Path(snapshot_download(origin, revision=commit, allow_patterns=[*map(glob.escape, wanted)]))
    with suppress(Exception):
        return Path(snapshot_download(origin, revision=commit, local_files_only=True))
    return None


def find_origin(origin: str, commit: str | None = None) -> Path | None:
    """The folder, or the cached Hub repository, that a model was loaded from."""
    if not origin:
        return None
    return Path(origin) if os.path.isdir(origin) else download_companions(origin, commit)


def find_companion(origin: str, name: str, commit: str | None = None) -> Path | None:
    return find_file(find_origin(origin, commit), name)


class CompleteFolderMixin:
    """`save_pretrained` that leaves a complete folder: all code, and the other files of the checkpoint that the model came from
    (processor, card, adapters, chat templates), unless the folder has its own."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        if pretrained_model_name_or_path is not None and os.path.isdir(pretrained_model_name_or_path):
            folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
            if folder.is_dir():
                check_manifest(folder, kwargs.get("variant"))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        destination = Path(save_directory).absolute()
        if push_to_hub:
            kwargs.setdefault("repo_id", destination.name)  # not the temporary folder's name
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            # In sharded training every rank takes part: in gathering the weights, which only one then writes, or in writing
            # its share of a distributed checkpoint, for which all must have the same folder.
            if is_main_process:
                destination.mkdir(parents=True, exist_ok=True)
                (destination / MANIFEST).unlink(missing_ok=True)  # these files are not written in one step
                self.copy_companions(destination, destination)
            return super().save_pretrained(
                save_directory, is_main_process=is_main_process, push_to_hub=push_to_hub, **kwargs
            )
        push = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        with atomic_folder(destination) as folder:
            missing = self.copy_companions(folder, destination)
            super().save_pretrained(folder, is_main_process=True, **kwargs)
            missing = [name for name in missing if not (folder / name).exists()]
            if push_to_hub:
                push_folder(folder, push.pop("repo_id"), message=push.pop("commit_message", None), **push)
        if missing:
            warnings.warn(
                f"{destination} lacks {', '.join(missing)}, which {self.name_or_path or 'the folder it came from'} no longer has or "
                "cannot be asked for: copy them from there, or nobody can load the processor and the pipelines.",
                stacklevel=2,
            )

    def copy_companions(self, folder: Path, destination: Path) -> list[str]:
        """Puts into `folder` what transformers does not: the origin's files that `destination` lacks, and the
        code that the configuration names, of which transformers brings only what the class of `self` imports. Returns the code
        files that cannot be had."""
        commit = CODE.name if re.fullmatch("[0-9a-f]{40}", CODE.name) else None  # of remote code from the Hub
        origin = self.name_or_path
        source = find_origin(origin, commit)
        own_tokenizer = (destination / "tokenizer_config.json").exists()  # with whose files another's would be mixed
        for name in companion_files(list_files(source)) if source is not None else []:
            below_itself = (source.resolve() / name).is_relative_to(destination.resolve())
            if (
                not (destination / name).exists()
                and not below_itself
                and not (own_tokenizer and TOKENIZER.match(name))
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        if os.path.isdir(origin):
            ours = [path for path in CODE.glob("*.py") if path.name != "__init__.py"]
            theirs = [find_file(Path(origin), path.name) for path in ours]
            if not all(b and filecmp.cmp(a, b, shallow=False) for a, b in zip(ours, theirs, strict=True)):
                origin = ""  # another version of the code is there by now
        code = reachable_code(
            self.config.auto_map, lambda name: find_file(CODE, name) or find_companion(origin, name, commit)
        )
        for name, source in code.items():
            if source is not None and source != folder / name:
                shutil.copyfile(source, folder / name)
        return sorted(name for name, source in code.items() if source is None)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        tags: list[str] | str | None = None,
        use_temp_dir: bool = True,
        **kwargs,
    ) -> CommitInfo:
        """As in transformers, but a complete folder in one commit; takes the arguments of [`push_folder`] too. The processor and
        the card are those of the folder or repository that the model came from; the package's `push_checkpoint` takes others.
        With `use_temp_dir=False` the folder stays in the working directory, under the repository's name."""
        tags = [*(self.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])]
        with tempfile.TemporaryDirectory() if use_temp_dir else nullcontext(".") as place:
            folder = Path(place) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, max_shard_size=max_shard_size, variant=variant)
            return push_folder(folder, repo_id, message=commit_message, tags=tags, **kwargs)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: bool | str | None = None,
    tags: list[str] | None = None,
    files: dict[str, str] | None = None,
) -> CommitInfo:
    """Publishes a saved folder on the Hub in one commit, with the texts `files` in the place of its files of these names and
    `tags` added to its card. A branch `revision` that does not exist is made from the main one.

    Weights and index of an earlier push that these ones supersede go in the same commit. What a training run leaves beside the
    checkpoint (optimizer, trainer state, checkpoints in sub-folders) stays here."""
    folder, files = Path(folder).absolute(), dict(files or {})
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"{folder} is no saved model: it has neither config.json nor adapter_config.json.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no weights (*.safetensors): on the Hub it would replace a model by none.")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        try:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:
            if not (
                create_pr and error.response.status_code == 403
            ):  # who may only propose changes, makes no branches
                raise
    if tags:
        card = find_file(folder, "README.md")
        files["README.md"] = add_tags(files.get("README.md", card and card.read_text(encoding="utf-8")), tags)
    names = [path.name for path in folder.iterdir() if path.is_file() and not LEFT_FILES.match(path.name)]
    below = [name for name in companion_files(list_files(folder)) if "/" in name]
    written = {weights_of(name) for name in names} - {None}
    stale = [name for name in api.list_repo_files(repo_id, revision=revision) if weights_of(name) in written]
    with tempfile.TemporaryDirectory() as staging:
        for name in (*names, *below):
            if name not in files:
                (Path(staging) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(staging) / name).symlink_to(folder / name)
        for name, text in files.items():
            (Path(staging) / name).write_text(text, encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=staging,
            commit_message=message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=[glob.escape(name) for name in stale if name not in names] or None,
        )


def add_tags(text: str | None, tags: list[str]) -> str:
    card = ModelCard(text or "---\nlibrary_name: transformers\n---\n", ignore_metadata_errors=True)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    return str(card)
