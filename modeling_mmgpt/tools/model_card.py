"""The model card of a checkpoint. Its facts are data: card_facts.json beside README.md, from which the card is rendered.

    write_card(folder, model, facts)                                # of a folder that is being written
    record_results(folder, results, by="recipe `fsdd`, split `test`")  # measured later, into the card that is there
    read_facts(folder_or_hub_id)                                    # {} where there is no card

What stands outside the two markers of the rendered part is the owner's, and kept; so are metadata that no fact speaks of.
"""

import datetime
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from ..folders_mmgpt import find_file
from ..saving_mmgpt import find_origin
from .old_cards import LEAD, read_old_card


FACTS_FILE = "card_facts.json"
START = f"<!-- From here on rendered from {FACTS_FILE}: changes are lost. Your own text goes above this line or below the last. -->"
END = f"<!-- End of what is rendered from {FACTS_FILE}. -->"

# Facts that the Hub shows from the card's metadata, where the owner may change them, too.
METADATA_FACTS = ("license", "language", "datasets")
MARKDOWN_FACTS = ("training", "hardware", "data", "history", "intended_use", "out_of_scope", "limits")
# What may be told, and of each result and source at least; see write_card.
CARD_FACTS = {
    "name",
    "licences",
    "base_model",
    "mixture",
    "results",
    "calibration",
    "bias",
    *METADATA_FACTS,
    *MARKDOWN_FACTS,
}
RESULT_FACTS = {"task", "measure", "value", "n"}
BASELINES = ("majority", "shuffled", "blank")
SOURCE_FACTS = {"source", "samples", "weight", "licence"}


# The facts ---------------------------------------------------------------------------------------------------------


@dataclass
class Card:
    """A card as it was: its facts, its metadata, and what its owner wrote above and below the rendered part."""

    facts: dict = field(default_factory=dict)
    data: ModelCardData = field(default_factory=ModelCardData)
    above: str = ""
    below: str = ""


def read_card(origin: str | os.PathLike) -> Card:
    """The card of a folder or a Hub repository; an empty one where there is none."""
    place = find_origin(str(origin))
    path, readme = (find_file(place, name) for name in (FACTS_FILE, "README.md"))
    facts = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    if readme is None:
        return Card(facts)
    try:
        card = ModelCard(readme.read_text(encoding="utf-8"))
    except Exception as error:  # of several libraries: yaml's own, huggingface_hub's ValueError
        raise ValueError(
            f"The metadata at the head of {readme} cannot be read: fix or remove it ({error})."
        ) from error
    above, _, rest = card.text.partition(START)
    below = rest.partition(END)[2]
    if FACTS_FILE not in card.text and LEAD.search(card.text):
        old_facts, below = read_old_card(card)
        facts, above = facts or old_facts, ""
    is_adapter = (facts.get("model") or {}).get("adapter_of") is not None  # its base is no fact but the model's
    keys = METADATA_FACTS if is_adapter else (*METADATA_FACTS, "base_model")
    facts |= {key: card.data.get(key) for key in keys if card.data.get(key) is not None}
    return Card(facts, card.data, above.strip(), below.strip())


def read_facts(origin: str | os.PathLike) -> dict:
    """The facts of the card of a folder or a Hub repository, with `model`, what the card says of the model's parts."""
    return read_card(origin).facts


def check_entries(entries: list[dict], what: str, keys: set[str]) -> None:
    for entry in entries:
        if missing := keys - set(entry):
            raise ValueError(f"The {what} {entry} lacks {sorted(missing)}.")


def describe_model(model, base_model: str | None) -> dict:
    """What the card says of the model itself; `base_model`: the Hub's name of an adapter's base, where it is known."""
    base = adapter_base(model)
    is_local = base is not None and base_model is None and os.path.isdir(base)  # nobody else can follow a link to it
    text = model.config.get_text_config()
    return {
        "architecture": type(model if base is None else model.get_base_model()).__name__,
        "adapter_of": Path(base).name if is_local else base_model or base if base is not None else None,
        "is_local": is_local,
        "modalities": [
            part for part in ("vision", "audio") if getattr(model.config, f"{part}_config", None) is not None
        ],
        "parts": part_sizes(model) if base is None else {"adapter": model.get_nb_trainable_parameters()[0]},
        "layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "vocabulary": text.vocab_size,
    }


def part_sizes(model) -> dict[str, int]:
    """Parameters of each part of a model, tied ones counted once: decoder, encoders, connectors, head."""
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


def licences_of(facts: dict) -> dict[str, str]:
    """The licences of what the model is made of and of what it was trained on, where one of them is known."""
    mixture = {source["source"]: source["licence"] or "not stated" for source in facts.get("mixture") or []}
    return {**(facts.get("licences") or {}), **mixture}


# Writing -----------------------------------------------------------------------------------------------------------


