"""The table of transformers' suites in tests/README.md: a run replaces its own release's column, and no other."""

import re

from tests.conformance import reporting
from tests.conformance.reporting import Report, Result, matrix, read_matrix, write_page


OLD = {"5.17.0": Report({"ModelTesterMixin": "7 / 0 / 1", "all": "7 / 0 / 1"}, "2026-01-01, torch 2.11.0")}


def test_the_table_is_read_back_as_it_was_written():
    reports = {**OLD, "5.23.0": Report({"FSDPTesterMixin": "2 / 0 / 3 + 4 ours", "all": "2 / 0 / 3 + 4 ours"}, "x: y")}
    lines = matrix(reports)
    assert lines[2] == "| FSDPTesterMixin |  | 2 / 0 / 3 + 4 ours |"
    assert read_matrix(lines) == reports and read_matrix([]) == {}


def test_a_run_replaces_its_own_column(monkeypatch, tmp_path):
    monkeypatch.setattr(reporting, "CACHE", tmp_path)
    monkeypatch.setattr(reporting, "PAGE", tmp_path / "README.md")
    table = "\n".join(matrix(OLD))
    reporting.PAGE.write_text(f"before\n{reporting.BEGIN}{table}\n{reporting.END}after\n")
    reporting.add({"a": Result("Suite", "Text", "passed", 1.0), "b": Result("Suite", "Text", "failed", 1.0)})
    reporting.add({"b": Result("Suite", "Text", "ours", 1.0)})  # run again, and laid over
    write_page()
    once = reporting.PAGE.read_text()
    write_page()
    assert reporting.PAGE.read_text() == once
    assert once.startswith(f"before\n{reporting.BEGIN}| suite | ") and once.endswith(f"{reporting.END}after\n")
    reports = read_matrix(once.splitlines())
    (release,) = set(reports) - {"5.17.0"} or {"5.17.0"}
    assert reports[release].cells == {"Suite": "1 / 0 / 0 + 1 ours", "all": "1 / 0 / 0 + 1 ours"}
    assert release == "5.17.0" or reports["5.17.0"] == OLD["5.17.0"]


def test_the_page_has_a_table_to_write_into():
    """Read and written again it is the same, so that a run changes its own column alone."""
    before, table, after = re.split(f"{reporting.BEGIN}|{reporting.END}", reporting.PAGE.read_text(encoding="utf-8"))
    assert "\n".join(matrix(read_matrix(table.splitlines()))) + "\n" == table
    assert "make conformance" in before and "skips.py" in after
