"""Complete folders: what is saved loads anywhere, and is written atomically."""

import itertools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from modeling_mmgpt import (
    MMGPTForCausalLM,
    MMGPTForConditionalGeneration,
    MMGPTTextConfig,
    folders_mmgpt,
    save_checkpoint,
)
from modeling_mmgpt.configuration_mmgpt import AUTO_MAP, TEXT_AUTO_MAP
from modeling_mmgpt.folders_mmgpt import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    reachable_code,
    read_manifest,
    weights_of,
)
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


def mount(*arguments) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture(
    params=[
        "mount point",
        "bind mount",
        "read-only parent",
        "link",
        "working directory",
        "no exchange",
        "no links",
        "owner",
    ]
)
def hard_place(request, tmp_path, monkeypatch):
    """A folder that cannot be exchanged, or not under the name it is given by."""
    folder, mounted = tmp_path / "parent" / "model", []
    folder.mkdir(parents=True)
    if request.param == "mount point":
        mount("-t", "tmpfs", "tmpfs", folder)
        mounted = [folder]
    elif request.param == "bind mount":  # the same device, and still no rename across it
        (tmp_path / "volume").mkdir()
        mount("--bind", tmp_path / "volume", folder)
        mounted = [folder]
    elif request.param == "read-only parent":
        mount("--bind", folder.parent, folder.parent)
        mounted = [folder.parent]
        mount("--bind", folder, folder)
        mounted = [folder, folder.parent]
        mount("-o", "remount,bind,ro", folder.parent)
    elif request.param == "link":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("there is no second file system here")
        elsewhere = tempfile.mkdtemp(dir="/dev/shm")
        request.addfinalizer(lambda: shutil.rmtree(elsewhere))
        folder.rmdir()
        folder.symlink_to(elsewhere)
    elif request.param == "working directory":
        monkeypatch.chdir(folder)
        folder = Path(".")
    elif request.param == "no links":  # as on FAT
        monkeypatch.setattr(folders_mmgpt.os, "link", lambda *paths, **options: os.readlink(paths[0]))  # an OSError
    elif request.param == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder to somebody else")
        os.chown(folder, 1234, 1234)
    else:
        monkeypatch.setattr(folders_mmgpt.ctypes, "CDLL", lambda name: object())
    yield folder
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_saving_goes_where_folders_cannot_be_exchanged(hard_place, model, processor):
    (hard_place / "notes.txt").write_text("mine")
    save_checkpoint(hard_place, model, processor)
    model.lm_head.weight.data += 1
    model.save_pretrained(hard_place, max_shard_size="50KB")
    save_checkpoint(hard_place, model, processor)
    check_manifest(hard_place, checksums=True)
    loaded = MMGPTForConditionalGeneration.from_pretrained(hard_place)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    names = set(os.listdir(hard_place))
    assert {"notes.txt", "tokenizer.json", "model.safetensors"} <= names
    assert [name for name in names if weights_of(name)] == ["model.safetensors"]
    assert not [name for name in names if name.startswith(".")]
    assert not list(hard_place.resolve().parent.glob(".*.saving"))


