"""Complete checkpoint folders, on the disk and on the Hub, written atomically.

A folder that a stranger can load holds weights, configuration, generation configuration, the code that its Auto classes and
pipelines reach, the processor and a model card. transformers writes the first three and the code of the classes in hand; this
module adds the rest and makes the writing atomic: on the disk by renaming, on the Hub by one commit.
"""

import filecmp
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, snapshot_download
from transformers.dynamic_module_utils import get_relative_imports


CODE = Path(__file__).parent  # the package, or the folder that transformers has copied the remote code to
CONFIGURATION = "configuration_mmgpt.py"
VERSION_MARK = "\n# Hash of the code saved beside this file: "
PIPELINE = "pipeline_mmgpt.py"  # named by custom_pipelines, which config.json does not hold
# What belongs to a checkpoint but is written by its processor, not by its model.
COMPANIONS = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "card_facts.json",
)
# What a training run leaves beside a checkpoint and nobody who loads it needs; the first are pickles.
RUN_FILES = {"optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "trainer_state.json"}


@contextmanager
def atomic_folder(folder: str | os.PathLike):
    """A temporary folder beside `folder` to write into. Only when the block succeeds does its content take its place:
    by one rename where `folder` is new, else file by file."""
    folder = Path(folder).absolute()
    if folder.is_file():
        raise FileExistsError(f"Cannot save to {folder}: a file of that name is in the way.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".saving", dir=folder.parent))
    try:
        yield temporary
        umask = os.umask(0)  # it can be read only by setting it
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        remove_stale_files(temporary, folder)
        mark_version(temporary, folder)
        if not folder.exists():
            temporary.rename(folder)
            return
        for written in sorted(temporary.rglob("*")):
            if written.is_file():
                place = folder / written.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(written, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def remove_stale_files(new: Path, old: Path) -> None:
    """What an earlier save needed and this one does not: shards of another size, which would be read beside the new ones, and code.
    Any other file of the folder is its owner's."""
    stale = {path.name for path in old.glob("model*.safetensors*")} if any(new.glob("model*.safetensors*")) else set()
    if (new / "config.json").is_file() and (old / "config.json").is_file():
        auto_map = json.loads((old / "config.json").read_text(encoding="utf-8")).get("auto_map")
        stale |= reachable_code(auto_map, lambda name: find_file(old, name)).keys() if auto_map else set()
    for name in stale:
        if not (new / name).exists():
            (old / name).unlink(missing_ok=True)


def mark_version(new: Path, old: Path) -> None:
    """Writes a hash of all code that will lie together into the configuration's file.

    transformers runs local folders of one name by the content of that file and its imports: it keeps one configuration class for
    all whose content is the same, and loads their models with the code of the first. With the hash it tells versions apart."""
    entry = new / CONFIGURATION
    if not entry.is_file():
        return
    code = {path.name: path for folder in (old, new) for path in folder.glob("*.py")}
    del code[CONFIGURATION]
    digest = hashlib.sha256(b"".join(path.read_bytes() for _, path in sorted(code.items()))).hexdigest()
    text = entry.read_text(encoding="utf-8").partition(VERSION_MARK)[0]
    entry.write_text(f"{text}{VERSION_MARK}{digest[:16]}\n", encoding="utf-8")


@functools.cache  # one look at the Hub for all saves of a run
def download_companions(origin: str, commit: str | None) -> Path | None:
    """The code and the processor of a Hub repository, in the cache; `None` where they cannot be had. Without a commit nothing is
    downloaded: `origin` may be a folder that was removed, and a stranger's repository of that name would take its place."""
    options = {"revision": commit, "local_files_only": commit is None, "allow_patterns": ["*.py", *COMPANIONS]}
    try:
        return Path(snapshot_download(origin, **options))
    except Exception:  # no such repository, no connection, no right to read it: none of it may fail a save
        return None


def find_companion(origin: str, name: str, commit: str | None = None) -> Path | None:
    """The file `name` of the folder or Hub repository that a model was loaded from."""
    if not origin:
        return None
    return find_file(Path(origin) if os.path.isdir(origin) else download_companions(origin, commit), name)


class CompleteFolderMixin:
    """`save_pretrained` that leaves a complete folder: all code, and the processor's files and the card of the checkpoint that
    the model came from, unless the folder has its own."""

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        destination = Path(save_directory).absolute()
        if push_to_hub:
            kwargs.setdefault("repo_id", destination.name)  # not the temporary folder's name
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            # In sharded training every rank takes part: in gathering the weights, which only one then writes, or in writing
            # its share of a distributed checkpoint, for which all must have the same folder.
            if is_main_process:
                destination.mkdir(parents=True, exist_ok=True)
                self.copy_companions(destination, destination)
            return super().save_pretrained(
                save_directory, is_main_process=is_main_process, push_to_hub=push_to_hub, **kwargs
            )
        with atomic_folder(destination) as folder:
            missing = self.copy_companions(folder, destination)
            super().save_pretrained(folder, is_main_process=True, push_to_hub=push_to_hub, **kwargs)
            missing = [name for name in missing if not (folder / name).exists()]
        if missing:
            warnings.warn(
                f"{destination} lacks {', '.join(missing)}, which {self.name_or_path or 'the folder it came from'} no longer has or "
                "cannot be asked for: copy them from there, or nobody can load the processor and the pipelines.",
                stacklevel=2,
            )

    def copy_companions(self, folder: Path, destination: Path) -> list[str]:
        """Puts into `folder` what transformers does not: the processor's files and the card that `destination` lacks, and the
        code that the configuration names, of which transformers brings only what the class of `self` imports. Returns the code
        files that cannot be had."""
        commit = CODE.name if re.fullmatch("[0-9a-f]{40}", CODE.name) else None  # of remote code from the Hub
        for name in COMPANIONS:
            source = None if (destination / name).exists() else find_companion(self.name_or_path, name, commit)
            if source is not None:
                shutil.copyfile(source, folder / name)
        origin = self.name_or_path
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

    def push_to_hub(self, repo_id: str, *, commit_message: str | None = None, **kwargs) -> CommitInfo:
        """As in transformers, but a complete folder in one commit; takes the arguments of [`push_folder`]. The processor and the
        card are those of the folder or repository that the model came from; the package's `push_checkpoint` takes others."""
        max_shard_size = kwargs.pop("max_shard_size", "50GB")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return push_folder(folder, repo_id, message=commit_message, **kwargs)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    message: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    files: dict[str, str] | None = None,
) -> CommitInfo:
    """Publishes a saved folder on the Hub in one commit, with the texts `files` in the place of its files of these names.

    Weights of an earlier push that this one has no use for go in the same commit. What a training run leaves beside the
    checkpoint (optimizer, trainer state, checkpoints in sub-folders) stays here."""
    folder = Path(folder).absolute()
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"{folder} is no saved model: it has neither config.json nor adapter_config.json.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no weights (*.safetensors): on the Hub it would replace a model by none.")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as staging:
        for path in folder.iterdir():
            if path.is_file() and path.name not in RUN_FILES and not path.name.startswith((".", "rng_state")):
                (Path(staging) / path.name).symlink_to(path)
        for name, text in (files or {}).items():
            (Path(staging) / name).unlink(missing_ok=True)
            (Path(staging) / name).write_text(text, encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=staging,
            commit_message=message or "Upload model",
            revision=revision,
            create_pr=create_pr,
            delete_patterns=["*.safetensors", "*.safetensors.index.json"],
        )
