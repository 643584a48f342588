"""What the suites gave, on each release: one file for a release, one table over all of them.

    .cache/conformance/report-5.24.0.json   {test id: [suite, tester, outcome, seconds]}, with the day and the machine

Runs of a part of the suites add to the file; `make conformance` begins with an empty one and ends with the table in
tests/README.md, where the columns of releases that were not run here stay as they are.
"""

import argparse
import json
import os
import platform
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from packaging.version import Version

from tests.conformance.fetching import CACHE


PAGE = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- written by make conformance -->\n", "<!-- end -->\n"


class Result(NamedTuple):
    suite: str
    tester: str
    outcome: str  # "passed", "failed", "skipped", or "ours" for what tests/conformance/skips.py keeps from running
    seconds: float


class Report(NamedTuple):
    cells: dict[str, str]  # for each suite
    circumstances: str


def path(version: str = transformers.__version__) -> Path:
    return CACHE / f"report-{version}.json"


def add(results: dict[str, Result]) -> None:
    """Adds results to the installed release's file, over older ones of the same tests."""
    report = json.loads(path().read_text(encoding="utf-8")) if path().exists() else {"tests": {}}
    report["tests"].update(results)
    report["date"], report["torch"] = date.today().isoformat(), torch.__version__
    report["machine"] = f"{os.cpu_count()} {platform.machine()} CPU cores, Python {platform.python_version()}"
    written = path().with_suffix(".new")
    written.write_text(json.dumps(report, indent=0), encoding="utf-8")
    written.replace(path())


def measured() -> dict[str, Report]:
    """Of each release that was run here."""
    reports = {}
    for file in CACHE.glob("report-*.json"):
        report = json.loads(file.read_text(encoding="utf-8"))
        results = [Result._make(result) for result in report["tests"].values()]
        counts = defaultdict(Counter)
        for result in results:
            counts[result.suite][result.outcome] += 1
            counts["all"][result.outcome] += 1
        minutes = sum(result.seconds for result in results) / 60
        reports[file.stem.removeprefix("report-")] = Report(
            {suite: cell(count) for suite, count in counts.items()},
            f"{report['date']}, torch {report['torch']}, {report['machine']}, {minutes:.0f} minutes of tests",
        )
    return reports


def cell(count: Counter) -> str:
    ours = f" + {count['ours']} ours" if count["ours"] else ""
    return f"{count['passed']} / {count['failed']} / {count['skipped']}{ours}"


def matrix(reports: dict[str, Report] | None = None) -> list[str]:
    """Rows: suites; columns: releases, oldest first; cells: passed / failed / skipped."""
    reports = measured() if reports is None else reports
    reports = {release: reports[release] for release in sorted(reports, key=Version)}
    suites = [*sorted({suite for report in reports.values() for suite in report.cells} - {"all"}), "all"]
    lines = ["| suite | " + " | ".join(reports) + " |", "|---" * (len(reports) + 1) + "|"]
    lines += [
        f"| {suite} | " + " | ".join(report.cells.get(suite, "") for report in reports.values()) + " |"
        for suite in suites
    ]
    return [*lines, "", *(f"- {release}: {report.circumstances}" for release, report in reports.items())]


def read_matrix(lines: list[str]) -> dict[str, Report]:
    """What `matrix` wrote."""
    table = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    circumstances = dict(line.removeprefix("- ").split(": ", 1) for line in lines if line.startswith("- "))
    return {
        release: Report({row[0]: row[column] for row in table[1:] if row[column]}, circumstances[release])
        for column, release in enumerate(table[0][1:] if table else [], start=1)
    }


def by_tester() -> list[str]:
    """The installed release's counts for each suite and tester."""
    counts = defaultdict(Counter)
    for result in map(Result._make, json.loads(path().read_text(encoding="utf-8"))["tests"].values()):
        counts[result.suite, result.tester][result.outcome] += 1
    return [f"{suite:<28}{tester:<30}{cell(count)}" for (suite, tester), count in sorted(counts.items())]


def write_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    reports = read_matrix(written.splitlines()) | measured()
    PAGE.write_text(before + BEGIN + "\n".join(matrix(reports)) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints what transformers' suites gave on each release.")
    parser.add_argument("--forget", action="store_true", help="delete the installed release's results first")
    parser.add_argument("--write", action="store_true", help="write the table into tests/README.md, too")
    arguments = parser.parse_args()
    if arguments.forget:
        path().unlink(missing_ok=True)
    if arguments.write:
        write_page()
    print("\n".join(matrix()))