def test_an_existing_folder_is_exchanged_in_one_step(tmp_path, model, monkeypatch):
    """Its other files, links and sub-folders come along, those that appear meanwhile too."""
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "runs").mkdir()
    (folder / "runs" / "events").write_text("1")
    (folder / "link").symlink_to("runs/events")
    folder.chmod(0o750)
    log = (folder / "runs" / "events").open("a")
    monkeypatch.setattr(folders_mmgpt, "replace_files", None)
    linked = folders_mmgpt.move_other_files

    def late(old, new, stale, move):
        linked(old, new, stale, move)
        if move is not os.replace:
            (old / "rng_state_1.pth").write_text("from another rank")

    monkeypatch.setattr(folders_mmgpt, "move_other_files", late)
    before = folder.stat().st_ino
    model.save_pretrained(folder)
    log.write("2")
    log.close()
    assert folder.stat().st_ino != before and stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert (folder / "link").is_symlink() and (folder / "link").read_text() == "12"
    assert (folder / "rng_state_1.pth").read_text() == "from another rank"
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_keeps_what_was_there(tmp_path, model):
    folder = tmp_path / "model"
    model.save_pretrained(tmp_path / "size")
    size = sum(path.stat().st_size for path in (tmp_path / "size").iterdir())
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={int(1.6 * size)}", "tmpfs", folder)
    try:
        model.save_pretrained(folder)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(Exception, match=r"No space|os error 28|storage"):
            model.save_pretrained(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        check_manifest(folder, checksums=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def save_in_a_fork(model, folder: Path, before: Callable = lambda: None, **options) -> int:
    """The exit status of a process that calls `before` and saves the model: 0 saved, 1 an error, 9 killed."""
    process = os.fork()
    if process == 0:
        try:
            before()
            model.save_pretrained(folder, **options)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"}  # audited by Python


def die_at(moment: int) -> None:
    """The process ends at its nth change to the disk."""
    turns = itertools.count(1)

    def count(event, arguments):
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event in CHANGES) and next(turns) == moment:
            os._exit(9)

    sys.addaudithook(count)


def outcome(folder: Path, old, new) -> str:
    """What is loaded from the folder, or "refused" where the error names a mixture. All its weights can be read."""
    for path in folder.glob("*.safetensors"):
        load_file(path)
    try:
        loaded = MMGPTForConditionalGeneration.from_pretrained(folder).state_dict()
    except OSError as error:
        assert "mixes files of several saves: model" in str(error)
        return "refused"
    same = [name for name, model in (("old", old), ("new", new)) if equal_weights(loaded, model.state_dict())]
    assert len(same) == 1, "neither the old weights nor the new ones"
    return same[0]


def equal_weights(one: dict, other: dict) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.filterwarnings("ignore:.* changed after the last save")
@pytest.mark.parametrize(("exchanged", "outcomes"), [(True, {"old", "new"}), (False, {"old", "refused", "new"})])
def test_a_save_that_is_killed_at_any_moment(tmp_path, model, exchanged, outcomes, monkeypatch):
    """Leaves the old model or the new one; where folders cannot be exchanged also a mixture, which is named. Another save is whole."""
    if not exchanged:
        monkeypatch.setattr(folders_mmgpt, "swap_folder", lambda *arguments: False)
    new, folder = make_model(), tmp_path / "model"
    new.lm_head.weight.data += 1
    model.save_pretrained(tmp_path / "kept", max_shard_size="50KB")
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    seen = []
    for moment in itertools.count(1, 9):
        shutil.copytree(tmp_path / "kept", folder)
        status = save_in_a_fork(new, folder, partial(die_at, moment), max_shard_size="60KB")
        seen.append(outcome(folder, model, new))
        assert (folder / "notes.txt").read_text() == "mine"
        if status == 0:
            break
        assert status == 9
        shutil.rmtree(folder)
    assert set(seen) == outcomes and seen == sorted(seen, key=["old", "refused", "new"].index)
    new.save_pretrained(folder)
    check_manifest(folder, checksums=True)


@pytest.mark.parametrize("exchanged", [True, False])
def test_processes_that_save_into_one_folder_wait_for_each_other(tmp_path, model, exchanged, monkeypatch):
    """The folder holds what the last of them saved, also where their shards differ."""
    if not exchanged:
        monkeypatch.setattr(folders_mmgpt, "swap_folder", lambda *arguments: False)
    other, folder = make_model(), tmp_path / "model"
    other.lm_head.weight.data += 1
    for _ in range(5):
        ways = [(model, "50KB"), (other, "60KB"), (model, "50GB")]
        with ThreadPoolExecutor(3) as pool:
            codes = pool.map(lambda way: save_in_a_fork(way[0], folder, max_shard_size=way[1]), ways)
            assert list(codes) == [0, 0, 0]
        check_manifest(folder, checksums=True)
        assert outcome(folder, model, other) in ("old", "new")
    assert os.listdir(tmp_path) == ["model"] and not list(folder.glob(".*"))


@pytest.mark.parametrize("limit", [10, 3_000, 20_000, 45_000])
def test_a_disk_that_is_full_at_any_file_keeps_what_was_there(tmp_path, model, limit):
    """By the system's limit on the size of a file: the first to fail is the manifest, code, an index, weights."""
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="50KB")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    assert save_in_a_fork(model, folder, full, max_shard_size="50KB") == 1
    assert save_in_a_fork(model, tmp_path / "another", full) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def test_loading_compares_the_weights_with_the_manifest(tmp_path, model):
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    model.save_pretrained(tmp_path / "one")
    for number, (change, name) in enumerate(
        [
            (lambda folder: shutil.copy(tmp_path / "one" / "model.safetensors", folder), "model.safetensors"),
            (lambda folder: grow(folder / "model.safetensors.index.json"), "model.safetensors.index.json"),
            (lambda folder: next(folder.glob("model-00002*")).unlink(), "model-00002"),
        ]
    ):
        folder = shutil.copytree(tmp_path / "shards", tmp_path / str(number))
        change(folder)
        with pytest.raises(OSError, match=f"mixes files of several saves: {name}"):
            AutoModelForCausalLM.from_pretrained(folder)
        model.save_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(folder)


