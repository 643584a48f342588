"""Other people's trainers take the model as it is: transformers' Trainer, TRL's, PEFT's adapters."""

import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from modeling_mmgpt import MMGPTCollator, MMGPTPackingCollator, save_checkpoint
from tests.conftest import make_image, make_model, make_processor, make_sample


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
QUICK = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
}
LORA = {"r": 4, "target_modules": r".*language_model.*\.(q|v)_proj", "task_type": "CAUSAL_LM"}


@pytest.fixture
def parts(tokenizer, tmp_path):
    """A model with its processor, as a stranger loads them."""
    model = make_model(audio=None)
    folder = save_checkpoint(tmp_path / "saved", model, make_processor(model.config, tokenizer))
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=True)


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train(trainer) -> list[float]:
    """Two steps, in which every parameter that is free has moved, and nothing else."""
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None or not parameter.requires_grad:
            assert torch.equal(before[name], parameter) != parameter.requires_grad, name
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
    return losses(trainer)


class TestTransformersTrainer:
    def arguments(self, folder, **kwargs):
        return TrainingArguments(str(folder), remove_unused_columns=False, **{**QUICK, **kwargs})

    def test_checkpoints_are_complete(self, model, processor, samples, tmp_path):
        arguments = self.arguments(tmp_path, save_strategy="steps", save_steps=2)
        collator = MMGPTCollator(processor)
        Trainer(model, arguments, train_dataset=samples, data_collator=collator, processing_class=processor).train()
        folder = tmp_path / "checkpoint-2"
        again = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
        batch = MMGPTCollator(AutoProcessor.from_pretrained(folder, trust_remote_code=True))(samples)
        with torch.no_grad():
            torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits)

    def test_predictions_are_logits_alone(self, model, processor, samples, tmp_path):
        """Without the cache, and without what the towers made of the media."""
        collator = MMGPTCollator(processor)
        trainer = Trainer(model, self.arguments(tmp_path), data_collator=collator)
        assert trainer.predict(samples).predictions.shape == (*collator(samples)["input_ids"].shape, 320)

    def test_accumulated_is_whole(self, processor, samples, tmp_path):
        """Four samples whose answers have different lengths: one batch of four, and four of one."""
        curves = []
        for size in (4, 1):
            arguments = self.arguments(
                tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size
            )
            trainer = Trainer(make_model(), arguments, train_dataset=samples, data_collator=MMGPTCollator(processor))
            trainer.train()
            curves.append(losses(trainer))
        assert curves[0] == pytest.approx(curves[1], rel=1e-4)

    def test_packed(self, processor, samples, tmp_path):
        curves = []
        for collator in (MMGPTCollator(processor), MMGPTPackingCollator(processor, pack_to=200)):
            arguments = self.arguments(tmp_path, per_device_train_batch_size=4)
            trainer = Trainer(make_model(), arguments, train_dataset=samples, data_collator=collator)
            trainer.train()
            curves.append(losses(trainer))
        assert curves[0] == pytest.approx(curves[1], rel=1e-4)


class TestSFT:
    def texts(self):
        return Dataset.from_list(
            [
                {
                    "messages": [
                        {"role": "user", "content": f"Say {i}."},
                        {"role": "assistant", "content": f"It is {i}."},
                    ]
                }
                for i in range(4)
            ]
        )

    def images(self):
        samples = [
            make_sample("What is it?", f"A {word}.", images=[make_image(0)]) for word in ("cat", "dog", "cow", "owl")
        ]
        for one in samples:  # one shape for all contents, as a table has it
            one["messages"][1]["content"] = [{"type": "text", "text": one["messages"][1]["content"]}]
            del one["audios"]
        return Dataset.from_list(samples)

    @pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
    @pytest.mark.parametrize("assistant_only", [False, True], ids=["all", "assistant"])
    def test_text(self, lora, assistant_only, parts, tmp_path):
        model, processor = parts
        trainer = SFTTrainer(
            model,
            args=SFTConfig(str(tmp_path), assistant_only_loss=assistant_only, max_length=256, **QUICK),
            train_dataset=self.texts(),
            processing_class=processor,
            peft_config=LoraConfig(**LORA) if lora else None,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        said = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0])
        assert said.startswith("It is") == assistant_only and "It is" in said
        assert len(train(trainer)) == 2

    @pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
    @pytest.mark.parametrize("assistant_only", [False, True], ids=["all", "assistant"])
    def test_images(self, lora, assistant_only, parts, tmp_path):
        if assistant_only and Version(transformers.__version__) < Version("5.18.0.dev0"):
            pytest.skip("TRL masks questions about images from transformers 5.18 on")
        model, processor = parts
        trainer = SFTTrainer(
            model,
            args=SFTConfig(str(tmp_path), max_length=None, assistant_only_loss=assistant_only, **QUICK),
            train_dataset=self.images(),
            processing_class=processor,
            peft_config=LoraConfig(**LORA) if lora else None,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["pixel_values"].shape == (2, 3, 16, 16)
        said = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0])
        assert said.startswith("A ") == assistant_only and "A " in said
        assert len(train(trainer)) == 2

    def test_images_with_our_collator(self, parts, tmp_path):
        """The way for audio, which TRL's own collator does not know."""
        model, processor = parts
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                str(tmp_path), dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False, **QUICK
            ),
            train_dataset=self.images(),
            processing_class=processor,
            data_collator=MMGPTCollator(processor),
        )
        assert len(train(trainer)) == 2


