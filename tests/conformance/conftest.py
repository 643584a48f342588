"""Puts transformers' test suites on the path, and counts at the end what passed, suite by suite."""

import subprocess
import sys

import transformers

from . import skips
from .fetching import fetch
from .reporting import Result, add, by_tester, matrix


collect_ignore = ["stand_ins"]  # modules for the suites to import, no tests

# What transformers' suites mark their tests with.
MARKS = """accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test generate is_expert_parallel_test is_fsdp_test
is_pipeline_test is_tensor_parallel_test is_training_test order slow torch_compile_test"""

# Our tests of what two modules test that the source distribution does not have, of loading, and of several processes.
OURS = {
    "test_generation.py": "generation (ours)",
    "test_export.py": "export (ours)",
    "test_loading.py": "loading (ours)",
    "test_quantising.py": "quantised loading (ours)",
    "test_packing.py": "packing (ours)",
    "test_distribution.py": "several processes (ours)",
}

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
        if item.path.name in OURS:
            item.user_properties += [("suite", OURS[item.path.name]), ("tester", item.path.name)]
        if item.cls is None or not item.module.__name__.startswith("conformance."):
            continue
        # Each suite's name: the most basic class that has the test.
        suite = next(cls for cls in reversed(item.cls.mro()) if item.name in vars(cls))
        name = suite.__name__ if suite.__module__.startswith("transformers_tests") else "ConfigTester"
        item.user_properties += [("suite", name), ("tester", item.cls.__name__.removeprefix("Test"))]
        if any(item.get_closest_marker(f"is_{kind}_test") for kind in ("fsdp", "tensor_parallel", "expert_parallel")):
            item.add_marker("conformance")  # minutes of starting processes


def pytest_terminal_summary(terminalreporter, config):
    if MISSING is not None:
        terminalreporter.section("conformance")
        terminalreporter.write_line(MISSING)
        return
    if config.option.markexpr == "not conformance":  # the quick selection of `make test`
        return
    results = {}
    for outcome in ("skipped", "passed", "failed", "error"):  # the last counts: a test may pass and skip a subtest
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", []))
            if "suite" in properties and (report.when == "call" or outcome != "passed"):
                ours = outcome == "skipped" and skips.SOURCE in str(report.longrepr)
                kind = "ours" if ours else {"error": "failed"}.get(outcome, outcome)
                results[report.nodeid] = Result(properties["suite"], properties["tester"], kind, report.duration)
    if results:
        add(results)
    terminalreporter.section("transformers' own suites: passed / failed / skipped")
    for line in [*by_tester(), "", *matrix()]:
        terminalreporter.write_line(line)