def test_weights_that_were_all_exchanged_are_no_mixture(tmp_path, model):
    """As transformers' own tests do it, and people who edit a tensor."""
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"another": torch.zeros(3)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"model\.safetensors changed after the last save"):
        MMGPTForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"mixes files of several saves: model\.safetensors"):
        check_manifest(tmp_path, checksums=True)


def test_an_edit_by_hand_is_no_mixture(tmp_path, model, processor):
    folder = save_checkpoint(tmp_path / "model", model, processor)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in ("README.md", "generation_config.json", "tokenizer.json"):
            grow(folder / name)
        (folder / "handler.py").write_text("# mine")
        check_manifest(folder, checksums=True)
    for name in ("config.json", "modeling_mmgpt.py"):
        grow(folder / name)
    with pytest.warns(UserWarning, match=r"config\.json, modeling_mmgpt\.py changed after the last save"):
        MMGPTForConditionalGeneration.from_pretrained(folder)
    (folder / MANIFEST).unlink()
    check_manifest(folder, checksums=True)


def test_a_processors_save_describes_no_weights_anew(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    before = json.loads((tmp_path / "model" / MANIFEST).read_text())["files"]
    processor.save_pretrained(tmp_path / "model")
    check_manifest(tmp_path / "model", checksums=True)
    after = json.loads((tmp_path / "model" / MANIFEST).read_text())["files"]
    assert set(after) == set(before) == CODE | {"config.json", "model.safetensors"}
    assert after["model.safetensors"] == before["model.safetensors"]
    (tmp_path / "model" / MANIFEST).unlink()  # as saved by an earlier version
    processor.save_pretrained(tmp_path / "model")
    MMGPTForConditionalGeneration.from_pretrained(tmp_path / "model")


TRAVELLING = [
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.spm",
    "additional_chat_templates/tools.jinja",
    "second/adapter_config.json",
    "second/adapter_model.safetensors",
    "1_Pooling/config.json",
    "LICENSE",
    "labels.json",
]
STAYING = [
    ".gitattributes",
    ".cache/x.json",
    "checkpoint-5/README.md",
    "runs/events.out.tfevents.1",
    "trainer_state.json",
    "rng_state_0.pth",
    "optimizer.pt",
    "adapter_config.json",
    "adapter_model.safetensors",
    "model_ema.safetensors",
    "pytorch_model.bin",
    "model.gguf",
    "onnx/config.json",
    "onnx/model.onnx",
    "other/config.json",
    "other/model.safetensors",
    "other/tokenizer.json",
    "train.py",
]


def write_all(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_loaded_models_other_files_go_where_it_is_saved(tmp_path, model, processor):
    origin = save_checkpoint(tmp_path / "origin", model, processor)
    loaded = MMGPTForConditionalGeneration.from_pretrained(origin)
    write_all(origin, TRAVELLING + STAYING)
    write_all(tmp_path / "again", ["labels.json"])
    (tmp_path / "again" / "labels.json").write_text("my own")
    loaded.save_pretrained(tmp_path / "again")
    names = {path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*")}
    assert set(TRAVELLING) <= names and not set(STAYING) & names, (set(TRAVELLING) - names, set(STAYING) & names)
    assert (tmp_path / "again" / "labels.json").read_text() == "my own"
    assert (tmp_path / "again" / "second" / "adapter_model.safetensors").read_text() == TRAVELLING[6]
    inside = origin / "inside"  # a folder that is not copied into itself
    loaded.save_pretrained(inside)
    loaded.save_pretrained(inside)
    assert not (inside / "inside").exists() and (inside / "vocab.json").exists()


def test_another_tokenizer_is_not_mixed_with_the_origins(tmp_path, model, processor):
    origin = save_checkpoint(tmp_path / "origin", model, processor)
    loaded = MMGPTForConditionalGeneration.from_pretrained(origin)
    write_all(origin, ["vocab.json", "merges.txt", "tokenizer.model", "LICENSE"])
    names = set(os.listdir(save_checkpoint(tmp_path / "again", loaded, processor)))
    assert not {"vocab.json", "merges.txt", "tokenizer.model"} & names and {"LICENSE", "tokenizer.json"} < names


FOREIGN = [
    "model_ema.safetensors",
    "model-ema.safetensors",
    "modelling.safetensors",
    "adapter_model.safetensors",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "model.gguf",
    "train.py",
    "ema/model.safetensors",
]


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_save_deletes_only_what_it_supersedes(tmp_path, model, exchanged, monkeypatch):
    if not exchanged:
        monkeypatch.setattr(folders_mmgpt, "swap_folder", lambda *arguments: False)
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="50KB")
    model.save_pretrained(folder, variant="fp16", max_shard_size="50KB")
    (folder / "ema").mkdir()
    for name in FOREIGN:
        (folder / name).write_text(name)
    plain = {name for name in os.listdir(folder) if weights_of(name) == ("model", None)}
    half = {name for name in os.listdir(folder) if weights_of(name) == ("model", "fp16")}
    assert {"model.safetensors.index.json"} < plain and {"model.safetensors.index.fp16.json"} < half
    model.save_pretrained(folder, variant="fp16")
    assert {name for name in os.listdir(folder) if weights_of(name) == ("model", "fp16")} == {"model.fp16.safetensors"}
    assert plain <= set(os.listdir(folder))
    model.save_pretrained(folder)
    weights = {name for name in os.listdir(folder) if weights_of(name)}
    assert weights == {"model.safetensors", "model.fp16.safetensors", "adapter_model.safetensors"}
    assert [(folder / name).read_text() for name in FOREIGN] == FOREIGN
    for variant in (None, "fp16"):
        check_manifest(folder, variant, checksums=True)
        MMGPTForConditionalGeneration.from_pretrained(folder, variant=variant)


@pytest.mark.parametrize(
    "umask, file, directory", [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)]
)
def test_every_file_follows_the_umask(tmp_path, model, processor, umask, file, directory):
    known = os.umask(umask)
    try:
        folder = save_checkpoint(tmp_path / "model", model, processor)
        model.save_pretrained(folder, max_shard_size="50KB")
        model.save_pretrained(folder, variant="fp16")
    finally:
        os.umask(known)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {file} and {"model.fp16.safetensors", MANIFEST, "tokenizer.json"} < set(modes)
    assert stat.S_IMODE(folder.stat().st_mode) == directory


def test_a_file_in_the_way_is_named(tmp_path, model):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError, match="a file of that name is in the way"):
        model.save_pretrained(tmp_path / "model")


def test_damaged_files_are_no_obstacle_to_a_save(tmp_path, model):
    model.save_pretrained(tmp_path)
    for name, text in (
        (MANIFEST, "{"),
        (MANIFEST, '{"files": {"config.json": 3}}'),
        (MANIFEST, ""),
        ("config.json", "[1"),
    ):
        (tmp_path / name).write_text(text)
        if name == MANIFEST:
            with pytest.warns(UserWarning, match=f"{MANIFEST} changed after the last save"):
                MMGPTForConditionalGeneration.from_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        check_manifest(tmp_path, checksums=True)
        assert set(read_manifest(tmp_path)["files"]) >= {"config.json", "model.safetensors"}


def test_importing_is_silent_and_needs_no_optional_package():
    script = (  # transformers 5.17 itself imports sklearn where it is installed
        "import sys; from transformers import GenerationMixin, ProcessorMixin; before = set(sys.modules); "
        "import modeling_mmgpt; added = set(sys.modules) - before; "
        "print(sorted({'datasets', 'peft', 'trl', 'evaluate', 'sklearn', 'matplotlib', 'soxr', 'soundfile', 'av'} & added))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "[]", "")
