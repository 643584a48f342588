"""What is wrong with a request, in a form that a server hands on to its client.

`transformers serve` is built on Starlette, which answers an HTTPException with its status and its words, and any other error with
"Internal Server Error" alone. What this package refuses is therefore both, in processes that have Starlette: a `ValueError` to
Python, status 400 to a client.
"""

import sys
from contextlib import contextmanager


def shown(source, most: int = 80) -> str:
    """`source` for a message, cut to a length that can be read."""
    text = str(source) if len(str(source)) <= most else f"{str(source)[: most - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be printed


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
    """Turns the block's errors about its input into [`bad_request`]."""
    try:
        yield
    except (ValueError, OSError) as error:
        refused = bad_request(str(error))
        if type(refused) is ValueError:
            raise
        raise refused from error


def longest_input(text_config) -> int | None:
    """The most tokens that a decoder reads, its answer counted; `None`: nothing says so."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":  # the rotation is stretched while the text grows
        return None
    return getattr(text_config, "max_position_embeddings", None)


def check_length(longest: int | None, length: int) -> None:
    """Refuses a prompt of `length` tokens that leaves a model of `longest` tokens no room for an answer."""
    if longest is not None and length >= longest:
        raise bad_request(
            f"The input has {length} tokens, but the model reads at most {longest} together with its answer: shorten the text, "
            "or give fewer, smaller or shorter media (of speech: a smaller chunk_length_s)."
        )
