"""Packing: a packed batch is the unpacked one, in losses and gradients, with exact borders and nothing lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_mmgpt import (
    MMGPTBlockCollator,
    MMGPTCollator,
    MMGPTPackingCollator,
    PackedDataset,
    count_tokens,
    pack_documents,
)
from modeling_mmgpt.tools.packing import first_fit
from tests.conftest import SIGLIP, WHISPER, make_audio, make_image, make_model, make_processor, make_sample, open_gates


VARIANTS = {
    "encoder-free": {},
    "towers": {"vision": SIGLIP, "audio": WHISPER},
    "sliding window": {"text": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}},
    "learned positions": {"text": {"position_embedding_type": "learned"}},
    "bidirectional images": {"bidirectional_images": True},
    "cross-attention": {"fusion": "cross_attention", "audio": WHISPER},
    "cross-attention, last": {"fusion": "cross_attention", "cross_attention_scope": "last"},
    "another decoder": {"text": {"model_type": "llama", "rms_norm_eps": 1e-6}},
}


@pytest.fixture
def samples(samples):
    return [
        *samples,
        make_sample("And this?", "Yes.", images=[make_image(6)]),
        make_sample("So?", "No.", audios=[make_audio(7, 2500)]),
    ]


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class TestPackedIsUnpacked:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_losses_and_gradients(self, variant, attention, tokenizer, samples):
        model = open_gates(make_model(**VARIANTS[variant]))
        model.set_attn_implementation(attention)
        processor = make_processor(model.config, tokenizer)
        loss, gradients = loss_and_gradients(model, MMGPTCollator(processor)(samples))
        packed = MMGPTPackingCollator(processor, pack_to=150)(samples)
        assert 1 < len(packed["input_ids"]) < len(samples), "some samples share a sequence, and there is more than one"
        packed_loss, packed_gradients = loss_and_gradients(model, packed)
        torch.testing.assert_close(packed_loss, loss, atol=1e-6, rtol=1e-5)
        assert packed_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)

    @pytest.mark.conformance  # half a minute of compiling
    def test_flex_attention(self, tokenizer, samples):
        model = make_model()
        packed = MMGPTPackingCollator(make_processor(model.config, tokenizer), pack_to=150)(samples)
        expected = model(**packed).logits
        model.set_attn_implementation("flex_attention")
        with torch.no_grad():  # flex attention has no backward pass on the CPU
            torch.testing.assert_close(model(**packed).logits, expected, atol=1e-5, rtol=1e-4)

    def test_a_sample_does_not_see_its_neighbours(self, model, processor, samples):
        collator = MMGPTPackingCollator(processor, pack_to=400)
        one, other = collator(samples[:3]), collator([samples[4], *samples[1:3]])
        assert len(one["input_ids"]) == 1
        length = one["position_ids"][0].tolist().index(0, 1)
        rest = len(one["input_ids"][0]) - length
        torch.testing.assert_close(model(**one).logits[0, -rest:], model(**other).logits[0, -rest:])

    def test_borders_for_flash_attention(self, model, processor, samples, monkeypatch):
        """Attention that knows nothing but the borders flash attention is told computes the same, over all samples at once."""
        packed = MMGPTPackingCollator(processor, pack_to=150)(samples)
        assert packed["cu_seq_lens_q"].dtype == torch.int32
        expected = model(**packed).logits

        def attend(module, query, key, value, mask, scaling, cu_seq_lens_q, cu_seq_lens_k, max_length_q, **kwargs):
            flat = [tensor.transpose(0, 1).flatten(1, 2) for tensor in (query, key, value)]  # (heads, P * W, E)
            lengths = cu_seq_lens_q.diff().tolist()
            assert max(lengths) == max_length_q and torch.equal(cu_seq_lens_q, cu_seq_lens_k)
            pieces = [
                torch.nn.functional.scaled_dot_product_attention(
                    *piece, is_causal=True, scale=scaling, enable_gqa=True
                )
                for piece in zip(*(tensor.split(lengths, dim=1) for tensor in flat), strict=True)
            ]
            return torch.cat(pieces, dim=1).unflatten(1, (len(query), -1)).permute(1, 2, 0, 3), None

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", attend)
        torch.testing.assert_close(model(**packed).logits, expected, atol=1e-5, rtol=1e-4)


def test_exact_tensors(processor, tokenizer):
    samples = [make_sample("a", "b"), make_sample("cc", "dd"), make_sample("e", "f")]
    alone = [MMGPTCollator(processor)([one]) for one in samples]
    first, second, third = (len(one["input_ids"][0]) for one in alone)
    batch = MMGPTPackingCollator(processor, pack_to=first + second)(samples)
    padding = first + second - third
    ids = [one["input_ids"][0].tolist() for one in alone]
    labels = [one["labels"][0].tolist() for one in alone]
    assert batch["input_ids"].tolist() == [ids[0] + ids[1], ids[2] + [1] * padding]
    assert batch["labels"].tolist() == [labels[0] + labels[1], labels[2] + [-100] * padding]
    assert batch["position_ids"].tolist() == [
        [*range(first), *range(second)],
        [*range(third), *range(padding)],
    ]
    assert "attention_mask" not in batch and batch["use_cache"] is False


def test_media_keep_their_order(processor, samples):
    packed, plain = MMGPTPackingCollator(processor, pack_to=150)(samples), MMGPTCollator(processor)(samples)
    assert torch.equal(packed["pixel_values"], plain["pixel_values"])
    assert torch.equal(packed["input_features"], plain["input_features"])
    mask = plain["attention_mask"].bool()
    order = packed["input_ids"][packed["input_ids"] != 1]
    assert torch.equal(order, plain["input_ids"][mask])


def test_a_sample_that_fits_no_pack_is_named(processor):
    with pytest.raises(ValueError, match=r"noon has \d+ tokens, more than pack_to=20"):
        MMGPTPackingCollator(processor, pack_to=20)([{**make_sample("Long?", "Yes, " * 9), "id": "noon"}])
    with pytest.raises(ValueError, match="noon has 30 tokens, more than pack_to=20"):
        PackedDataset([{"id": "noon"}], [30], pack_to=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 90), st.integers(1, 9))
def test_first_fit_loses_nothing_and_keeps_the_budget(lengths, budget, window):
    packs = first_fit(lengths, budget, window)
    assert sorted(sample for pack in packs for sample in pack) == list(range(len(lengths)))
    assert all(sum(lengths[sample] for sample in pack) <= budget for pack in packs)
    assert all(pack == sorted(pack) for pack in packs)


class TestPackedDataset:
    def test_packs_are_full_and_always_the_same(self, processor):
        samples = [make_sample("?" * (1 + index % 17), "!" * (1 + index % 5)) for index in range(100)]
        lengths = count_tokens(MMGPTCollator(processor), samples)
        packs, again = PackedDataset(samples, lengths, pack_to=300), PackedDataset(samples, lengths, pack_to=300)
        assert packs.packs == again.packs != PackedDataset(samples, lengths, pack_to=300, seed=1).packs
        assert sum(lengths) / (300 * len(packs)) > 0.9
        assert sorted(index for pack in packs.packs for index in pack) == list(range(100))

    def test_every_pack_is_one_sequence_of_the_batch(self, processor, samples):
        lengths = count_tokens(MMGPTCollator(processor), samples)
        packs = PackedDataset(samples, lengths, pack_to=150)
        batch = MMGPTPackingCollator(processor, pack_to=150)([packs[index] for index in range(len(packs))])
        assert len(batch["input_ids"]) == len(packs) and batch["input_ids"].shape[1] <= 150

    def test_without_a_seed_the_order_is_kept(self, processor):
        samples = [make_sample("?", "!") for _ in range(6)]
        lengths = count_tokens(MMGPTCollator(processor), samples)
        assert PackedDataset(samples, lengths, pack_to=2 * lengths[0], seed=None).packs == [[0, 1], [2, 3], [4, 5]]


class TestDocuments:
    def test_blocks_are_full_and_texts_go_on(self):
        blocks = pack_documents([[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]], length=4)
        assert blocks == {"input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]], "seq_lengths": [[3, 1], [4]]}

    def test_exact_tensors(self):
        batch = MMGPTBlockCollator()([{"input_ids": [5, 6, 7, 8, 9], "seq_lengths": [3, 2]}])
        assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
        assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9]]
        assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5] and batch["max_length_q"] == 3

    def test_losses_are_those_of_the_texts_alone(self, model):
        documents = [torch.randint(7, 300, (length,)).tolist() for length in (11, 5, 14, 10)]
        blocks = pack_documents(documents, length=20)
        batch = MMGPTBlockCollator()(
            [dict(zip(blocks, values, strict=True)) for values in zip(*blocks.values(), strict=True)]
        )
        pieces = [documents[0], documents[1], documents[2][:4], documents[2][4:], documents[3]]
        summed = sum(
            model(input_ids=torch.tensor([piece]), labels=torch.tensor([piece])).loss * (len(piece) - 1)
            for piece in pieces
        )
        learnt = sum(len(piece) - 1 for piece in pieces)
        assert (batch["labels"] != -100).sum() == learnt
        torch.testing.assert_close(model(**batch).loss, summed / learnt)
