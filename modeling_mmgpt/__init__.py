"""MMGPT: a multimodal GPT that is native to Hugging Face. Importing it registers the classes with transformers' Auto classes."""

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .assembling_mmgpt import assemble
from .collating_mmgpt import MMGPTCollator
from .configuration_mmgpt import MMGPTConfig, MMGPTFrameConfig, MMGPTPatchConfig, MMGPTTextConfig
from .converting_mmgpt import convert_checkpoint, from_gpt, to_gpt
from .modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTModel, MMGPTPreTrainedModel
from .modeling_mmgpt_text import MMGPTForCausalLM, MMGPTTextModel
from .packing_mmgpt import MMGPTBlockCollator, PackedRows, count_tokens, pack_documents
from .processing_mmgpt import MMGPTProcessor
from .saving_mmgpt import push_checkpoint, save_checkpoint
from .towers_mmgpt import MMGPTFrameTower, MMGPTPatchTower


AutoModel.register(MMGPTTextConfig, MMGPTTextModel, exist_ok=True)
AutoModel.register(MMGPTPatchConfig, MMGPTPatchTower, exist_ok=True)
AutoModel.register(MMGPTFrameConfig, MMGPTFrameTower, exist_ok=True)
AutoModel.register(MMGPTConfig, MMGPTModel, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM):
    auto_class.register(MMGPTTextConfig, MMGPTForCausalLM, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(MMGPTConfig, MMGPTForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MMGPTConfig, MMGPTProcessor, exist_ok=True)

__all__ = [
    "MMGPTBlockCollator",
    "MMGPTCollator",
    "MMGPTConfig",
    "MMGPTForCausalLM",
    "MMGPTForConditionalGeneration",
    "MMGPTFrameConfig",
    "MMGPTFrameTower",
    "MMGPTModel",
    "MMGPTPatchConfig",
    "MMGPTPatchTower",
    "MMGPTPreTrainedModel",
    "MMGPTProcessor",
    "MMGPTTextConfig",
    "MMGPTTextModel",
    "PackedRows",
    "assemble",
    "convert_checkpoint",
    "count_tokens",
    "from_gpt",
    "pack_documents",
    "push_checkpoint",
    "save_checkpoint",
    "to_gpt",
]
