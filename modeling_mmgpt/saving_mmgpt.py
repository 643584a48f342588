"""Complete checkpoint folders, on the disk and on the Hub, written atomically.

A folder that a stranger can load holds weights, configuration, generation configuration, the code that its Auto classes and
pipelines reach, the processor and a model card. transformers writes the first three and the code of the classes in hand; this
module adds the rest. The writing is atomic: on the disk by folders_mmgpt.py, on the Hub by one commit.
"""

import filecmp
import functools
import glob
import os
import re
import shutil
import tempfile
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from .folders_mmgpt import MANIFEST, atomic_folder, check_manifest, find_file, reachable_code, weights_of


CODE = Path(__file__).parent  # the package, or the folder that transformers has copied the remote code to
# What stays behind when a checkpoint's other files are copied or pushed: dotfiles, what training runs leave, and exports, whose
# weights are not those of the model that is saved.
LEFT_FILES = re.compile(
    r"\.|checkpoint-|global_step|rng_state|events\.out|(optimizer|scheduler|scaler|training_args|trainer_state)\."
    r"|(runs|logs|wandb|mlruns|onnx|openvino|coreml|gguf|original|consolidated|__pycache__)$|" + re.escape(MANIFEST)
)
LEFT_KINDS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|onnx_data|pte|pt2|tflite|log|parquet|arrow|jsonl|tar|zip|pyc?)"
)
WRITTEN = {"config.json", "generation_config.json", "adapter_config.json"}  # by the save itself, where they apply
TOKENIZER = re.compile(r"tokenizer|vocab|merges\.txt|special_tokens_map|added_tokens|[^/]*\.(model|spm|tiktoken)$")


def list_files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


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
        if adapter or not LEFT_KINDS.fullmatch(path.suffix):
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


class CompleteFolderMixin:
    """`save_pretrained` that leaves a complete folder: all code, and the other files of the checkpoint that the model came from
    (processor, card, adapters, chat templates), unless the folder has its own."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        name = pretrained_model_name_or_path
        if name and (folder := Path(name, kwargs.get("subfolder") or "")).is_dir():
            check_manifest(folder, kwargs.get("variant"))
        return super().from_pretrained(name, *args, **kwargs)

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        destination = Path(save_directory).absolute()
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            # In sharded training every rank takes part: in gathering the weights, which only one then writes, or in writing
            # its share of a distributed checkpoint, for which all must have the same folder.
            if is_main_process:
                destination.mkdir(parents=True, exist_ok=True)
                (destination / MANIFEST).unlink(missing_ok=True)  # these files are not written in one step
                self.copy_companions(destination, destination)
            return super().save_pretrained(destination, is_main_process, push_to_hub=push_to_hub, **kwargs)
        push = {name: kwargs.pop(name) for name in ("repo_id", *push_folder.__kwdefaults__) if name in kwargs}
        with atomic_folder(destination) as folder:
            missing = self.copy_companions(folder, destination)
            super().save_pretrained(folder, **kwargs)
            missing = [name for name in missing if not (folder / name).exists()]
            written = {weights_of(path.name) for path in folder.iterdir()} - {None}
        if missing:
            warnings.warn(
                f"{destination} lacks {', '.join(missing)}, which {self.name_or_path or 'the folder it came from'} no longer has or "
                "cannot be asked for: copy them from there, or nobody can load the processor and the pipelines.",
                stacklevel=2,
            )
        if push_to_hub:
            tags = [*(self.model_tags or []), *as_list(push.pop("tags", None))]
            push_folder(destination, push.pop("repo_id", destination.name), tags=tags, weights=written, **push)

    def copy_companions(self, folder: Path, destination: Path) -> list[str]:
        """Puts into `folder` what transformers does not: the origin's files that `destination` lacks, and the
        code that the configuration names, of which transformers brings only what the class of `self` imports. Returns the code
        files that cannot be had."""
        commit = CODE.name if re.fullmatch("[0-9a-f]{40}", CODE.name) else None  # of remote code from the Hub
        origin = find_origin(self.name_or_path, commit)
        own_tokenizer = (destination / "tokenizer_config.json").exists()  # with whose files another's would be mixed
        for name in companion_files(list_files(origin)) if origin is not None else []:
            below_itself = (origin.resolve() / name).is_relative_to(destination.resolve())
            if (destination / name).exists() or below_itself or (own_tokenizer and TOKENIZER.match(name)):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / name, folder / name)
        ours = [path.name for path in CODE.glob("*.py") if path.name != "__init__.py"]
        if os.path.isdir(self.name_or_path) and any(filecmp.cmpfiles(CODE, origin, ours, shallow=False)[1:]):
            origin = None  # another version of the code is there by now
        code = reachable_code(self.config.auto_map, lambda name: find_file(CODE, name) or find_file(origin, name))
        for name, source in code.items():
            if source is not None and source != folder / name:
                shutil.copyfile(source, folder / name)
        return sorted(name for name, source in code.items() if source is None)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        tags: list[str] | str | None = None,
        use_temp_dir: bool = True,
        **kwargs,
    ) -> CommitInfo:
        """As in transformers, but a complete folder in one commit; takes the arguments of [`push_folder`] too. The processor and
        the card are those of the folder or repository that the model came from; the package's `push_checkpoint` takes others.
        With `use_temp_dir=False` the folder stays in the working directory, under the repository's name."""
        tags = [*(self.model_tags or []), *as_list(tags)]
        with tempfile.TemporaryDirectory() if use_temp_dir else nullcontext(".") as place:
            folder = Path(place) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, max_shard_size=max_shard_size, variant=variant)
            return push_folder(folder, repo_id, tags=tags, **kwargs)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: bool | str | None = None,
    tags: list[str] | str | None = None,
    files: dict[str, str] | None = None,
    weights: set[tuple] | None = None,
) -> CommitInfo:
    """Publishes a saved folder on the Hub in one commit, with the texts `files` in the place of its files of these names and
    `tags` added to its card. A branch `revision` that does not exist is made from the main one. Of its weights only `weights`
    ([`weights_of`]), where they are given, and no exports.

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
            # Who may only propose changes, makes no branches.
            if not (create_pr and error.response.status_code == 403):
                raise
    if tags:
        card = find_file(folder, "README.md")
        files["README.md"] = add_tags(files.get("README.md", card and card.read_text(encoding="utf-8")), as_list(tags))
    names = {path.name for path in folder.iterdir() if path.is_file() and not LEFT_FILES.match(path.name)}
    if weights is not None:
        exports = {name for name in names if LEFT_KINDS.fullmatch(Path(name).suffix) and not name.endswith(".py")}
        names = {name for name in names if weights_of(name) in weights or not (weights_of(name) or name in exports)}
    names |= {name for name in companion_files(list_files(folder)) if "/" in name} | files.keys()
    written = {weights_of(name) for name in names} - {None}
    stale = {name for name in api.list_repo_files(repo_id, revision=revision) if weights_of(name) in written} - names
    contents = {name: files[name].encode() if name in files else folder / name for name in sorted(names)}
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(name, content) for name, content in contents.items()),
            *(CommitOperationDelete(name) for name in sorted(stale)),
        ],
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def as_list(tags: list[str] | str | None) -> list[str]:
    return [tags] if isinstance(tags, str) else [*(tags or [])]


def add_tags(text: str | None, tags: list[str]) -> str:
    card = ModelCard(text or "---\nlibrary_name: transformers\n---\n", ignore_metadata_errors=True)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    return str(card)
