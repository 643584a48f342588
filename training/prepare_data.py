r"""Clean the training data of a recipe once, and write what is kept as parquet, with a report of what was left out and why.

    python -m training.prepare_data configuration/recipes/opennmt_ende.yaml --output prepared/ende

reads the samples of `data.train`, of a source with `limit` those that training would draw (weights are for training), and leaves out, by
the first rule that applies: broken samples, texts that are too short or too long, personal data, repetitive texts, another language, blank
images and silent audio, what a classifier finds, samples of `data.validation` and `data.test`, and exact and near duplicates. The
limits are the recipe's section `prepare`. A recipe trains on the result with `train: [{files: prepared/ende/*.parquet, format: samples}]`.
"""

import argparse
import dataclasses
import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm import tqdm

from modeling_mmgpt.saving_mmgpt import atomic_folder
from training.data.cleaning.classifiers import TextClassifier
from training.data.cleaning.contamination import EvaluationIndex
from training.data.cleaning.duplicates import DuplicateFinder, Fingerprint, take_fingerprint
from training.data.cleaning.filters import Rejection, find_rejection, mask_sample
from training.data.formats import FORMATS
from training.data.loading import PROBLEM, draw, load_source, make_samples_and_problems
from training.data.samples import whole_text
from training.recipe import PrepareArguments, Recipe, RecipeError, SourceArguments, load_recipe


EXAMPLES = 5  # of each reason in the report
BATCH = 100
SAMPLES_OF_A_FILE = 20_000  # at most: their media are in memory while a file is written
# What is found in a sample by itself: a rejection, or else its text and its fingerprint.
FINDINGS = Features(
    {
        "reason": Value("string"),
        "detail": Value("string"),
        "masked": List(Value("string")),  # the kind of each piece of personal data that a mask covers
        "text": Value("string"),
        "text_checksum": Value("string"),
        "minhash": List(Value("uint64")),
        "image_hashes": List(Value("string")),
        "image_checksums": List(Value("string")),
        "audio_checksums": List(Value("string")),
    }
)
NOTHING = {name: [] if isinstance(feature, List) else None for name, feature in FINDINGS.items()}


def prepare(recipe: Recipe, output: Path, processes: int | None = None) -> dict:
    """Writes the folder atomically, and returns the report."""
    if output.exists():
        raise RecipeError(f"{output} is there already: remove it, or choose another --output.")
    samples = concatenate_datasets([load_samples(source, recipe.data.root) for source in recipe.data.train])
    findings = check_samples(samples, recipe.prepare, processes, "data.train")
    index, compared_with = index_evaluation(recipe, processes)
    ids, tasks = list(samples["id"]), list(samples["task"])
    names = [f"{sample_id!r} of {task}" for sample_id, task in zip(ids, tasks, strict=True)]
    classified = classify(findings, recipe.prepare)
    rejections = reject(findings, classified, names, index, recipe.prepare)
    kept = [place for place, rejection in enumerate(rejections) if rejection is None]
    report = {
        "recipe": recipe.name,
        "settings": dataclasses.asdict(recipe.prepare),
        "compared_with": compared_with,
        **count(rejections, ids, tasks),
        "masked": count_masked(findings.select(kept)["masked"], [names[place] for place in kept]),
    }
    with atomic_folder(output) as folder:
        write_samples(samples.select(kept).remove_columns(PROBLEM), folder, recipe.prepare)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(as_text(report), encoding="utf-8")
    return report


def load_samples(source: SourceArguments, root: str | None) -> Dataset:
    """The samples of a source, or `limit` of them as `load_source` draws them, and all broken ones, with the column `problem`."""
    if source.format not in FORMATS:
        samples = load_source(source, root)
        return samples.add_column(PROBLEM, [None] * len(samples), feature=Value("string"))
    samples = make_samples_and_problems(source, Path(root or "."))
    places: dict[bool, list[int]] = {True: [], False: []}
    for place, problem in enumerate(samples[PROBLEM]):
        places[problem is None].append(place)
    usable, broken = (samples.select(places[is_usable]) for is_usable in (True, False))
    return samples if source.limit is None else concatenate_datasets([draw(usable, source.limit), broken])


