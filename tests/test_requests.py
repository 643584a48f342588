"""What is wrong with a request, as an error and as an answer. Most of it is asked of a real server in tests/test_serve.py."""

import sys

import pytest

from modeling_mmgpt.requests_mmgpt import bad_request


def test_without_a_server_it_is_a_value_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "starlette.exceptions", raising=False)
    assert type(bad_request("wrong")) is ValueError


def test_with_a_server_it_is_also_an_answer():
    exceptions = pytest.importorskip("starlette.exceptions")
    error = bad_request("wrong")
    assert isinstance(error, ValueError) and isinstance(error, exceptions.HTTPException)
    assert (error.status_code, str(error)) == (400, "wrong")