def write_card(folder: Path, model, facts: dict, earlier: str | os.PathLike | None = None) -> None:
    """README.md and card_facts.json of a checkpoint. Nothing but `facts` and the model itself is told:

    name: the model's name, on the Hub `owner/name`.
    license, language, datasets: the Hub's metadata of these names.
    licences: `{part: its licence}`.
    base_model: the Hub's name of the model that an adapter belongs to, or that this model was trained from.
    mixture: what the model was trained on, a list of `{"source", "samples", "weight", "licence"}`; `samples` are those of an epoch,
        `None` of a stream; `licence` is `None` where nobody stated it.
    training, hardware, data, history, intended_use, out_of_scope, limits: Markdown; `history` tells how the model was trained that
        this one started from, `out_of_scope` what it must not be used for.
    results, calibration, bias: lists of `{"task", "measure", "value", "n"}`, optionally with `low` and `high`, the ends of the 95 %
        interval, with the baselines `majority`, `shuffled` and `blank`, with `dataset` (its Hub id) and `split` for the metadata, and
        with `by`, what measured it (in Markdown), and `date`; those of `calibration` with `bins`, a list of `[low, high, answers, mean
        confidence, mean score]`. The first result of a bias table may say the `scope` of all: what its numbers mean.

    earlier: the folder or Hub id with the card that the model had before. What `facts` do not mention stays as it was there; an empty
        list is a mention.
    """
    if unknown := set(facts) - CARD_FACTS - {"model"}:  # what another card said of its model is not taken over
        raise ValueError(f"The model card has no place for {sorted(unknown)}; it takes {sorted(CARD_FACTS)}.")
    measured = [result for key in ("results", "calibration", "bias") for result in facts.get(key) or []]
    check_entries(measured, "result", RESULT_FACTS)
    check_entries(facts.get("mixture") or [], "source", SOURCE_FACTS)
    before = Card() if earlier is None else read_card(earlier)
    kept = {key: value for key, value in before.facts.items() if key not in ("name", "model")}
    merged = {"name": folder.name, **kept, **facts, "model": describe_model(model, facts.get("base_model"))}
    write_files(folder, render_files(merged, before))


def record_results(folder: str | os.PathLike, results: list[dict], by: str, section: str = "Results") -> Path | None:
    """Writes what was measured into the card of a saved folder, atomically, and leaves the rest of it as it is.

    Args:
        folder: of a model or an adapter. One without a card is left without.
        results: as those of [`write_card`].
        by: what measured them, in Markdown. Earlier results by the same are replaced.
        section: `"Results"`, which go into the card's metadata too, `"Calibration"` or `"Bias"`.

    Returns:
        The card, if there is one.
    """
    check_entries(results, "result", RESULT_FACTS)
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        return None
    before, key = read_card(folder), section.lower()
    tables = tables_of(before.facts.get(key))
    tables[by] = [{**result, "by": by, "date": str(datetime.date.today())} for result in results]
    measured = {key: [result for table in tables.values() for result in table]}
    write_files(folder, render_files({"name": folder.absolute().name, **before.facts, **measured}, before))
    return folder / "README.md"


def renamed_files(folder: str | os.PathLike, name: str) -> dict[str, str]:
    """The two files of a folder's card as they are under another name; none where there is no card of ours."""
    before = read_card(folder)
    return render_files({**before.facts, "name": name}, before) if before.facts.get("model") else {}


def render_files(facts: dict, before: Card) -> dict[str, str]:
    """README.md and card_facts.json of `facts`, in the place of the card `before`."""
    stored = json.dumps(facts, indent=1, ensure_ascii=False, default=lambda scalar: scalar.item())  # of numpy or torch
    facts = json.loads(stored)
    parts = [before.above, f"{START}\n\n{render_body(facts)}\n\n{END}", before.below]
    text = "\n\n".join(part for part in parts if part)
    return {"README.md": f"---\n{render_metadata(facts, before)}\n---\n\n{text}\n", FACTS_FILE: stored + "\n"}


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name in files:
        (folder / f".{name}.part").write_text(files[name], encoding="utf-8")
    for name in files:
        os.replace(folder / f".{name}.part", folder / name)


# Rendering ---------------------------------------------------------------------------------------------------------


def render_body(facts: dict) -> str:
    package = Path(__file__).parent.parent  # the template is inside the installed package, or at the top of a checkout
    path = next(path for path in (package / "hub_card.md", package.parent / "hub_card.md") if path.is_file())
    licences = licences_of(facts)
    rendered = {
        "training": training_text(facts),
        "results": results_text(facts.get("results")),
        "calibration": calibration_text(facts.get("calibration")),
        "bias": bias_text(facts.get("bias")),
        "licences": {"code": "Apache-2.0", **licences} if licences else {},
    }
    return Template(path.read_text(encoding="utf-8")).render(facts | rendered).strip()


def training_text(facts: dict) -> str:
    """The section on training, in Markdown; a model that is trained further tells it as its `history`."""
    is_adapter = bool(facts.get("model") and facts["model"]["adapter_of"])
    base, hardware, data = (facts.get(key) for key in ("base_model", "hardware", "data"))
    mixture = [["data", "samples of an epoch", "weight"]]
    for source in facts.get("mixture") or []:
        count = "streamed" if source["samples"] is None else f"{source['samples']:,}"
        mixture.append([source["source"], count, source["weight"]])
    is_known = data or len(mixture) > 1
    parts = [
        f"Trained from {base}." if base and not is_adapter else None,
        facts.get("training"),
        f"Hardware: {hardware}." if hardware else None,
        data,
        markdown_table(mixture) if len(mixture) > 1 else None,
        None if is_known else "What the model was trained on was not recorded when this checkpoint was saved.",
        facts.get("history"),
    ]
    return "\n\n".join(part for part in parts if part)