def check_sample(sample: dict, arguments: PrepareArguments) -> dict:
    """What is found in the sample by itself."""
    if sample[PROBLEM] is not None:
        return {**NOTHING, "reason": "broken", "detail": sample[PROBLEM]}
    masked = []
    if arguments.personal_data == "mask":  # before the texts are compared, since this is what training reads
        sample, masked = mask_sample(sample, arguments.personal_data_kinds)
    rejection = find_rejection(sample, arguments)
    if rejection is not None:
        return {**NOTHING, **rejection._asdict()}
    return {**NOTHING, "masked": masked, "text": whole_text(sample), **take_fingerprint(sample)._asdict()}


def check_samples(samples: Dataset, arguments: PrepareArguments, processes: int | None, name: str) -> Dataset:
    return samples.map(
        check_sample,
        fn_kwargs={"arguments": arguments},
        features=FINDINGS,
        remove_columns=samples.column_names,
        num_proc=processes,
        load_from_cache_file=False,  # files of media may have changed, and so may the filters
        desc=f"checking {name}",
    )


def fingerprint_of(finding: dict) -> Fingerprint:
    return Fingerprint(**{name: finding[name] for name in Fingerprint._fields})


def index_evaluation(recipe: Recipe, processes: int | None) -> tuple[EvaluationIndex, dict[str, int]]:
    """The samples of `data.validation` and `data.test`, and how many there are in each source."""
    arguments = recipe.prepare
    index = EvaluationIndex(arguments.contamination_words, arguments.image_distance)
    no_filters = PrepareArguments(min_characters=0, max_repetition=1.0)  # an evaluation sample of any quality counts
    counts = {}
    for source in (*recipe.data.validation, *recipe.data.test):
        name = f"{source.task}, split {source.split}"
        samples = load_samples(source, recipe.data.root)
        findings = check_samples(samples, no_filters, processes, name)
        for sample_id, found in zip(samples["id"], findings, strict=True):
            if found["reason"] is None:
                index.add(f"{sample_id!r} ({name})", found["text"], fingerprint_of(found))
        counts[name] = len(samples)
    return index, counts


def classify(findings: Dataset, arguments: PrepareArguments) -> dict[int, Rejection]:
    """What the classifiers leave out of the samples that passed the filters, by their place."""
    rejections: dict[int, Rejection] = {}
    passed = [place for place, reason in enumerate(findings["reason"]) if reason is None]
    for one in arguments.classifiers:
        waiting = [place for place in passed if place not in rejections]
        scores = TextClassifier(one.model, one.label).score(findings.select(waiting)["text"])
        for place, score in zip(waiting, scores, strict=True):
            if score >= one.threshold:
                detail = f"{score:.2f} by {one.model}, at least {one.threshold:g}"
                rejections[place] = Rejection(f"classified as {one.label}", detail)
    return rejections


def reject(
    findings: Dataset,
    classified: dict[int, Rejection],
    names: list[str],
    index: EvaluationIndex,
    arguments: PrepareArguments,
) -> list[Rejection | None]:
    """Why each sample is left out: by itself, by the evaluation sets, or by an earlier sample; None of those that are kept."""
    finder = DuplicateFinder(arguments.similarity, arguments.image_distance)
    rejections = []
    for place, (name, found) in enumerate(zip(names, tqdm(findings, desc="comparing"), strict=True)):
        if found["reason"] is not None:
            rejections.append(Rejection(found["reason"], found["detail"]))
            continue
        if place in classified:
            rejections.append(classified[place])
            continue
        fingerprint = fingerprint_of(found)
        common = index.find(found["text"], fingerprint)
        rejection = Rejection("contaminated", f"it has {common}") if common else finder.find(fingerprint)
        rejections.append(rejection)
        if rejection is None:
            finder.add(name, fingerprint)
    return rejections


