"""What differs between the releases of transformers that the model works with (5.17 to 5.24).

From 5.24 on the cache of keys and values is called `cache`, before it was `past_key_values`: as an argument that `generate()` gives
a model, as a field of outputs, and as an argument of the functions that make masks.
"""

import warnings
from functools import wraps
from inspect import Parameter, signature

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast


CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def takes_cache(forward):
    """`forward`, whose argument `past_key_values` may also be called `cache`."""

    @wraps(forward)
    def renamed(*args, **kwargs):
        if "cache" in kwargs:
            kwargs["past_key_values"] = kwargs.pop("cache")
        elif CACHE == "cache" and kwargs.get("past_key_values") is not None and not torch.compiler.is_compiling():
            warnings.warn("`past_key_values` is deprecated: call it `cache`.", FutureWarning, stacklevel=2)
        return forward(*args, **kwargs)

    if CACHE == "cache":  # `generate()` refuses arguments that the signature does not name
        taken = signature(forward)
        cache = taken.parameters["past_key_values"].replace(name="cache", kind=Parameter.KEYWORD_ONLY)
        *named, rest = taken.parameters.values()
        renamed.__signature__ = taken.replace(parameters=[*named, cache, rest])
    return renamed


__all__ = ["CACHE", "takes_cache"]
