"""What the suites gave, on each release: one file for a release, one table over all of them.

    .cache/conformance/report-5.23.0.json   {test id: [suite, tester, outcome, seconds]}, with the day and the machine

Runs of a part of the suites add to the file; `make conformance` begins with an empty one. `python -m tests.conformance.reporting`
prints the table, which is the README's.
"""

import argparse
import json
import os
import platform
from collections import Counter, defaultdict
from datetime import date
from typing import NamedTuple

import torch
import transformers
from packaging.version import Version

from tests.conformance.fetching import CACHE


class Result(NamedTuple):
    suite: str
    tester: str
    outcome: str  # "passed", "failed", "skipped", or "ours" for what tests/conformance/skips.py keeps from running
    seconds: float


def path(version: str = transformers.__version__):
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


def matrix() -> list[str]:
    """Rows: suites; columns: releases, oldest first; cells: passed / failed / skipped."""
    files = sorted(CACHE.glob("report-*.json"), key=lambda file: Version(file.stem.removeprefix("report-")))
    reports = {file.stem.removeprefix("report-"): json.loads(file.read_text(encoding="utf-8")) for file in files}
    counts = defaultdict(Counter)
    for release, report in reports.items():
        for result in map(Result._make, report["tests"].values()):
            for suite in (result.suite, "all"):
                counts[suite, release][result.outcome] += 1
    suites = [*sorted({suite for suite, _ in counts} - {"all"}), "all"]
    lines = ["| suite | " + " | ".join(f"transformers {release}" for release in reports) + " |"]
    lines.append("|---" * (len(reports) + 1) + "|")
    for suite in suites:
        cells = [cell(counts[suite, release]) for release in reports]
        lines.append(f"| {suite} | " + " | ".join(cells) + " |")
    lines.append("")
    for release, report in reports.items():
        slow = sum(result[3] for result in report["tests"].values())
        lines.append(
            f"{release}: {report['date']}, torch {report['torch']}, {report['machine']}, {slow / 60:.0f} minutes of tests"
        )
    return lines


def cell(count: Counter) -> str:
    ours = f" + {count['ours']} ours" if count["ours"] else ""
    return f"{count['passed']} / {count['failed']} / {count['skipped']}{ours}" if count else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints what transformers' suites gave on each release.")
    parser.add_argument("--forget", action="store_true", help="delete the installed release's results first")
    if parser.parse_args().forget:
        path().unlink(missing_ok=True)
    print("\n".join(matrix()))
