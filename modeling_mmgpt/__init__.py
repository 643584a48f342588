"""MMGPT: a multimodal GPT that is native to Hugging Face. Importing it registers the classes with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .collating_mmgpt import MMGPTCollator
from .configuration_mmgpt import MMGPTConfig, MMGPTFrameConfig, MMGPTPatchConfig, MMGPTTextConfig
from .modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTModel, MMGPTPreTrainedModel
from .modeling_mmgpt_text import MMGPTForCausalLM, MMGPTTextModel
from .processing_mmgpt import MMGPTProcessor
from .tools.assemble import assemble
from .tools.checkpoints import push_checkpoint, save_checkpoint
from .tools.convert import convert_checkpoint, from_gpt, to_gpt
from .tools.packing import MMGPTBlockCollator, MMGPTPackingCollator, PackedDataset, count_tokens, pack_documents
from .towers_mmgpt import MMGPTFrameTower, MMGPTPatchTower


# Here and not in the files themselves, which are remote code elsewhere: what transformers finds registered it takes for the user's own
# code, and would run it for every later folder in place of that folder's.
for config_class in (MMGPTTextConfig, MMGPTPatchConfig, MMGPTFrameConfig, MMGPTConfig):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
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
    "MMGPTPackingCollator",
    "MMGPTPatchConfig",
    "MMGPTPatchTower",
    "MMGPTPreTrainedModel",
    "MMGPTProcessor",
    "MMGPTTextConfig",
    "MMGPTTextModel",
    "PackedDataset",
    "assemble",
    "convert_checkpoint",
    "count_tokens",
    "from_gpt",
    "pack_documents",
    "push_checkpoint",
    "save_checkpoint",
    "to_gpt",
]
