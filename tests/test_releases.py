"""What differs between the releases of transformers: the cache goes by both of its names on all of them."""

import copy

import pytest
import torch

from modeling_mmgpt import MMGPTForCausalLM, MMGPTTextConfig
from modeling_mmgpt.releases_mmgpt import CACHE
from tests.conftest import TEXT, make_model


@torch.no_grad()
@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("base", [True, False])
def test_the_cache_is_taken_by_both_names(kind, base):
    model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval() if kind == "text" else make_model()
    model = model.base_model if base else model
    ids = torch.randint(10, 320, (2, 9))
    first = model(ids[:, :5], use_cache=True)
    assert first.get(CACHE).get_seq_length() == 5
    whole = model(ids)[0][:, 5:]
    for name in ("cache", "past_key_values"):
        rest = model(ids[:, 5:], **{name: copy.deepcopy(first.get(CACHE))})
        torch.testing.assert_close(rest[0], whole)
        assert rest.get(CACHE).get_seq_length() == 9
