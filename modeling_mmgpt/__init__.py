"""MMGPT: a multimodal GPT that is native to Hugging Face. Importing it registers the classes with transformers' Auto classes."""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path


# Public names by the module they stand in, which is imported when one of them is first used.
_MODULES = {
    "collating_mmgpt": ("MMGPTCollator",),
    "configuration_mmgpt": ("MMGPTConfig", "MMGPTFrameConfig", "MMGPTPatchConfig", "MMGPTTextConfig"),
    "modeling_mmgpt": ("MMGPTForConditionalGeneration", "MMGPTModel", "MMGPTPreTrainedModel"),
    "modeling_mmgpt_text": ("MMGPTForCausalLM", "MMGPTTextModel"),
    "processing_mmgpt": ("MMGPTProcessor",),
    "towers_mmgpt": ("MMGPTFrameTower", "MMGPTPatchTower"),
    "tools.assemble": ("assemble",),
    "tools.checkpoints": ("push_checkpoint", "save_checkpoint"),
    "tools.convert": ("convert_checkpoint", "from_gpt", "to_gpt"),
    "tools.packing": ("MMGPTBlockCollator", "MMGPTPackingCollator", "PackedDataset", "count_tokens", "pack_documents"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@cache
def register() -> None:
    """Makes the classes known to transformers' Auto classes, once in a process.

    Here and not in the files themselves, which are remote code elsewhere: what transformers finds registered it takes for the user's own
    code, and would run it for every later folder in place of that folder's."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )

    from .configuration_mmgpt import MMGPTConfig, MMGPTFrameConfig, MMGPTPatchConfig, MMGPTTextConfig
    from .modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTModel
    from .modeling_mmgpt_text import MMGPTForCausalLM, MMGPTTextModel
    from .processing_mmgpt import MMGPTProcessor
    from .towers_mmgpt import MMGPTFrameTower, MMGPTPatchTower

    for config_class in (MMGPTTextConfig, MMGPTPatchConfig, MMGPTFrameConfig, MMGPTConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for model_class in (MMGPTTextModel, MMGPTPatchTower, MMGPTFrameTower, MMGPTModel):
        AutoModel.register(model_class.config_class, model_class, exist_ok=True)
    for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        auto_class.register(MMGPTTextConfig, MMGPTForCausalLM, exist_ok=True)
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(MMGPTConfig, MMGPTForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(MMGPTConfig, MMGPTProcessor, exist_ok=True)


# The mmgpt command registers when a verb asks for it: transformers' Auto classes need PyTorch, and `mmgpt --help` need not wait for that.
if not (sys.argv and Path(sys.argv[0]).name in ("mmgpt", "mmgpt.exe")):
    register()
