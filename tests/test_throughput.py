"""Speed in the log: the work is what PyTorch counts, the shares are exact, and a peak is never invented."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_mmgpt import MMGPTCollator, MMGPTPackingCollator, MMGPTProcessor
from tests.conftest import SIGLIP, make_model, make_processor
from tests.toy_training import TOY_DATA, toy_samples, toy_tree
from training import train
from training.data.formats import OWN_DATA
from training.recipe import build_recipe
from training.throughput import Throughput, flops_per_item, peak_flops


def counted(model, batch) -> dict:
    """What the hooks counted of one training step, and the FLOPs that PyTorch saw."""
    callback = Throughput()
    args = type("Arguments", (), {"use_cpu": True, "bf16": False, "fp16": False})
    model.train()
    callback.on_train_begin(args, None, None, model=model)
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    callback.on_train_end(args, None, None)
    return {**callback.counts, "flops": counter.get_total_flops()}


class TestWork:
    @pytest.mark.parametrize(
        "text",
        [{}, {"tie_word_embeddings": False, "mlp_type": "plain"}, {"position_embedding_type": "learned"}],
        ids=["tied", "untied", "learned positions"],
    )
    def test_a_decoders_flops_are_those_pytorch_counts(self, text):
        model = make_model(vision=None, audio=None, text=text)
        model.set_attn_implementation("eager")
        ids = torch.randint(7, 300, (3, 20))
        labels = ids.where(torch.arange(20) >= 15, -100)
        rates = flops_per_item(model, model.config)
        for skip_logits, learnt in ((False, 60), (True, 15)):
            seen = counted(model, {"input_ids": ids, "labels": labels, "skip_logits": skip_logits})
            assert seen["tokens"] == 60 and seen["pairs"] == 2 * 3 * 20 * 21 // 2 and seen["lm_head"] == learnt
            # Written out, attention computes the pairs above the diagonal too.
            work = 60 * rates["tokens"] + learnt * rates["lm_head"] + 2 * 3 * 20 * 20 * rates["pairs"]
            assert seen["flops"] == pytest.approx(work, rel=0.01)

    def test_a_tower_and_frozen_parts(self, samples, tokenizer):
        model = make_model(audio=None, vision=SIGLIP)
        model.set_attn_implementation("eager")
        batch = MMGPTCollator(make_processor(model.config, tokenizer))([samples[0], samples[0]])
        for frozen in (model.model.vision_tower, model.model.language_model):
            frozen.requires_grad_(False)
        seen = counted(model, batch)
        rates = flops_per_item(model, model.config)
        assert seen["vision_tower"] == 2 * 16
        length = batch["input_ids"].shape[1]
        work = 2 * 2 * length**2 * rates["pairs"]
        work += sum(
            float(seen[name]) * rates[name] for name in ("tokens", "lm_head", "vision_connector", "vision_tower")
        )
        assert seen["flops"] == pytest.approx(work, rel=0.03)

    def test_packed_counts_what_unpacked_counts(self, samples, collator, processor, model):
        plain = counted(model, collator(samples))
        lengths = collator(samples)["attention_mask"].sum(-1)
        packed = counted(model, MMGPTPackingCollator(processor, pack_to=int(lengths.sum()))(samples))
        for name in ("tokens", "media", "pairs", "lm_head", "vision_tower", "vision_connector", "audio_connector"):
            assert packed[name] == plain[name]
        assert plain["media"] == 16 + 10 + 32 + 9 and plain["vision_connector"] == 3 * 16

    def test_a_window_bounds_the_pairs(self):
        text = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
        ids = torch.randint(7, 300, (1, 10))
        seen = counted(make_model(vision=None, audio=None, text=text), {"input_ids": ids, "labels": ids})
        assert seen["pairs"] == (1 + 2 + 3 + 7 * 4) + 10 * 11 // 2


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_log_has_speed_and_no_invented_peak(monkeypatch, tmp_path):
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    tree = toy_tree(tmp_path / "run")
    tree["training"] |= {"eval_strategy": "steps", "eval_steps": 1}
    log = [entry for entry in train.train(build_recipe(tree, "toy", "toy.yaml"))["log"] if "loss" in entry]
    assert len(log) == 3
    for entry in log:
        assert entry["tokens_per_second"] > 0 and entry["tflops_per_device"] >= 0 and 0 < entry["media_share"] < 1
        assert "mfu" not in entry


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_tracker_gets_the_losses_and_the_speed(monkeypatch, tmp_path):
    """`report_to` is Trainer's own: what it hands to TensorBoard is read back from TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    tree = toy_tree(tmp_path / "run")
    tree["training"] |= {"report_to": "tensorboard"}
    log = [entry for entry in train.train(build_recipe(tree, "toy", "toy.yaml"))["log"] if "loss" in entry]
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for tag in ("loss", "tokens_per_second", "media_share"):
        told = [(event.step, event.value) for event in events.Scalars(f"train/{tag}")]
        assert told == [(entry["step"], pytest.approx(entry[tag], rel=1e-5)) for entry in log]


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_run_knows_its_tokens(monkeypatch, tmp_path):
    """Those of all its steps, logged or not, and none of evaluation's."""
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    tree = toy_tree(tmp_path / "run")
    tree["training"] |= {"max_steps": 4, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    report = train.train(build_recipe(tree, "toy", "toy.yaml"))
    collator = MMGPTCollator(MMGPTProcessor.from_pretrained(tmp_path / "run" / "model"))
    counts = [int(collator([sample])["attention_mask"].sum()) for sample in toy_samples(None, "train")]
    assert report["tokens"] == sum(counts), "4 steps are an epoch"


def test_peaks_are_those_of_known_devices(monkeypatch):
    args = type("Arguments", (), {"use_cpu": False, "bf16": True, "fp16": False})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, peak in (
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("X", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=device: device)
        assert peak_flops(args) == peak
    args.bf16 = False
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    assert peak_flops(args) is None, "in fp32 the peak is another one"
