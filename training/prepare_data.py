r"""Clean the training data of a recipe once, and write what is left as parquet, with a report of what was left out and why.

    python -m training.prepare_data configuration/recipes/opennmt_ende.yaml --output prepared/ende data.root=../shared/data

reads every sample of `data.train` (its weights are for training) and leaves out, by the first rule that speaks against it: broken
samples, texts that are too short, too long or repeat themselves, another language, blank images and silent sounds, samples of
`data.validation` and `data.test`, and samples that are there already, equal or nearly so. The limits are the recipe's section
`prepare`. A recipe trains on the result with `train: [{files: prepared/ende/*.parquet, format: rows}]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm import tqdm

from modeling_mmgpt.saving_mmgpt import atomic_folder
from training.data.cleaning.contamination import EvaluationIndex
from training.data.cleaning.duplicates import DuplicateFinder, Fingerprint, take_fingerprint
from training.data.cleaning.filters import Objection, find_objection, whole_text
from training.data.formats import FORMATS
from training.data.loading import PROBLEM, make_samples_and_problems, task_of
from training.data.mixture import check_source, load_source
from training.recipe import PrepareArguments, Recipe, RecipeError, SourceArguments, load_recipe


EXAMPLES = 5  # of each reason in the report
BATCH = 100
ROWS_OF_A_FILE = 20_000  # at most: their media are in memory while a file is written
JUDGED = Features(
    {
        "reason": Value("string"),
        "detail": Value("string"),
        "said": Value("string"),
        "text": Value("string"),
        "minhash": List(Value("uint64")),
        "images": List(Value("string")),
        "image_data": List(Value("string")),
        "sounds": List(Value("string")),
    }
)


class Judge:
    """Maps rows to what is found in each alone, for `Dataset.map`: an objection, or the fingerprint it is compared by."""

    def __init__(self, arguments: PrepareArguments):
        self.arguments = arguments

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        judged = [self.judge(row) for row in rows]
        return {name: [one[name] for one in judged] for name in JUDGED}

    def judge(self, row: dict) -> dict:
        if row[PROBLEM] is not None:
            return {**NOTHING, "reason": "broken", "detail": row[PROBLEM]}
        objection = find_objection(row, self.arguments)
        if objection is not None:
            return {**NOTHING, **objection._asdict()}
        return {**NOTHING, "said": whole_text(row), **take_fingerprint(row)._asdict()}


NOTHING = {name: [] if isinstance(feature, List) else None for name, feature in JUDGED.items()}


def load_samples(source: SourceArguments, root: str | None) -> Dataset:
    """All rows of a source, broken ones too, with the column `problem`."""
    check_source(source)
    if source.format in FORMATS:
        return make_samples_and_problems(source, Path(root or "."))
    rows = load_source(dataclasses.replace(source, limit=None), root)
    return rows.add_column(PROBLEM, [None] * len(rows), feature=Value("string"))


def judge_rows(rows: Dataset, arguments: PrepareArguments, processes: int | None, name: str) -> Dataset:
    return rows.map(
        Judge(arguments),
        batched=True,
        batch_size=BATCH,
        features=JUDGED,
        remove_columns=rows.column_names,
        num_proc=processes,
        desc=f"judging {name}",
    )


def fingerprint_of(judged: dict) -> Fingerprint:
    return Fingerprint(**{name: judged[name] for name in Fingerprint._fields})


def index_evaluation(recipe: Recipe, processes: int | None) -> tuple[EvaluationIndex, dict[str, int]]:
    """The samples of `data.validation` and `data.test`, and how many there are in each source."""
    arguments = recipe.prepare
    index = EvaluationIndex(arguments.contamination_words, arguments.image_distance)
    everything = PrepareArguments(min_characters=0, max_repetition=1.0)  # nothing speaks against an evaluation sample
    counts = {}
    for source in (*recipe.data.validation, *recipe.data.test):
        name = f"{task_of(source)}, split {source.split}"
        rows = load_samples(source, recipe.data.root)
        judged = judge_rows(rows, everything, processes, name)
        for row_id, one in zip(rows["id"], judged, strict=True):
            if one["reason"] is None:
                index.add(f"{row_id!r} ({name})", one["said"], fingerprint_of(one))
        counts[name] = len(rows)
    return index, counts


def choose(
    judged: Dataset, names: list[str], index: EvaluationIndex, arguments: PrepareArguments
) -> list[Objection | None]:
    """For each row what speaks against it, now beside the evaluation sets and all rows before it."""
    finder = DuplicateFinder(arguments.similarity, arguments.image_distance)
    verdicts = []
    for name, one in zip(names, tqdm(judged, desc="comparing"), strict=True):
        if one["reason"] is not None:
            verdicts.append(Objection(one["reason"], one["detail"]))
            continue
        print_ = fingerprint_of(one)
        verdict = compare(one["said"], print_, finder, index)
        if verdict is None:
            finder.add(name, print_)
        verdicts.append(verdict)
    return verdicts


def compare(text: str, print_: Fingerprint, finder: DuplicateFinder, index: EvaluationIndex) -> Objection | None:
    common = index.find(text, print_)
    if common is not None:
        return Objection("contaminated", f"it has {common}")
    same = finder.same_as(print_)
    if same is not None:
        return Objection("duplicate", f"the same as {same}")
    near = finder.nearly_same_as(print_)
    if near is not None:
        return Objection("near duplicate", f"similarity {near[1]:.2f} with {near[0]}")
    return None


def prepare(recipe: Recipe, output: Path, processes: int | None = None) -> dict:
    """Writes the folder, whole or not at all, and returns the report."""
    if output.exists():
        raise RecipeError(f"{output} is there already: remove it, or choose another --output.")
    sources = [load_samples(source, recipe.data.root) for source in recipe.data.train]
    rows = concatenate_datasets(sources)
    judged = judge_rows(rows, recipe.prepare, processes, "data.train")
    index, evaluation = index_evaluation(recipe, processes)
    ids, tasks = list(rows["id"]), list(rows["task"])
    names = [f"{row_id!r} of {task}" for row_id, task in zip(ids, tasks, strict=True)]
    verdicts = choose(judged, names, index, recipe.prepare)
    kept = rows.select([place for place, verdict in enumerate(verdicts) if verdict is None]).remove_columns(PROBLEM)
    report = {
        "recipe": recipe.name,
        "settings": dataclasses.asdict(recipe.prepare),
        "compared_with": evaluation,
        **count(verdicts, ids, tasks),
    }
    with atomic_folder(output) as folder:
        write_rows(kept, folder)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(as_text(report), encoding="utf-8")
    return report


def count(verdicts: list[Objection | None], ids: list[str], tasks: list[str]) -> dict:
    sources: dict[str, Counter] = defaultdict(Counter)
    examples: dict[str, list[dict]] = defaultdict(list)
    for verdict, row_id, task in zip(verdicts, ids, tasks, strict=True):
        sources[task]["read"] += 1
        sources[task]["kept" if verdict is None else verdict.reason] += 1
        if verdict is not None and len(examples[verdict.reason]) < EXAMPLES:
            examples[verdict.reason].append({"source": task, "id": row_id, "detail": verdict.detail})
    dropped = Counter(verdict.reason for verdict in verdicts if verdict is not None)
    return {
        "read": len(verdicts),
        "kept": len(verdicts) - dropped.total(),
        "sources": {task: dict(counts) for task, counts in sources.items()},
        "dropped": {reason: {"count": many, "examples": examples[reason]} for reason, many in dropped.most_common()},
    }


def write_rows(rows: Dataset, folder: Path) -> None:
    files = max(1, -(-len(rows) // ROWS_OF_A_FILE))
    for number in range(files):
        shard = rows.shard(files, number, contiguous=True).map(with_bytes, desc="media that lie in files of their own")
        shard.to_parquet(folder / f"train-{number:05}-of-{files:05}.parquet", batch_size=BATCH)


def with_bytes(row: dict) -> dict:
    """The row with its media inside, wherever they lay."""
    for kind in ("images", "audios", "videos"):
        for medium in row[kind]:
            if medium["bytes"] is None and medium["path"] is not None and os.path.isfile(medium["path"]):
                medium["bytes"] = Path(medium["path"]).read_bytes()
    return {kind: row[kind] for kind in ("images", "audios", "videos")}


def as_text(report: dict) -> str:
    """The report as Markdown."""
    reasons = list(report["dropped"])
    columns = ["source", "read", "kept", *reasons]
    lines = [f"# What is left of {report['recipe']}: {report['kept']:,} of {report['read']:,} samples", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for task, counts in report["sources"].items():
        lines.append(f"| {task} | {' | '.join(f'{counts.get(name, 0):,}' for name in columns[1:])} |")
    for reason in reasons:
        lines += ["", f"## {reason}: {report['dropped'][reason]['count']:,}", ""]
        for example in report["dropped"][reason]["examples"]:
            detail = " ".join(example["detail"].split())
            lines.append(f"- {example['id']} of {example['source']}: {detail}")
    compared = ", ".join(f"{name} ({many:,})" for name, many in report["compared_with"].items()) or "no evaluation set"
    settings = ", ".join(f"{key}: {value}" for key, value in report["settings"].items())
    return "\n".join([*lines, "", f"Compared with {compared}. Settings: {settings}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example prepare.similarity=0.7")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--processes", type=int, help="that judge samples at the same time")
    arguments = parser.parse_intermixed_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        report = prepare(recipe, arguments.output, arguments.processes)
    except (RecipeError, FileNotFoundError) as error:
        parser.error(str(error))
    print(
        f"{report['kept']:,} of {report['read']:,} samples are in {arguments.output}; report.md says what was left out."
    )
    for reason, dropped in report["dropped"].items():
        print(f"{dropped['count']:>9,} {reason}")


if __name__ == "__main__":
    main()
