"""What is wrong with a request, as an error and as an answer. Most of it is asked of a real server in tests/test_serve.py."""

import sys

import pytest

from modeling_mmgpt.requests_mmgpt import bad_request, mend_transcriptions
from tests.conftest import make_model, make_processor


def test_without_a_server_it_is_a_value_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "starlette.exceptions", raising=False)
    assert type(bad_request("wrong")) is ValueError


def test_with_a_server_it_is_also_an_answer():
    exceptions = pytest.importorskip("starlette.exceptions")
    error = bad_request("wrong")
    assert isinstance(error, ValueError) and isinstance(error, exceptions.HTTPException)
    assert (error.status_code, str(error)) == (400, "wrong")


class TestTranscriptions:
    @pytest.fixture
    def handler(self, monkeypatch):
        """The real handler, as it was before a processor was made in its process."""
        for name in ("fastapi", "openai"):
            pytest.importorskip(name, reason="the server needs the extra: pip install mmgpt[serve]")
        from transformers.cli.serving.transcription import TranscriptionHandler

        monkeypatch.setattr(TranscriptionHandler, "_prepare_audio_inputs", TranscriptionHandler._prepare_audio_inputs)
        return TranscriptionHandler

    def test_a_deaf_model_says_so(self, handler, tokenizer):
        model = make_model(audio=None)
        processor = make_processor(model.config, tokenizer)
        with pytest.raises(ValueError, match="does not hear"):
            handler._prepare_audio_inputs(b"a recording", processor, model)

    def test_it_is_mended_once(self, handler):
        mend_transcriptions()
        once = handler._prepare_audio_inputs
        mend_transcriptions()
        assert handler._prepare_audio_inputs is once
