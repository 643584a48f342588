"""The model card of a checkpoint: hub_card.md filled with what was measured or told, and nothing else."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


# What a card has a place for; see write_card.
CARD_FACTS = {
    "name",
    "license",
    "language",
    "datasets",
    "licences",
    "base_model",
    "data",
    "training",
    "hardware",
    "results",
    "bias",
    "intended_use",
    "limits",
}
RESULT_FACTS = {"task", "measure", "value", "n"}


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


def adapter_base(model) -> str | None:
    """The folder or name that the base of a `PeftModel` was loaded from; `None` for a whole model."""
    if not type(model).__name__.startswith("PeftModel"):
        return None
    return model.active_peft_config.base_model_name_or_path


def sizes_of(model) -> dict[str, int]:
    """The parameters that a folder of `model` holds: its parts', or those of the adapter."""
    if adapter_base(model) is None:
        return part_sizes(model)
    return {"adapter": model.get_nb_trainable_parameters()[0]}


def check_facts(facts: dict) -> None:
    unknown = set(facts) - CARD_FACTS
    if unknown:
        raise ValueError(f"The model card has no place for {sorted(unknown)}; it takes {sorted(CARD_FACTS)}.")
    for row in [*(facts.get("results") or []), *(facts.get("bias") or [])]:
        missing = RESULT_FACTS - set(row)
        if missing:
            raise ValueError(f"The result {row} lacks {sorted(missing)}.")


def write_card(folder: Path, model, facts: dict) -> None:
    """README.md of a checkpoint. Nothing but `facts` and the model itself is told:

    name: the model's name, on the Hub `owner/name`.
    license, language, datasets: the Hub's metadata of these names.
    licences: `{part or data set: its licence}`.
    base_model: the Hub's name of the model that an adapter belongs to, or that this model was trained from.
    data, training, hardware, intended_use, limits: Markdown.
    results, bias: lists of `{"task", "measure", "value", "n"}`, optionally with `low` and `high`, the ends of the 95 % interval.
    """
    check_facts(facts)
    template = card_template()
    if template is None:
        return
    adapter_of = adapter_base(model)
    if adapter_of is not None:
        adapter_of = facts.get("base_model") or adapter_of
    config = model.config
    sees, hears = (getattr(config, f"{tower}_config", None) is not None for tower in ("vision", "audio"))
    data = ModelCardData(
        library_name="transformers" if adapter_of is None else "peft",
        pipeline_tag="any-to-any" if hears else "image-text-to-text" if sees else "text-generation",
        tags=["mmgpt", "custom_code"],
        base_model=adapter_of or facts.get("base_model"),
        license=facts.get("license"),
        language=facts.get("language"),
        datasets=facts.get("datasets"),
    )
    sizes = sizes_of(model)
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        architecture=type(model.get_base_model() if adapter_of else model).__name__,
        adapter_of=adapter_of,
        sees=sees,
        hears=hears,
        parts=sizes,
        total=sum(sizes.values()),
        text=config.get_text_config(),
        **{key: facts.get(key) for key in CARD_FACTS - {"name", "license", "language", "datasets"}},
        name=facts.get("name") or folder.name,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def rename_card(text: str, old: str, new: str) -> str:
    """The card of a folder under the name that the model has on the Hub: in its title and where the snippets load it."""
    return text.replace(f"\n# {old}\n", f"\n# {new}\n").replace(f'name = "{old}"', f'name = "{new}"')


__all__ = ["adapter_base", "part_sizes", "rename_card", "write_card"]
