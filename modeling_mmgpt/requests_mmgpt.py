"""What is wrong with a request, in a form that a server hands on to whoever made it.

`transformers serve` is built on Starlette, which answers an unknown error with "Internal Server Error" and nothing else, and
an HTTPException with its status and its words. What this package refuses is therefore both, in processes that have Starlette:
a `ValueError` to Python, status 400 to a client.
"""

import sys
from contextlib import contextmanager

import torch


# The longest transcript that `transformers serve` gives: as it bounds the answers of a chat.
TRANSCRIPT_TOKENS = 1024


def bad_request(message: str) -> ValueError:
    """A `ValueError` with `message`; in a server also the answer to its client."""
    starlette = sys.modules.get("starlette.exceptions")
    if starlette is None:
        return ValueError(message)

    class BadRequest(starlette.HTTPException, ValueError):
        def __str__(self):
            return self.detail

    return BadRequest(status_code=400, detail=message)


@contextmanager
def requests_refused():
    """Errors of the block that its input is to blame for, as [`bad_request`]."""
    try:
        yield
    except (ValueError, OSError) as error:
        refused = bad_request(str(error))
        if type(refused) is ValueError:
            raise
        raise refused from error


def mend_transcriptions() -> None:
    """In the process of `transformers serve`, puts two things about its transcriptions right.

    The server opens a recording itself, before it asks the processor for anything (`TranscriptionHandler._prepare_audio_inputs`; in
    5.17 with librosa, in 5.24 with soundfile or torchcodec): one that cannot be opened becomes a bad request, too, and so does any that
    is sent to a deaf model. And it sets no limit for what the model writes, so that `generate()` would stop after its 20 tokens.
    """
    server = sys.modules.get("transformers.cli.serving.transcription")
    prepare = None if server is None else server.TranscriptionHandler._prepare_audio_inputs
    if prepare is None or prepare.__name__ == "prepare_recording":
        return

    def prepare_recording(file_bytes, processor, model):
        if not hasattr(processor, "feature_extractor"):
            raise bad_request("This model does not hear: it has no audio tower.")
        try:
            inputs = prepare(file_bytes, processor, model)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, OSError) as error:  # libsndfile's and torchcodec's are of the first two
            if isinstance(error, sys.modules["starlette.exceptions"].HTTPException):
                raise
            reason = getattr(error, "error_string", error)  # libsndfile's words without the address of a buffer
            raise bad_request(
                f"The recording is not a sound that can be read (wrong format or damaged file): {reason}"
            ) from error
        if model.config.model_type == "mmgpt" and model.generation_config.max_new_tokens is None:
            room = TRANSCRIPT_TOKENS
            if processor.context_length is not None:
                room = max(1, min(room, processor.context_length - inputs["input_ids"].shape[1]))
            inputs["max_new_tokens"] = room
        return inputs

    server.TranscriptionHandler._prepare_audio_inputs = staticmethod(prepare_recording)


def longest_input(text_config) -> int | None:
    """The most tokens that a decoder reads, its answer counted; `None`: nothing says so."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":  # stretched while the text grows
        return None
    return getattr(text_config, "max_position_embeddings", None)


def check_length(longest: int | None, length: int) -> None:
    """Refuses a prompt of `length` tokens that leaves a model of `longest` tokens no room for an answer."""
    if longest is not None and length >= longest:
        raise bad_request(
            f"The input has {length} tokens, but the model reads at most {longest} together with its answer: shorten the text, "
            "or give fewer, smaller or shorter media (of speech: a smaller chunk_length_s)."
        )


__all__ = ["bad_request", "check_length", "longest_input", "mend_transcriptions", "requests_refused"]