def count(rejections: list[Rejection | None], ids: list[str], tasks: list[str]) -> dict:
    sources: dict[str, Counter] = defaultdict(Counter)
    examples: dict[str, list[dict]] = defaultdict(list)
    for rejection, sample_id, task in zip(rejections, ids, tasks, strict=True):
        sources[task]["read"] += 1
        sources[task]["kept" if rejection is None else rejection.reason] += 1
        if rejection is not None and len(examples[rejection.reason]) < EXAMPLES:
            examples[rejection.reason].append({"source": task, "id": sample_id, "detail": rejection.detail})
    dropped = Counter(rejection.reason for rejection in rejections if rejection is not None)
    return {
        "read": len(rejections),
        "kept": len(rejections) - dropped.total(),
        "sources": {task: dict(counts) for task, counts in sources.items()},
        "dropped": {reason: {"count": many, "examples": examples[reason]} for reason, many in dropped.most_common()},
    }


def count_masked(masked: Sequence[list[str]], names: list[str]) -> dict[str, dict]:
    """Of each kind of personal data how many were masked, in how many of the samples that are kept, and in which ones."""
    counts: dict[str, dict] = {}
    for name, kinds in zip(names, masked, strict=True):
        for kind, many in Counter(kinds).items():
            of_kind = counts.setdefault(kind, {"count": 0, "samples": 0, "examples": []})
            of_kind["count"] += many
            of_kind["samples"] += 1
            of_kind["examples"] += [name] if len(of_kind["examples"]) < EXAMPLES else []
    return counts


def write_samples(samples: Dataset, folder: Path, arguments: PrepareArguments) -> None:
    files = max(1, -(-len(samples) // SAMPLES_OF_A_FILE))
    for number in range(files):
        shard = samples.shard(files, number, contiguous=True)
        if arguments.personal_data == "mask":
            shard = shard.map(
                lambda sample: mask_sample(sample, arguments.personal_data_kinds)[0],
                load_from_cache_file=False,
                desc="masking",
            )
        shard = shard.map(with_bytes, load_from_cache_file=False, desc="reading media files")
        shard.to_parquet(folder / f"train-{number:05}-of-{files:05}.parquet", batch_size=BATCH)


def with_bytes(sample: dict) -> dict:
    """The sample with the bytes of those media that are files."""
    for kind in ("images", "audios", "videos"):
        for medium in sample[kind]:
            if medium["bytes"] is None and medium["path"] is not None and os.path.isfile(medium["path"]):
                medium["bytes"] = Path(medium["path"]).read_bytes()
    return {kind: sample[kind] for kind in ("images", "audios", "videos")}


def as_text(report: dict) -> str:
    """The report as Markdown."""
    reasons = list(report["dropped"])
    columns = ["source", "read", "kept", *reasons]
    lines = [f"# {report['recipe']}: {report['kept']:,} of {report['read']:,} samples kept", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for task, counts in report["sources"].items():
        lines.append(f"| {task} | {' | '.join(f'{counts.get(name, 0):,}' for name in columns[1:])} |")
    for reason in reasons:
        lines += ["", f"## {reason}: {report['dropped'][reason]['count']:,}", ""]
        for example in report["dropped"][reason]["examples"]:
            detail = " ".join(example["detail"].split())
            lines.append(f"- {example['id']} of {example['source']}: {detail}")
    for kind, masked in report["masked"].items():
        title = f"## masked: {masked['count']:,} {kind} in {masked['samples']:,} samples"
        lines += ["", title, "", *(f"- {name}" for name in masked["examples"])]
    compared = ", ".join(f"{name} ({many:,})" for name, many in report["compared_with"].items()) or "no evaluation set"
    settings = ", ".join(f"{key}: {value}" for key, value in report["settings"].items())
    return "\n".join([*lines, "", f"Compared with {compared}. Settings: {settings}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example prepare.similarity=0.7")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--processes", type=int, help="number of processes that check samples")
    arguments = parser.parse_intermixed_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        report = prepare(recipe, arguments.output, arguments.processes)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(
        f"{report['kept']:,} of {report['read']:,} samples are in {arguments.output}; report.md says what was left out."
    )
    for reason, dropped in report["dropped"].items():
        print(f"{dropped['count']:>9,} {reason}")
    for kind, masked in report["masked"].items():
        print(f"{masked['count']:>9,} {kind} masked in {masked['samples']:,} samples")


if __name__ == "__main__":
    main()
