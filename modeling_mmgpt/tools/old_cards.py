"""Cards of checkpoints that were saved before card_facts.json: their Markdown is read once into facts.

The headings and sentences are those of that time, whatever cards say today."""

import re

from huggingface_hub import ModelCard


TEXT_FACTS = {"Intended use": "intended_use", "Limits": "limits"}
RESULT_FACTS = {"Results": "results", "Bias": "bias"}
RENDERED = {"", "Use", "Training", "Licences", *TEXT_FACTS, *RESULT_FACTS}
# What such a card said where nothing was known.
NOTHING_KNOWN = {
    "Not stated by those who trained it.",
    "What the model was trained on was not recorded when this checkpoint was saved.",
    "Nothing was measured when this checkpoint was saved.",
    "Not measured.",
    "The model knows only what it was trained on, and repeats the biases of that data. Measure it on your own task before you "
    "rely on it.",
}
LEAD = re.compile(
    r"^An (MMGPT checkpoint|adapter \(PEFT\) of (?P<base>.+), an MMGPT model) \(`(?P<architecture>\w+)`\).*",
    re.MULTILINE,
)
DECODER = re.compile(r"^Decoder: (\d+) layers, width (\d+), (\d+) heads, vocabulary (\d+)\.$", re.MULTILINE)
TABLE_LINE = re.compile(r"^\| (.+?) \| (.+?) \|$", re.MULTILINE)


def is_old_card(card: ModelCard) -> bool:
    return "card_facts.json" not in card.text and LEAD.search(card.text) is not None


def read_old_card(card: ModelCard) -> tuple[dict, str]:
    """The facts that the card tells, and what its owner added to it; no facts where it is not one of ours."""
    if not is_old_card(card):
        return {}, card.text
    sections = split_sections(card.text)
    body = {heading: text.partition("\n")[2].strip() for heading, text in sections.items()}
    facts = {"name": name_of(card.text), "model": read_model(sections[""])}
    added = []
    for heading, key in TEXT_FACTS.items():
        if body.get(heading) and body[heading] not in NOTHING_KNOWN:
            facts[key] = body[heading]
    for heading, key in RESULT_FACTS.items():
        facts[key], rest = read_results(body.get(heading, ""))
        added += [f"## {heading}: notes\n\n{rest}"] if rest else []
    for one in card.data.eval_results or []:
        for result in facts["results"]:
            if (result["task"], result["measure"]) == (one.dataset_name, one.metric_type):
                about = {"dataset": one.dataset_type, "split": one.dataset_split}
                result |= {key: value for key, value in about.items() if value not in (None, result["task"])}
    licences = {
        of: licence for of, licence in TABLE_LINE.findall(body.get("Licences", "")) if of not in ("of", "---", "code")
    }
    base = None if facts["model"]["adapter_of"] else card.data.base_model
    facts |= read_training(body.get("Training", ""), base, licences)
    facts |= {"licences": licences} if licences else {}
    return facts, "\n\n".join(
        [*added, *(text.strip() for heading, text in sections.items() if heading not in RENDERED)]
    )


def read_training(text: str, base: str | None, licences: dict[str, str]) -> dict:
    """The facts of the section on training; takes the licences of the mixture out of `licences`."""
    facts, place = {}, "training"
    for part in text.split("\n\n"):
        hardware = re.fullmatch(r"Hardware: (.+)\.", part)
        if part == f"Trained from {base}.":
            continue
        if place == "history" or not (hardware or part in NOTHING_KNOWN or part.startswith("| data |")):
            facts[place] = f"{facts[place]}\n\n{part}" if place in facts else part
        elif hardware:
            facts["hardware"], place = hardware[1], "data"
        else:  # the mixture, or that it is not known
            lines = [split_cells(line) for line in part.splitlines()[2:]]
            mixture = [read_source(*cells, licences) for cells in lines]
            facts |= {"mixture": mixture} if mixture else {}
            place = "history"
    return {key: value for key, value in facts.items() if value}


def read_source(source: str, count: str, weight: str, licences: dict[str, str]) -> dict:
    licence = licences.pop(source, "not stated")
    return {
        "source": source,
        "samples": None if count == "streamed" else int(count.replace(",", "")),
        "weight": read_number(weight),
        "licence": None if licence == "not stated" else licence,
    }


def read_model(head: str) -> dict:
    """What stands above the first heading: the model and its parts."""
    lead, decoder = LEAD.search(head), DECODER.search(head)
    base = lead["base"] and lead["base"].strip("`").removeprefix("[").partition("]")[0]
    words = {"vision": r"\b(sees|image)", "audio": r"\b(hears|sound)"}
    parts = {
        name: int(size.replace(",", "")) for name, size in TABLE_LINE.findall(head) if re.fullmatch("[0-9,]+", size)
    }
    return {
        "architecture": lead["architecture"],
        "adapter_of": base or None,
        "is_local": bool(base) and lead["base"].startswith("`"),
        "modalities": [part for part, pattern in words.items() if re.search(pattern, lead[0])],
        "parts": {name: size for name, size in parts.items() if name != "all"},
        **dict(zip(("layers", "width", "heads", "vocabulary"), map(int, decoder.groups()), strict=True)),
    }


def read_results(text: str) -> tuple[list[dict], str]:
    """The results of a section's tables, and what else stands there."""
    results, rest, about, header = [], [], {}, []
    for line in text.splitlines():
        measured, dated = re.fullmatch("<!-- measured: (.+) -->", line), re.fullmatch(r".+, (\d{4}-\d\d-\d\d):", line)
        if measured:
            about = {"by": measured[1]}
        elif line == "<!-- end -->":
            about = {}
        elif about and dated:
            about["date"] = dated[1]
        elif line.startswith("| task |"):
            header = split_cells(line)
        elif header and line.startswith("|"):
            results += (
                []
                if line.startswith("| --- |")
                else [read_result(dict(zip(header, split_cells(line), strict=True))) | about]
            )
        elif line.strip() and line not in NOTHING_KNOWN:
            rest.append(line)
    return results, "\n".join(rest)


def split_cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def read_result(cells: dict[str, str]) -> dict:
    interval = cells.pop("95 % interval")
    ends = dict(zip(("low", "high"), map(read_number, interval.split(" to ")), strict=True)) if interval else {}
    words = {key: cells.pop(key) for key in ("task", "measure")}
    return words | {key: read_number(cell) for key, cell in cells.items() if cell} | ends


def read_number(cell: str) -> int | float | str:
    for kind in (int, float):
        try:
            if str(kind(cell)) == cell:
                return kind(cell)
        except ValueError:
            continue
    return cell  # as somebody gave it, such as 0.50


def split_sections(text: str) -> dict[str, str]:
    """The text of a card by its `## ` headings, each part with its heading; what stands before the first is under ""."""
    sections: dict[str, str] = {"": ""}
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        heading = part.partition("\n")[0].removeprefix("## ").strip() if part.startswith("## ") else ""
        sections[heading] = sections.get(heading, "") + part
    return sections


def name_of(text: str) -> str | None:
    """The name that the snippets of a card load the model by."""
    found = re.search(r'^name = "(.+)"$', text, flags=re.MULTILINE)
    return found[1] if found else None