class TestPreferences:
    def test_dpo(self, parts, tmp_path):
        model, processor = parts
        samples = [
            {
                "prompt": [{"role": "user", "content": f"Say {i}."}],
                "chosen": [{"role": "assistant", "content": "Yes."}],
                "rejected": [{"role": "assistant", "content": "No!"}],
            }
            for i in range(4)
        ]
        trainer = DPOTrainer(
            model,
            args=DPOConfig(str(tmp_path), max_length=128, trust_remote_code=True, **QUICK),
            train_dataset=Dataset.from_list(samples),
            processing_class=processor,
        )
        first, second = train(trainer)
        assert first == pytest.approx(0.6931, abs=1e-3) and second < first

    @pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
    def test_grpo(self, with_image, parts, tmp_path):
        model, processor = parts
        content = [{"type": "image"}, {"type": "text", "text": "Say it."}] if with_image else "Say it."
        samples = [{"prompt": [{"role": "user", "content": content}]} for _ in range(4)]
        if with_image:
            samples = [{**one, "images": [make_image(i)]} for i, one in enumerate(samples)]
        seen = []

        def reward(completions, **kwargs):
            seen.extend(completion[0]["content"] for completion in completions)
            return [float(index % 3) for index in range(len(completions))]

        trainer = GRPOTrainer(
            model,
            reward_funcs=reward,
            args=GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=6, **QUICK),
            train_dataset=Dataset.from_list(samples),
            processing_class=processor,
        )
        train(trainer)
        assert len(seen) == 4


class TestPeft:
    @pytest.mark.parametrize("extra", [{}, {"use_dora": True}], ids=["lora", "dora"])
    def test_adapters_merge_and_reload(self, extra, processor, samples, tmp_path):
        base = make_model()
        save_checkpoint(tmp_path / "base", base, processor)
        base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", trust_remote_code=True)
        config = LoraConfig(**LORA, modules_to_save=["vision_connector", "audio_connector"], **extra)
        model = get_peft_model(base, config)
        arguments = TrainingArguments(str(tmp_path), remove_unused_columns=False, **QUICK)
        trainer = Trainer(model, arguments, train_dataset=samples, data_collator=MMGPTCollator(processor))
        train(trainer)
        model.save_pretrained(tmp_path / "adapter")
        batch = MMGPTCollator(processor)(samples)
        with torch.no_grad():
            expected = model.eval()(**batch).logits
            again = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", trust_remote_code=True)
            again = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
            torch.testing.assert_close(again(**batch).logits, expected)
            auto = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", trust_remote_code=True).eval()
            torch.testing.assert_close(auto(**batch).logits, expected)
            merged = again.merge_and_unload()
            torch.testing.assert_close(merged(**batch).logits, expected, atol=2e-5, rtol=1e-4)

    def test_prompt_tuning(self, processor, samples, tmp_path):
        model = get_peft_model(make_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
        arguments = TrainingArguments(str(tmp_path), remove_unused_columns=False, **{**QUICK, "max_steps": 8})
        trainer = Trainer(model, arguments, train_dataset=samples[:2], data_collator=MMGPTCollator(processor))
        curve = train(trainer)
        assert curve[-1] < curve[0]
        prompts = MMGPTCollator(processor, add_generation_prompt=True)(samples)
        model.eval()
        assert model.generate(**prompts, max_new_tokens=4, do_sample=False).shape[0] == len(samples)
