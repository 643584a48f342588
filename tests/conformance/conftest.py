"""Puts transformers' test suites on the path, and counts at the end what passed, suite by suite and tester by tester."""

import subprocess
import sys
from collections import Counter, defaultdict

import transformers

from .fetching import CACHE, fetch


collect_ignore = ["stand_ins"]  # modules for the suites to import, no tests

# What transformers' suites mark their tests with.
MARKS = """accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test generate is_expert_parallel_test is_fsdp_test
is_pipeline_test is_tensor_parallel_test is_training_test order slow torch_compile_test"""

try:
    sys.path.append(str(fetch()))
    MISSING = None
except (subprocess.SubprocessError, OSError) as error:
    MISSING = (
        f"no conformance tests: cannot get the source distribution of transformers {transformers.__version__}: {error}"
    )
    collect_ignore += ["test_multimodal.py", "test_processor.py", "test_text.py"]


def pytest_configure(config):
    for name in MARKS.split():
        config.addinivalue_line("markers", f"{name}: set by transformers' test suites")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.cls is None or not item.module.__name__.startswith("conformance."):
            continue
        # Each suite's name: the most basic class that has the test.
        suite = next(cls for cls in reversed(item.cls.mro()) if item.name in vars(cls))
        name = suite.__name__ if suite.__module__.startswith("transformers_tests") else "ConfigTester"
        item.user_properties += [("suite", name), ("tester", item.cls.__name__.removeprefix("Test"))]
        if any(item.get_closest_marker(mark) for mark in ("is_fsdp_test", "is_tensor_parallel_test")):
            item.add_marker("conformance")  # minutes of starting processes


def pytest_terminal_summary(terminalreporter):
    if MISSING is not None:
        terminalreporter.section("conformance")
        terminalreporter.write_line(MISSING)
    counts = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", []))
            if "suite" in properties and (report.when == "call" or outcome != "passed"):
                counts[properties["suite"], properties["tester"]][outcome] += 1
    if not counts:
        return
    lines = [
        f"| transformers {transformers.__version__}: suite | tester | passed | failed | skipped |",
        "|---|---|---|---|---|",
    ]
    for (suite, tester), count in sorted(counts.items()):
        lines.append(f"| {suite} | {tester} | {count['passed']} | {count['failed']} | {count['skipped']} |")
    total = sum(counts.values(), Counter())
    lines.append(f"| all | all | {total['passed']} | {total['failed']} | {total['skipped']} |")
    (CACHE / f"report-{transformers.__version__}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    terminalreporter.section("transformers' own suites")
    for line in lines:
        terminalreporter.write_line(line)
