"""The model card of a checkpoint: hub_card.md filled with what was measured or told, and nothing else.

write_card(folder, model, facts)                              # README.md of a folder that is being written
record_results(folder, rows, by="recipe `fsdd`, split `test`")  # what was measured later, into the card that is there
"""

import datetime
import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData


# What a card has a place for; see write_card.
CARD_FACTS = {
    "name",
    "license",
    "language",
    "datasets",
    "licences",
    "base_model",
    "data",
    "mixture",
    "training",
    "hardware",
    "history",
    "results",
    "bias",
    "intended_use",
    "limits",
}
RESULT_FACTS = {"task", "measure", "value", "n"}
BASELINES = ("majority", "shuffled", "blank")
SOURCE_FACTS = {"source", "rows", "weight", "licence"}
# The facts that each section tells; one without any of them stays as an earlier card had it.
SECTIONS = {
    "Intended use": {"intended_use"},
    "Training": {"data", "mixture", "training", "hardware", "history", "base_model"},
    "Results": {"results"},
    "Bias": {"bias"},
    "Limits": {"limits"},
    "Licences": {"licences", "mixture"},
}
NOTHING = {"Results": "Nothing was measured when this checkpoint was saved.", "Bias": "Not measured."}


def card_template() -> Path | None:
    """hub_card.md: inside the installed package, or at the top of a checkout. Code loaded from the Hub has none."""
    here = Path(__file__).parent.parent
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
    check_rows([*(facts.get("results") or []), *(facts.get("bias") or [])], "result", RESULT_FACTS)
    check_rows(facts.get("mixture") or [], "source", SOURCE_FACTS)


def check_rows(rows: list[dict], what: str, keys: set[str]) -> None:
    for row in rows:
        missing = keys - set(row)
        if missing:
            raise ValueError(f"The {what} {row} lacks {sorted(missing)}.")


def write_card(folder: Path, model, facts: dict, earlier: Path | None = None) -> None:
    """README.md of a checkpoint. Nothing but `facts` and the model itself is told:

    name: the model's name, on the Hub `owner/name`.
    license, language, datasets: the Hub's metadata of these names.
    licences: `{part: its licence}`.
    base_model: the Hub's name of the model that an adapter belongs to, or that this model was trained from.
    mixture: what the model was trained on, a list of `{"source", "rows", "weight", "licence"}`; `rows` are those of an epoch, `None` of a
        stream; `licence` is `None` where nobody stated it.
    training, hardware, data, history, intended_use, limits: Markdown; `history` tells how the model was trained that this one started from.
    results, bias: lists of `{"task", "measure", "value", "n"}`, optionally with `low` and `high`, the ends of the 95 % interval, with the
        baselines `majority`, `shuffled` and `blank`, and with `dataset` (its Hub id) and `split` for the metadata.

    earlier: the card that the model had before. What `facts` do not mention stays as it was there; an empty list is a mention.
    """
    check_facts(facts)
    template = card_template()
    if template is None:
        return
    adapter_of = adapter_base(model)
    if adapter_of is not None:
        adapter_of = facts.get("base_model") or adapter_of
    is_local = adapter_of is not None and os.path.isdir(adapter_of)  # then nobody else can follow a link to it
    config = model.config
    sees, hears = (getattr(config, f"{tower}_config", None) is not None for tower in ("vision", "audio"))
    name, results = facts.get("name") or folder.name, facts.get("results") or []
    pipeline_tag = "any-to-any" if hears else "image-text-to-text" if sees else "text-generation"
    data = ModelCardData(
        library_name="transformers" if adapter_of is None else "peft",
        pipeline_tag=pipeline_tag,
        tags=["mmgpt", "custom_code"],
        base_model=facts.get("base_model") if is_local else adapter_of or facts.get("base_model"),
        license=facts.get("license"),
        language=facts.get("language"),
        datasets=facts.get("datasets"),
        model_name=name if results else None,
        eval_results=[as_eval_result(row, pipeline_tag) for row in results] or None,
    )
    sizes = sizes_of(model)
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        architecture=type(model.get_base_model() if adapter_of else model).__name__,
        adapter_of=Path(adapter_of).name if is_local else adapter_of,
        is_local=is_local,
        sees=sees,
        hears=hears,
        parts=sizes,
        total=sum(sizes.values()),
        text=config.get_text_config(),
        results=results_table(results) if results else NOTHING["Results"],
        bias=results_table(facts["bias"]) if facts.get("bias") else NOTHING["Bias"],
        licences=licences_of(facts),
        **{key: facts.get(key) for key in ("intended_use", "limits", *SECTIONS["Training"])},
        name=name,
    )
    if earlier is not None:
        keep_earlier(card, load_card(earlier), set(facts))
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def licences_of(facts: dict) -> dict[str, str]:
    """What the model is made of and what it was trained on, with the licence of each, where one of them is known."""
    mixture = {row["source"]: row["licence"] or "not stated" for row in facts.get("mixture") or []}
    licences = {**(facts.get("licences") or {}), **mixture}
    return {"code": "Apache-2.0", **licences} if licences else {}


def load_card(path: Path) -> ModelCard:
    """The card, or an error that names the file where its metadata cannot be read."""
    try:
        return ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # of several libraries: yaml's own, huggingface_hub's ValueError
        raise ValueError(f"The metadata at the head of {path} cannot be read: mend or remove it ({error}).") from error


