"""Complete folders of a model, its processor and a card made of facts: written to the disk, pushed to the Hub, loaded whole."""

import os
import tempfile
from pathlib import Path

from huggingface_hub import CommitInfo

from .. import saving_mmgpt
from ..saving_mmgpt import atomic_folder
from .model_card import adapter_base, renamed_files, write_card


def load_whole(model_class, name: str, **kwargs):
    """`model_class.from_pretrained(name, **kwargs)`, refused where weights are missing, in whose place the library puts random ones,
    or are NaN or infinite: a `ValueError` with their names."""
    model, loading = model_class.from_pretrained(name, output_loading_info=True, **kwargs)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{name} lacks weights of the model: {listed(missing)}. Take a complete checkpoint. A decoder alone becomes a multimodal "
            "model by `mmgpt assemble`."
        )
    if broken := [key for key, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ValueError(f"{name} has weights that are NaN or infinite: {listed(broken)}. Take an earlier checkpoint.")
    return model


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def save_checkpoint(
    folder: str | os.PathLike, model, processor, card: dict | None = None, state_dict: dict | None = None
) -> Path:
    """Writes model, processor and card to one complete folder and returns it.

    Args:
        folder: where; written beside it first and renamed, so that it appears atomically.
        model: any MMGPT model, or a `PeftModel` of one: then the folder holds the adapter and the name of its base.
        processor: its MMGPTProcessor (for a text-only model: its tokenizer).
        card: measured facts for the model card, see [`write_card`]. What they do not mention stays as the card of the folder or
            repository says that the model was loaded from.
        state_dict: the weights, where those of `model` are only a part of them (FSDP, ZeRO-3).
    """
    folder = Path(folder).absolute()
    facts = {"name": folder.name, **(card or {})}
    with atomic_folder(folder) as temporary:
        processor.save_pretrained(temporary)
        if adapter_base(model) is None:
            write_card(temporary, model, facts, earlier=model.name_or_path or None)
            model.save_pretrained(temporary, state_dict=state_dict)
        else:  # peft writes a card of its own, which ours replaces
            save_adapter(temporary, model, facts.get("base_model"), state_dict)
            write_card(temporary, model, facts)
    return folder


def save_adapter(folder: Path, model, base_model: str | None, state_dict: dict | None) -> None:
    """The adapter, with `base_model` as the name of its base where the base was loaded from elsewhere."""
    known = {name: config.base_model_name_or_path for name, config in model.peft_config.items()}
    try:
        for config in model.peft_config.values():
            config.base_model_name_or_path = base_model or config.base_model_name_or_path
        model.save_pretrained(folder, state_dict=state_dict)
    finally:
        for name, config in model.peft_config.items():
            config.base_model_name_or_path = known[name]


def push_checkpoint(repo_id: str, model, processor, card: dict | None = None, **kwargs) -> CommitInfo:
    """Publishes model, code, processor and card on the Hub in one commit.

    Args:
        repo_id: `owner/name`; made if it does not exist yet.
        model, processor, card: as for [`save_checkpoint`]. An adapter needs a base that others can load: the name that its
            base was loaded by, or the fact `base_model`.
        kwargs: those of [`push_folder`].
    """
    facts = {"name": repo_id, **(card or {})}
    base = facts.get("base_model") or adapter_base(model)
    if base is not None and os.path.isdir(base):
        raise ValueError(
            f"The adapter's base is the folder {base}, which nobody else has: push the base first, and give its name as "
            "card={'base_model': 'owner/name'}."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_checkpoint(Path(temporary) / "model", model, processor, facts)
        return saving_mmgpt.push_folder(folder, repo_id, **kwargs)


def push_folder(folder: str | os.PathLike, repo_id: str, **kwargs) -> CommitInfo:
    """[`saving_mmgpt.push_folder`] with the folder's card under the name that the model has on the Hub."""
    return saving_mmgpt.push_folder(folder, repo_id, files=renamed_files(folder, repo_id), **kwargs)
