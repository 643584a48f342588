"""Complete checkpoint folders, and nothing half-written.

A folder that a stranger can load holds weights, configuration, generation configuration, all code files, the processor
and a model card. transformers writes the first four; this module adds the rest and makes the writing all-or-nothing.
"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
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
)
CARD_FACTS = {"name", "license", "language", "datasets", "data", "training", "results", "limits"}


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


def card_template() -> Path | None:
    """hub_card.md: inside the installed package, or at the top of a checkout. Code loaded from the Hub has none."""
    here = Path(__file__).parent
    return next((path for path in (here / "hub_card.md", here.parent / "hub_card.md") if path.is_file()), None)


def part_sizes(model) -> dict[str, int]:
    """Parameters of each part of a model, tied ones counted once: decoder, towers, connectors, head."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        if part not in ("vision_tower", "vision_connector", "audio_tower", "audio_connector", "lm_head"):
            part = "decoder"
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return sizes


def write_card(folder: Path, model, facts: dict) -> None:
    """README.md of a checkpoint: hub_card.md filled with what is known. `facts` is measured or told by the trainer:
    keys `name`, `license`, `language`, `datasets` (list), `data`, `training`, `results` (list of rows), `limits`."""
    unknown = set(facts) - CARD_FACTS
    if unknown:
        raise ValueError(f"The model card has no place for {sorted(unknown)}; it takes {sorted(CARD_FACTS)}.")
    template = card_template()
    if template is None:
        return
    has_head = hasattr(model.config, "text_config")
    text = model.config.get_text_config()
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text" if has_head else "text-generation",
        tags=["mmgpt", "custom_code"],
        license=facts.get("license"),
        language=facts.get("language"),
        datasets=facts.get("datasets"),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        name=facts.get("name") or folder.name,
        architecture=type(model).__name__,
        sees=getattr(model.config, "vision_config", None) is not None,
        hears=getattr(model.config, "audio_config", None) is not None,
        parts=part_sizes(model),
        total=sum(part_sizes(model).values()),
        text=text,
        **{key: facts.get(key) for key in ("data", "training", "results", "limits")},
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


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
            if "README.md" in missing and not (folder / "README.md").exists():
                write_card(folder, self, {"name": destination.name})
            return super().save_pretrained(folder, is_main_process=True, push_to_hub=push_to_hub, **kwargs)


def save_checkpoint(
    folder: str | os.PathLike, model, processor, card: dict | None = None, state_dict: dict | None = None
) -> Path:
    """Writes model, processor and card to one complete folder and returns it.

    Args:
        folder: where; written beside it first and renamed, so that it is there whole or not at all.
        model: any MMGPT model.
        processor: its MMGPTProcessor (for a text-only model: its tokenizer).
        card: measured facts for the model card, see [`write_card`].
        state_dict: the weights, where those of `model` are only a part of them (FSDP, ZeRO-3).
    """
    folder = Path(folder).absolute()
    with written_whole(folder) as temporary:
        processor.save_pretrained(temporary)
        write_card(temporary, model, {"name": folder.name, **(card or {})})
        model.save_pretrained(temporary, state_dict=state_dict)
    return folder