def keep_earlier(card: ModelCard, earlier: ModelCard, told: set[str]) -> None:
    """Lays what an earlier card said over `card`, but for what is `told` now: metadata, sections, and sections of its own."""
    card.data.tags = list(dict.fromkeys([*card.data.tags, *(earlier.data.tags or [])]))
    if earlier.data.eval_results and "results" not in told:
        card.data.eval_results = earlier.data.eval_results
        card.data.model_name = name_of(card.text)
    for key, value in earlier.data.__dict__.items():
        if key not in {*told, "eval_results", "model_name"} and card.data.get(key) is None:
            card.data[key] = value
    sections = split_sections(card.text)
    for heading, body in split_sections(earlier.text).items():
        if heading not in sections or (heading in SECTIONS and not SECTIONS[heading] & told):
            sections[heading] = body.rstrip() + "\n\n"
    card.text = "".join(sections.values()).rstrip() + "\n"


def split_sections(text: str) -> dict[str, str]:
    """The text of a card by its `## ` headings, each part with its heading; what stands before the first is under ""."""
    sections: dict[str, str] = {}
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        heading = part.partition("\n")[0].removeprefix("## ").strip() if part.startswith("## ") else ""
        sections[heading] = sections.get(heading, "") + part
    return sections


def section_of(path: Path, heading: str) -> str:
    """What a card says under a heading; nothing where it has no such section."""
    return split_sections(load_card(path).text).get(heading, "").partition("\n")[2].strip()


def licences_in(path: Path) -> dict[str, str]:
    """What a card says under Licences."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section_of(path, "Licences"), flags=re.MULTILINE)
    return {of: licence for of, licence in rows if of not in ("of", "code")}


def results_table(rows: list[dict]) -> str:
    """Measured rows, see [`write_card`], as a table; baselines have a column where any row has them."""
    baselines = [name for name in BASELINES if any(row.get(name) is not None for row in rows)]
    lines = [["task", "measure", "value", "95 % interval", *baselines, "n"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        interval = "" if row.get("low") is None else f"{row['low']} to {row['high']}"
        beside = ["" if row.get(name) is None else row[name] for name in baselines]
        lines.append([row["task"], row["measure"], row["value"], interval, *beside, row["n"]])
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def as_eval_result(row: dict, task_type: str) -> EvalResult:
    """A measured row as the Hub's metadata have it."""
    return EvalResult(
        task_type=task_type,
        dataset_type=row.get("dataset") or row["task"],
        dataset_name=row["task"],
        dataset_split=row.get("split"),
        metric_type=row["measure"],
        metric_value=row["value"],
    )


def record_results(folder: str | os.PathLike, rows: list[dict], by: str, section: str = "Results") -> Path | None:
    """Writes what was measured into the card of a saved folder, whole or not at all, and leaves the rest of it as it is.

    Args:
        folder: of a model or an adapter. One without a card is left without.
        rows: as the `results` of [`write_card`].
        by: what measured them, in Markdown. A table that stands there under the same words is replaced.
        section: `"Results"`, which go into the card's metadata too, or `"Bias"`.

    Returns:
        The card, if there is one.
    """
    check_rows(rows, "result", RESULT_FACTS)
    path = Path(folder) / "README.md"
    if not path.is_file():
        return None
    card = load_card(path)
    name = name_of(card.text) or Path(folder).absolute().name
    start, end = f"<!-- measured: {by} -->", "<!-- end -->"
    table = f"{start}\n{by[0].upper()}{by[1:]}, {datetime.date.today()}:\n\n{results_table(rows)}\n{end}"
    card.text = put_table(card.text, section, start, end, table)
    if section == "Results":
        new = [as_eval_result(row, card.data.pipeline_tag or "text-generation") for row in rows]
        measured = {(one.dataset_type, one.dataset_split) for one in new}
        kept = [one for one in card.data.eval_results or [] if (one.dataset_type, one.dataset_split) not in measured]
        card.data.model_name = card.data.model_name or name
        card.data.eval_results = kept + new
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(str(card), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def put_table(text: str, section: str, start: str, end: str, table: str) -> str:
    """The text with `table` in the place of the one between `start` and `end`, else at the end of its section."""
    before, found, rest = text.partition(start)
    if found and end in rest:
        return before + table + rest.partition(end)[2]
    heading = re.search(rf"^## {section}[ \t]*$", text, flags=re.MULTILINE)
    if heading is None:
        return f"{text.rstrip()}\n\n## {section}\n\n{table}\n"
    following = re.search(r"^## ", text[heading.end() :], flags=re.MULTILINE)
    stop = len(text) if following is None else heading.end() + following.start()
    body = re.sub(rf"^{re.escape(NOTHING[section])}$", "", text[heading.end() : stop], flags=re.MULTILINE).rstrip()
    return f"{text[: heading.end()]}{body}\n\n{table}\n" + (f"\n{text[stop:]}" if following else "")


def name_of(text: str) -> str | None:
    """The name that the snippets of a card load the model by."""
    found = re.search(r'^name = "(.+)"$', text, flags=re.MULTILINE)
    return found[1] if found else None


def rename_card(text: str, name: str) -> str:
    """The card of a folder under the name that the model has on the Hub: in its title, its metadata and where the snippets
    load it."""
    old = name_of(text)
    if old is not None:
        text = text.replace(f"\n# {old}\n", f"\n# {name}\n").replace(f'name = "{old}"', f'name = "{name}"')
    return re.sub(r"^(model-index:\s+- name: ).*$", rf"\g<1>{name}", text, count=1, flags=re.MULTILINE)


__all__ = [
    "adapter_base",
    "licences_in",
    "load_card",
    "part_sizes",
    "record_results",
    "rename_card",
    "section_of",
    "write_card",
]
