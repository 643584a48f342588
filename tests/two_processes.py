"""What test_distribution.py runs with torchrun: `sharded`, `parallel` and `tied`, each against the whole model in the same process."""

import sys

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modeling_mmgpt import MMGPTCollator, MMGPTForConditionalGeneration
from tests.conftest import SIGLIP, byte_tokenizer, make_audio, make_image, make_model, make_processor, make_sample


def batch_of(rank: int | None, model) -> dict:
    """Two samples for each process, or those of both."""
    samples = [
        make_sample("?", "yes" * (1 + i), images=[make_image(i)], audios=[make_audio(i, 2000 + 700 * i)])
        for i in range(4)
    ]
    samples = samples if rank is None else samples[2 * rank : 2 * rank + 2]
    return MMGPTCollator(make_processor(model.config, byte_tokenizer()))(samples)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded() -> None:
    """fully_shard: losses, gradients and a step of the optimizer are those of the whole model with all four samples."""
    reference, model = make_model(vision=SIGLIP), make_model(vision=SIGLIP)
    for layer in (*model.model.language_model.layers, *model.model.vision_tower.encoder.layers):
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    rank = torch.distributed.get_rank()
    everything, share = batch_of(None, model), batch_of(rank, model)
    learnt = (everything["labels"][:, 1:] != -100).sum()
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-2) for one in (reference, model)]
    for _ in range(2):
        expected = reference(**everything).loss
        expected.backward()
        loss = model(**share, num_items_in_batch=learnt).loss
        (loss * 2).backward()  # gradients are averaged over the processes, and the losses are to be summed
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        torch.testing.assert_close(total, expected.detach())
        for (name, one), other in zip(reference.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(whole(other.grad), one.grad, atol=1e-5, rtol=1e-3, msg=name)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def parallel(folder: str) -> None:
    """tp_plan="auto": each process holds a part of every matrix of the decoder; logits and gradients are the whole model's."""
    reference = MMGPTForConditionalGeneration.from_pretrained(folder)
    model = MMGPTForConditionalGeneration.from_pretrained(folder, tp_plan="auto")
    query = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert isinstance(query, DTensor) and query.to_local().shape[0] * 2 == query.shape[0]
    batch = batch_of(None, model)
    expected, outputs = reference(**batch), model(**batch)
    torch.testing.assert_close(whole(outputs.logits), expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole(outputs.loss), expected.loss)
    expected.loss.backward()
    outputs.loss.backward()
    for layer, other in zip(reference.model.language_model.layers, model.model.language_model.layers, strict=True):
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"):
            gradient = whole(other.get_submodule(name).weight.grad)
            torch.testing.assert_close(gradient, layer.get_submodule(name).weight.grad, atol=1e-4, rtol=1e-3, msg=name)


def tied(*folders: str) -> None:
    """tp_plan="auto" of decoders whose head is tied: logits, loss and the gradient of the embeddings are the whole model's."""
    for folder in folders:
        reference = MMGPTForConditionalGeneration.from_pretrained(folder)
        model = MMGPTForConditionalGeneration.from_pretrained(folder, tp_plan="auto")
        head, embeddings = model.lm_head.weight, model.get_input_embeddings().weight
        assert isinstance(head, DTensor) and isinstance(embeddings, DTensor), folder
        batch = batch_of(None, model)
        expected, outputs = reference(**batch), model(**batch)
        torch.testing.assert_close(whole(outputs.logits), expected.logits, atol=1e-4, rtol=1e-4, msg=folder)
        expected.loss.backward()
        outputs.loss.backward()
        gradient = reference.lm_head.weight.grad
        torch.testing.assert_close(whole(embeddings.grad), gradient, atol=1e-4, rtol=1e-3, msg=folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo")
    {"sharded": sharded, "parallel": parallel, "tied": tied}[sys.argv[1]](*sys.argv[2:])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