def results_text(results: list[dict] | None) -> str:
    """A table for each that measured, under its words and date; baselines have a column where any result has them."""
    texts = []
    for by, table in tables_of(results).items():
        baselines = [name for name in BASELINES if any(result.get(name) is not None for result in table)]
        lines = [["task", "measure", "value", "95 % interval", *baselines, "n"]]
        for result in table:
            interval = "" if result.get("low") is None else f"{result['low']} to {result['high']}"
            beside = ["" if result.get(name) is None else result[name] for name in baselines]
            lines.append([result["task"], result["measure"], result["value"], interval, *beside, result["n"]])
        texts.append(heading_of(by, table) + markdown_table(lines))
    return "\n\n".join(texts)


def calibration_text(results: list[dict] | None) -> str:
    """The errors, and below them the reliability diagram in numbers."""
    lines = [["task", "confidence", "answers", "mean confidence", "mean score"]]
    for result in results or []:
        for low, high, *numbers in result.get("bins") or []:
            lines.append([result["task"], f"{low:.1f} to {high:.1f}", *numbers])
    return "\n\n".join([results_text(results), *([markdown_table(lines)] if len(lines) > 1 else [])])


def bias_text(results: list[dict] | None) -> str:
    """As `results_text`, with a column for each measure, and below the table what its numbers mean."""
    texts = []
    for by, table in tables_of(results).items():
        measures = list(dict.fromkeys(result["measure"] for result in table))
        lines = [["", *measures, "n"]]
        for task in dict.fromkeys(result["task"] for result in table):
            own = {result["measure"]: result for result in table if result["task"] == task}
            of_all = next(iter(own.values()))["n"]
            lines.append([task, *(bias_cell(own.get(measure), of_all) for measure in measures), of_all])
        scope = [table[0]["scope"]] if table[0].get("scope") else []
        texts += [heading_of(by, table) + markdown_table(lines), *scope]
    return "\n\n".join(texts)


def bias_cell(result: dict | None, of_all: int) -> str:
    """The value with its interval, and the number of samples where it is not that of the whole row."""
    if result is None:
        return ""
    numbers = [result["value"], result.get("low"), result.get("high")]
    value, low, high = (f"{round(number, 3) + 0.0:.3f}" if isinstance(number, float) else number for number in numbers)
    interval = "" if low is None else f" ({low} to {high})"
    return f"{value}{interval}" + ("" if result["n"] == of_all else f", n {result['n']}")


def heading_of(by: str | None, table: list[dict]) -> str:
    """What measured a table and when, as the line above it."""
    if by is None:
        return ""
    heading = f"{by}, {table[0]['date']}" if table[0].get("date") else by
    return f"{heading[0].upper()}{heading[1:]}:\n\n"


def tables_of(results: list[dict] | None) -> dict[str | None, list[dict]]:
    """The results by what measured them."""
    tables: dict[str | None, list[dict]] = {}
    for result in results or []:
        tables.setdefault(result.get("by"), []).append(result)
    return tables


def markdown_table(lines: list[list]) -> str:
    heading, *rest = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rest))


def render_metadata(facts: dict, before: Card) -> str:
    """The metadata for the Hub: ours, and those of the owner that no fact speaks of."""
    model, data = facts.get("model"), before.data
    if model is not None:
        pipeline_tag = {(): "text-generation", ("vision",): "image-text-to-text"}.get(
            tuple(model["modalities"]), "any-to-any"
        )
        data.library_name = "transformers" if model["adapter_of"] is None else "peft"
        data.pipeline_tag = data.pipeline_tag or pipeline_tag
        data.tags = list(dict.fromkeys(["mmgpt", "custom_code", *(data.tags or [])]))
        data.base_model = (
            facts.get("base_model") if model["is_local"] else model["adapter_of"] or facts.get("base_model")
        )
    for key in METADATA_FACTS:
        data[key] = facts.get(key)
    ours = {(result["task"], result["measure"]) for result in before.facts.get("results") or []}
    theirs = [one for one in data.eval_results or [] if (one.dataset_name, one.metric_type) not in ours]
    new = [
        EvalResult(
            task_type=data.pipeline_tag or "text-generation",
            dataset_type=result.get("dataset") or result["task"],
            dataset_name=result["task"],
            dataset_split=result.get("split"),
            metric_type=result["measure"],
            metric_value=result["value"],
        )
        for result in facts.get("results") or []
    ]
    # Measured twice on the same data, the later result counts.
    latest = {(one.dataset_type, one.dataset_split, one.metric_type): one for one in [*theirs, *new]}
    data.eval_results = list(latest.values()) or None
    data.model_name = facts["name"] if latest else None
    return data.to_yaml()
