"""Two processes, one of which has no image in its batch (or no media at all): they learn what one process learns from both batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_mmgpt import MMGPTCollator
from modeling_mmgpt.modeling_mmgpt import trains_distributed
from tests.conftest import (
    SIGLIP,
    WHISPER,
    make_audio,
    make_image,
    make_model,
    make_processor,
    make_sample,
    open_gates,
)


MODELS = {
    "encoder-free": {},
    "towers": {"vision": SIGLIP, "audio": WHISPER, "vision_connector": "pixel_shuffle"},
    "cross-attention": {"fusion": "cross_attention", "vision_connector": "resampler"},
}
# What each process trains on: the first has everything, the second only words.
BATCHES = [
    [
        make_sample("What?", "A cat.", images=[make_image(0), make_image(1)]),
        make_sample("Who?", "Nobody.", audios=[make_audio(1)]),
    ],
    [make_sample("Say hi.", "Hi!"), make_sample("Again.", "Hi again.")],
]


def tokens(batch) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def train_one_step(rank: int, name: str, way: str, folder: str) -> None:
    """What each of the two processes runs; the first one leaves the gradients."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    from tests.conftest import byte_tokenizer

    distributed.init_process_group("gloo")
    model = open_gates(make_model(**MODELS[name])).train()
    collator = MMGPTCollator(make_processor(model.config, byte_tokenizer()))
    batches = [collator(samples) for samples in BATCHES]
    total = sum(tokens(batch) for batch in batches)
    if way == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        base = model.model
        for part in (base.vision_tower, base.vision_connector, base.audio_tower, base.audio_connector):
            fully_shard(part, mesh=mesh)
        for layer in base.language_model.layers:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    # Gradients are averaged over the processes: twice the share of each is the sum.
    loss = 2 * wrapped(**batches[rank], num_items_in_batch=total).loss
    loss.backward()
    gradients = {}
    for key, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            gradients[key] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    if rank == 0:
        torch.save(gradients, f"{folder}/gradients.pt")
    distributed.barrier()
    os._exit(0)  # a finished process group sometimes aborts an orderly exit


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_learn_what_one_does(tmp_path, tokenizer, name, way):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    code = f"import os; from tests.test_idle_towers import train_one_step as run; run(int(os.environ['RANK']), {name!r}, {way!r}, {str(tmp_path)!r})"
    (tmp_path / "run.py").write_text(code)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, str(tmp_path / "run.py")], check=True, timeout=120, cwd=root, env=environment)
    together = torch.load(tmp_path / "gradients.pt")

    model = open_gates(make_model(**MODELS[name])).train()
    collator = MMGPTCollator(make_processor(model.config, tokenizer))
    batches = [collator(samples) for samples in BATCHES]
    total = sum(tokens(batch) for batch in batches)
    sum(model(**batch, num_items_in_batch=total).loss for batch in batches).backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                together[key], parameter.grad, atol=1e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
            )


def test_alone_nothing_is_added(model, collator, samples):
    """One process: with text alone no encoder runs, in training either."""
    calls = []
    for encoder in (model.model.vision_tower, model.model.audio_tower):
        encoder.register_forward_hook(lambda *_: calls.append(1))
    model.train()(**collator(samples[2:3])).loss.backward()
    assert not calls


def test_only_training_of_the_part_with_others_needs_it(monkeypatch, model):
    part = model.model.vision_tower
    assert not trains_distributed(part)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert trains_distributed(part)
    with torch.no_grad():
        assert not trains_distributed(part)
    assert not trains_distributed(part.requires_grad_(False))
