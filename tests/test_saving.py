"""Complete folders: what is saved loads anywhere, and is written atomically."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from modeling_mmgpt import MMGPTForCausalLM, MMGPTForConditionalGeneration, MMGPTTextConfig, save_checkpoint
from modeling_mmgpt.configuration_mmgpt import AUTO_MAP, TEXT_AUTO_MAP
from modeling_mmgpt.saving_mmgpt import atomic_folder, reachable_code
from tests.conftest import SIGLIP, TEXT, WHISPER, make_model, make_processor


CODE = set(reachable_code(AUTO_MAP, lambda name: Path("modeling_mmgpt") / name))  # see tests/test_remote_code.py
COMPLETE = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
}

FRESH = """
import sys, torch
sys.modules["modeling_mmgpt"] = None  # however it is installed, here it cannot be imported
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
    AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer)

folder, reference = sys.argv[1], torch.load(sys.argv[2], weights_only=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert tokenizer.encode("hello") == processor.tokenizer.encode("hello")
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    model, info = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        logits = model.eval()(**reference["batch"]).logits
    assert torch.equal(logits, reference["logits"]), (logits - reference["logits"]).abs().max()
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(base).__name__ == "MMGPTModel"
model.save_pretrained(sys.argv[3])
print("equal")
"""


def in_a_fresh_process(script: str, *arguments, cwd: Path) -> str:
    """Runs `script` where the package cannot be imported and no module cache knows it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment.update(HF_MODULES_CACHE=str(cwd / "modules"), HF_HUB_OFFLINE="1")
    (cwd / "script.py").write_text(script)
    command = [sys.executable, "-I", str(cwd / "script.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train_one_step(model, batch) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    model(**batch).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("parts", [{}, {"vision": SIGLIP, "audio": WHISPER}], ids=["encoder-free", "towers"])
def test_a_fresh_process_gives_the_same_logits_and_saves_a_complete_folder_again(tmp_path, tokenizer, samples, parts):
    from modeling_mmgpt import MMGPTCollator

    model = make_model(**parts)
    processor = make_processor(model.config, tokenizer)
    batch = MMGPTCollator(processor)(samples)
    train_one_step(model, batch)
    save_checkpoint(tmp_path / "model", model, processor)
    with torch.no_grad():
        torch.save({"batch": batch, "logits": model(**batch).logits}, tmp_path / "reference.pt")
    work = tmp_path / "elsewhere"
    work.mkdir()
    again = tmp_path / "again"
    assert "equal" in in_a_fresh_process(FRESH, tmp_path / "model", tmp_path / "reference.pt", again, cwd=work)
    for folder in (tmp_path / "model", again):
        assert set(os.listdir(folder)) >= COMPLETE | CODE, (COMPLETE | CODE) - set(os.listdir(folder))
    assert json.loads((again / "config.json").read_text())["auto_map"] == model.config.auto_map
    other = tmp_path / "other"
    other.mkdir()
    assert "equal" in in_a_fresh_process(FRESH, again, tmp_path / "reference.pt", tmp_path / "third", cwd=other)


def test_a_text_model_loads_as_one(tmp_path, tokenizer):
    decoder = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval()
    save_checkpoint(tmp_path / "text", decoder, tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    assert type(loaded).__name__ == "MMGPTForCausalLM"
    ids = torch.randint(10, 320, (1, 5))
    assert torch.equal(loaded.eval()(ids).logits, decoder(ids).logits)
    code = reachable_code(TEXT_AUTO_MAP, lambda name: Path("modeling_mmgpt") / name)
    assert {path.name for path in (tmp_path / "text").glob("*.py")} == set(code)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("position", ["rope", "sinusoidal", "learned"])
@pytest.mark.parametrize("options", [{}, {"device_map": "auto"}], ids=["as it is", "device_map"])
def test_buffers_are_intact_after_reload(tmp_path, dtype, position, options):
    """Non-persistent buffers are not in the file: they must be made again, not left as whatever memory held."""
    model = make_model(text={"position_embedding_type": position}, vision=SIGLIP, audio=WHISPER)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(tmp_path / "model")
    loaded = MMGPTForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=dtype, **options).eval()
    loaded = loaded.cpu()
    buffers = dict(loaded.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffers[name].to(buffer.dtype), buffer, msg=name)
    ids = torch.randint(10, 320, (2, 9))
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_trainer_checkpoints_are_complete(tmp_path, model, processor, collator, samples):
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=samples, data_collator=collator, processing_class=processor
    )
    trainer.train()
    for step in (1, 2):
        files = set(os.listdir(tmp_path / "run" / f"checkpoint-{step}"))
        complete = CODE | COMPLETE - {"README.md"}  # only the package writes cards, see tests/test_model_card.py
        assert files >= complete, complete - files


def test_tied_weights_are_stored_once_and_tied_again(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    loaded = MMGPTForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    untied = make_model(text={"tie_word_embeddings": False})
    untied.save_pretrained(tmp_path / "untied")
    loaded = MMGPTForConditionalGeneration.from_pretrained(tmp_path / "untied")
    assert torch.equal(loaded.lm_head.weight, untied.lm_head.weight)
    assert not torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)


def test_a_processors_and_a_models_saves_into_one_folder_agree_on_its_version(tmp_path, model, processor):
    """The configuration's file ends with a hash of the code beside it, whichever of the two was saved last."""
    marks = []
    for order in ((model, processor), (processor, model)):
        folder = tmp_path / str(len(marks))
        for one in order:
            one.save_pretrained(folder)
        marks.append((folder / "configuration_mmgpt.py").read_text().partition("\n# Hash of the code")[2])
    assert marks[0] == marks[1] and marks[0].count("\n") == 1
    (folder / "handler.py").write_text("# the owner's")
    model.save_pretrained(folder)
    assert not (folder / "configuration_mmgpt.py").read_text().endswith(marks[0])


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("the disk is full")
    assert os.listdir(tmp_path) == []


def test_a_failed_save_keeps_what_was_there(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    model.config.vision_merge_size = 3  # goes with no connector here: refused when the configuration is validated
    with pytest.raises(Exception, match="vision_merge_size"):
        model.save_pretrained(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


def test_shards_of_an_earlier_save_do_not_stay(tmp_path, model):
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    model.save_pretrained(tmp_path / "model")
    weights = [path.name for path in (tmp_path / "model").glob("model*.safetensors*")]
    assert weights == ["model.safetensors"]


def test_a_file_in_the_way_is_named(tmp_path, model):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError, match="a file of that name is in the way"):
        model.save_pretrained(tmp_path / "model")


def test_importing_is_silent_and_needs_no_optional_package():
    script = (  # transformers 5.17 itself imports sklearn where it is installed
        "import sys; from transformers import GenerationMixin, ProcessorMixin; before = set(sys.modules); "
        "import modeling_mmgpt; added = set(sys.modules) - before; "
        "print(sorted({'datasets', 'peft', 'trl', 'evaluate', 'sklearn', 'matplotlib', 'soxr', 'soundfile', 'av'} & added))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "[]", "")
