"""Complete checkpoint folders, on the disk and on the Hub, and nothing half-written.

A folder that a stranger can load holds weights, configuration, generation configuration, all code files, the processor
and a model card. transformers writes the first four; this module adds the rest and makes the writing all-or-nothing: on the
disk by renaming, on the Hub by one commit.
"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE


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
def written_whole(folder: str | os.PathLike):
    """A temporary folder beside `folder` to write into. Only when the block succeeds does its content take its place:
    by one rename where `folder` is new, else file by file."""
    folder = Path(folder).absolute()
    if folder.is_file():
        raise FileExistsError(f"Cannot save to {folder}: a file of that name is in the way.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".saving", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~current_umask())
        if not folder.exists():
            temporary.rename(folder)
            return
        remove_stale_weights(temporary, folder)
        for written in sorted(temporary.rglob("*")):
            if written.is_file():
                place = folder / written.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(written, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def remove_stale_weights(new: Path, old: Path) -> None:
    """Shards of an earlier save of another size would be read beside the new ones."""
    names = {path.name for path in new.glob("model*.safetensors*")}
    if not names:
        return
    for path in old.glob("model*.safetensors*"):
        if path.name not in names:
            path.unlink()


def find_companion(origin: str, name: str) -> Path | None:
    """The file `name` of the folder or (already downloaded) Hub repository that a model was loaded from."""
    if not origin:
        return None
    if os.path.isdir(origin):
        path = Path(origin) / name
        return path if path.is_file() else None
    try:
        cached = try_to_load_from_cache(origin, name, cache_dir=HF_HUB_CACHE)
    except ValueError:  # not a repository id
        return None
    return Path(cached) if isinstance(cached, str) else None


class CompleteFolderMixin:
    """`save_pretrained` that leaves a complete folder: the processor's files and the card of the checkpoint the model
    came from go with it, unless the folder has its own."""

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        destination = Path(save_directory).absolute()
        if push_to_hub:
            kwargs.setdefault("repo_id", destination.name)  # not the temporary folder's name
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            # In sharded training every rank takes part: in gathering the weights, which only one then writes, or in writing
            # its share of a distributed checkpoint, for which all must have the same folder.
            return super().save_pretrained(
                save_directory, is_main_process=is_main_process, push_to_hub=push_to_hub, **kwargs
            )
        with written_whole(destination) as folder:
            missing = [name for name in COMPANIONS if not (destination / name).exists()]
            for name in missing:
                source = find_companion(self.name_or_path, name)
                if source is not None:
                    shutil.copyfile(source, folder / name)
            return super().save_pretrained(folder, is_main_process=True, push_to_hub=push_to_hub, **kwargs)

    def push_to_hub(self, repo_id: str, *, commit_message: str | None = None, **kwargs) -> CommitInfo:
        """As in transformers, but with this model's own card; takes the arguments of [`push_folder`]. The processor goes with
        it if the model was loaded with one beside it; [`push_checkpoint`] takes it from your hands."""
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
