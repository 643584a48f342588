"""Cards of checkpoints that were saved before card_facts.json: their Markdown is read once into facts.

The headings and sentences are those of that time, whatever cards say today. What no code reads piece by piece stays Markdown."""

import json
import re

from huggingface_hub import ModelCard


TEXT_FACTS = {"Intended use": "intended_use", "Training": "data", "Limits": "limits"}
RESULT_FACTS = {"Results": "results", "Bias": "bias"}
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
    r"^An (MMGPT checkpoint|adapter \(PEFT\) of (?P<mark>[`\[])(?P<base>.+?)[`\]].*, an MMGPT model) "
    r"\(`(?P<architecture>\w+)`\)(?P<skills>.*)",
    re.MULTILINE,
)
DECODER = re.compile(
    r"^Decoder: (?P<layers>\d+) layers, width (?P<width>\d+), (?P<heads>\d+) heads, vocabulary (?P<vocabulary>\d+)\.$",
    re.MULTILINE,
)
TABLE_LINE = re.compile(r"^\| (.+?) \| (.+?) \|$", re.MULTILINE)
RESULTS_TABLE = re.compile(
    r"(?:<!-- measured: (?P<by>.+) -->\n.+, (?P<date>\d{4}-\d\d-\d\d):\n+)?(?P<lines>(?:^\|.*\n?)+)(?:<!-- end -->)?",
    re.MULTILINE,
)


def read_old_card(card: ModelCard) -> tuple[dict, str]:
    """The facts that the card tells, and what its owner added to it."""
    head, *sections = re.split(r"^(?=## )", card.text, flags=re.MULTILINE)
    name = re.search(r'^name = "(.+)"$', card.text, flags=re.MULTILINE)  # what its snippet loads the model by
    facts = {"name": name and name[1], "model": read_model(head), "results": []}
    base, added = card.data.base_model, []
    for section in sections:
        heading, _, body = map(str.strip, section.removeprefix("## ").partition("\n"))
        if heading in TEXT_FACTS:
            body = body.removeprefix(f"Trained from {base}.").strip()  # the fact base_model tells that
            facts |= {TEXT_FACTS[heading]: body} if body not in NOTHING_KNOWN else {}
        elif heading in RESULT_FACTS:
            facts[RESULT_FACTS[heading]] = read_results(body)
            rest = RESULTS_TABLE.sub("", body).strip()
            added += [f"## {heading}: notes\n\n{rest}"] if rest and rest not in NOTHING_KNOWN else []
        elif heading == "Licences":
            cells = dict(TABLE_LINE.findall(body))
            facts["licences"] = {of: licence for of, licence in cells.items() if of not in ("of", "---", "code")}
        elif heading != "Use":
            added.append(section.strip())
    for one in card.data.eval_results or []:
        for result in facts["results"]:
            if (result["task"], result["measure"]) == (one.dataset_name, one.metric_type):
                about = {"dataset": one.dataset_type, "split": one.dataset_split}
                result |= {key: value for key, value in about.items() if value not in (None, result["task"])}
    return {key: value for key, value in facts.items() if value}, "\n\n".join(added)


def read_model(head: str) -> dict:
    """What stands above the first heading: the model and its parts."""
    lead, decoder = LEAD.search(head), DECODER.search(head)
    sizes = {name: size.replace(",", "") for name, size in TABLE_LINE.findall(head)}
    return {
        "architecture": lead["architecture"],
        "adapter_of": lead["base"],
        "is_local": lead["mark"] == "`",
        "modalities": [part for part, word in (("vision", "sees"), ("audio", "hears")) if word in lead["skills"]],
        "parts": {name: int(size) for name, size in sizes.items() if size.isdecimal() and name != "all"},
        **{name: int(number) for name, number in decoder.groupdict().items()},
    }


def read_results(text: str) -> list[dict]:
    """The results of a section's tables."""
    results = []
    for table in RESULTS_TABLE.finditer(text):
        about = {name: table[name] for name in ("by", "date") if table[name]}
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table["lines"].splitlines()]
        header, _, *lines = [[cell.strip().replace("\\|", "|") for cell in cells] for cells in lines]
        for cells in lines:
            result = {key: cell for key, cell in zip(header, cells, strict=True) if cell}
            if interval := result.pop("95 % interval", None):
                result["low"], _, result["high"] = interval.partition(" to ")
            words = {key: result.pop(key) for key in ("task", "measure")}
            results.append(words | {key: read_number(cell) for key, cell in result.items()} | about)
    return results


def read_number(cell: str) -> int | float | str:
    try:
        number = json.loads(cell)
    except ValueError:
        return cell
    return number if str(number) == cell else cell  # as somebody gave it, such as 0.50
