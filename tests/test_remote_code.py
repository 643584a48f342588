"""What travels with a checkpoint: the code files that it needs and no other, loaded by name or from a folder, without the package."""

import ast
import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoTokenizer
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from modeling_mmgpt import (
    MMGPTCollator,
    MMGPTForCausalLM,
    MMGPTForConditionalGeneration,
    MMGPTProcessor,
    MMGPTTextConfig,
    push_checkpoint,
    save_checkpoint,
)
from modeling_mmgpt.configuration_mmgpt import TEXT_AUTO_MAP
from tests.conftest import SIGLIP, TEXT, WHISPER, make_audio, make_image, make_model, make_processor, make_sample
from tests.hub_server import publishing_to, run_with_hub, running_hub
from tests.test_saving import COMPLETE, in_a_fresh_process


PACKAGE = Path(__file__).parents[1] / "modeling_mmgpt"
TEXT_CODE = {
    "answer_quality_mmgpt.py",
    "chat_templates_mmgpt.py",
    "configuration_mmgpt.py",
    "control_tokens_mmgpt.py",
    "cross_attention_mmgpt.py",
    "folders_mmgpt.py",
    "guarding_mmgpt.py",
    "layers_mmgpt.py",
    "modeling_mmgpt_text.py",
    "pipeline_mmgpt.py",
    "requests_mmgpt.py",
    "saving_mmgpt.py",
    "token_counts_mmgpt.py",
    "tower_families_mmgpt.py",
}
MULTIMODAL_CODE = TEXT_CODE | {
    "audio_loading_mmgpt.py",
    "collating_mmgpt.py",
    "connectors_mmgpt.py",
    "downloads_mmgpt.py",
    "image_loading_mmgpt.py",
    "media_features_mmgpt.py",
    "media_loading_mmgpt.py",
    "media_sources_mmgpt.py",
    "modeling_mmgpt.py",
    "preprocessing_mmgpt.py",
    "processing_mmgpt.py",
    "towers_mmgpt.py",
    "vllm_mmgpt.py",
}
KINDS = {
    "text": None,
    "vision": {"audio": None},
    "audio": {"vision": None},
    "both": {"vision": SIGLIP, "audio": WHISPER},
    "foreign decoder": {"text": {"model_type": "llama", "rms_norm_eps": 1e-6}},
}


def build(kind: str, tokenizer):
    """A model of the kind, and what is saved beside it."""
    if kind == "text":
        return MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval(), tokenizer
    model = make_model(**KINDS[kind])
    return model, make_processor(model.config, tokenizer)


def code_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


def code_for(kind: str) -> set[str]:
    return TEXT_CODE if kind == "text" else MULTIMODAL_CODE


class TestFiles:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_checkpoint_carries_what_it_needs_and_no_more(self, kind, tmp_path, tokenizer):
        model, processor = build(kind, tokenizer)
        folder = save_checkpoint(tmp_path / "model", model, processor)
        assert code_of(folder) == code_for(kind)
        bound = 190_000 if kind == "text" else 365_000
        assert sum((folder / name).stat().st_size for name in code_for(kind)) < bound
        saved = json.loads((folder / "config.json").read_text())
        assert saved["auto_map"] == model.config.auto_map

    @pytest.mark.parametrize("kind", ["text", "both"])
    def test_the_model_alone_brings_all_of_it(self, kind, tmp_path, tokenizer):
        build(kind, tokenizer)[0].save_pretrained(tmp_path / "model")
        assert code_of(tmp_path / "model") == code_for(kind)

    def test_what_else_auto_map_names_stays_and_is_missed(self, tmp_path):
        """Classes of the owner's, in files of theirs: those that are not there to be saved are named."""
        theirs = {"AutoModelForSequenceClassification": "head.Classifier", "AutoModelForCausalLM": "me/other--a.B"}
        model = MMGPTForCausalLM(MMGPTTextConfig(**TEXT, auto_map=theirs))
        with pytest.warns(UserWarning, match=r"lacks head\.py, which"):
            model.save_pretrained(tmp_path / "model")
        assert MMGPTTextConfig.from_pretrained(tmp_path / "model").auto_map == TEXT_AUTO_MAP | theirs

    @pytest.mark.parametrize("name", sorted(MULTIMODAL_CODE))
    def test_a_file_imports_only_what_is_always_there_and_files_that_travel(self, name):
        """`get_imports` is how transformers finds the packages that it demands before it runs remote code."""
        imports = set(get_imports(PACKAGE / name))
        installed_with_transformers = {"torch", "numpy", "transformers", "huggingface_hub"}
        assert imports <= installed_with_transformers | sys.stdlib_module_names
        assert {f"{module}.py" for module in get_relative_imports(PACKAGE / name)} <= MULTIMODAL_CODE

    def test_no_file_imports_itself_by_way_of_others(self):
        imports = {name: [f"{one}.py" for one in get_relative_imports(PACKAGE / name)] for name in MULTIMODAL_CODE}
        while imports:
            leaves = {name for name, wanted in imports.items() if not set(wanted) & imports.keys()}
            assert leaves, f"a circle among {sorted(imports)}"
            imports = {name: wanted for name, wanted in imports.items() if name not in leaves}

    @pytest.mark.parametrize("name", sorted(MULTIMODAL_CODE))
    def test_a_file_changes_nothing_of_its_host(self, name):
        """No calls of `register`, and nothing at the top but definitions and `setdefault`."""
        source = (PACKAGE / name).read_text(encoding="utf-8")
        assert not re.search(r"\bALL_\w+\[.*\] *=[^=]", source), (
            "a registry of functions: the name needs a hash of the code"
        )
        tree = ast.parse(source)
        called = [
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        assert "register" not in called
        statements = [node for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
        assert {node.value.func.attr for node in statements} <= {"setdefault"}
        loops = [node for node in tree.body if isinstance(node, (ast.For, ast.While, ast.With, ast.If))]
        assert not loops


@pytest.fixture(scope="module")
def hub():
    with running_hub() as hub, publishing_to(hub):
        yield hub


@pytest.fixture(scope="module")
def published(hub, tokenizer):
    """Every kind of checkpoint on the Hub, as me/KIND."""
    torch.manual_seed(0)
    for kind in KINDS:
        push_checkpoint(f"me/{kind.replace(' ', '-')}", *build(kind, tokenizer))
    return hub


HIDDEN = """
import sys
hidden, kinds = sys.argv[1], sys.argv[2].split(",")
sys.modules[hidden] = None
import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

def attempt(title, call):
    try:
        call()
        print(title, "works")
    except Exception as error:
        print(title, type(error).__name__, str(error).replace("\\n", " "))

for kind in kinds:
    name = f"me/{kind}"
    AutoConfig.from_pretrained(name, trust_remote_code=True)
    AutoModel.from_pretrained(name, trust_remote_code=True)
    AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
    AutoTokenizer.from_pretrained(name, trust_remote_code=True)
    print(kind, "loads")
assert "modeling_mmgpt" not in sys.modules or sys.modules["modeling_mmgpt"] is None
shorten = pipeline("summarization", "me/text", trust_remote_code=True, device="cpu")
attempt("summarization", lambda: shorten("A text.", max_new_tokens=2))
processors = {}
for kind in kinds[1:]:
    def load(kind=kind):
        processors[kind] = AutoProcessor.from_pretrained(f"me/{kind}", trust_remote_code=True)
    attempt(f"processor of {kind}", load)
wave = np.zeros(8000, dtype=np.float32)
if "audio" in processors:
    use = processors["audio"]
    attempt("waveform", lambda: use(text="<|audio|>", audio=wave))
    attempt("audio file", lambda: use(text="<|audio|>", audio=b"RIFF" * 400))
    attempt("another rate", lambda: use(text="<|audio|>", audio={"array": wave, "sampling_rate": 8000}))
if "vision" in processors:
    look = processors["vision"]
    attempt("image", lambda: look(text="<|image|>", images=np.zeros((20, 30, 3), dtype=np.uint8)))
    attempt("video file", lambda: look(text="<|video|>", videos=b"film" * 400))
get_class_from_dynamic_module("processing_mmgpt.MMGPTCollator", "me/vision", revision=None)
print("collator loads")
"""


IMAGE_PROCESSORS = ["processor of vision", "processor of both", "processor of foreign-decoder"]
IMAGES_NEED_TORCHVISION = Version(transformers.__version__) < Version("5.23")  # tried: 5.17 and 5.24
NO_VIDEOS = {"video file": "Videos were given but the model takes none"}


class TestOptionalPackages:
    """Each is hidden in turn, in a process that loads every kind of checkpoint from the Hub."""

    @pytest.mark.parametrize(
        ("package", "refusals"),
        [
            ("soundfile", {"audio file": "needs soundfile, which is not installed: `pip install soundfile`"}),
            ("soxr", {"another rate": "`pip install soxr`"}),
            ("av", {"video file": "`pip install av`", "audio file": "`pip install av`"}),
            ("torchvision", dict.fromkeys(IMAGE_PROCESSORS, "Torchvision") if IMAGES_NEED_TORCHVISION else NO_VIDEOS),
            ("PIL", dict.fromkeys(IMAGE_PROCESSORS, "")),
        ],
    )
    def test_it_is_asked_for_where_it_is_used(self, published, tmp_path, package, refusals):
        kinds = [kind.replace(" ", "-") for kind in KINDS]
        lines = run_with_hub(published, tmp_path, HIDDEN, package, ",".join(kinds)).splitlines()
        assert [f"{kind} loads" for kind in kinds] == lines[: len(kinds)]
        refused = {"audio file": "is not audio that can be read", "video file": "is not a video that can be read"}
        if refusals.keys() >= set(IMAGE_PROCESSORS):  # without image processors there is nothing to ask
            refused.pop("video file")
        refused |= refusals
        for line in lines[len(kinds) :]:
            title = next((title for title in refused if line.startswith(title)), None)
            if title is None:
                assert line.endswith(("works", "loads")), line
            else:
                assert not line.endswith("works") and refused.pop(title) in line, line
        assert not refused


SAVE = """
import sys
sys.modules["modeling_mmgpt"] = None
from transformers import AutoModel, AutoModelForCausalLM
name, folder = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
model.save_pretrained(folder)
"""
USE = """
import sys
sys.modules["modeling_mmgpt"] = None
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, pipeline
folder, task, given = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).save_pretrained(folder + "-again")
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
ask = pipeline(task, folder, trust_remote_code=True, device="cpu")
print(type(processor).__name__, type(ask).__name__, ask(given, max_new_tokens=2) is not None)
"""


class TestSavingAgain:
    @pytest.mark.parametrize(
        ("kind", "task", "classes"),
        [
            ("text", "summarization", "TokenizersBackend MMGPTSummarizationPipeline True"),
            ("both", "image-to-text", "MMGPTProcessor MMGPTImageToTextPipeline True"),
        ],
    )
    def test_who_loads_only_the_model_saves_all(self, published, tmp_path, kind, task, classes):
        """The origin is asked for the files that the model's own classes do not import, at the commit that the model is of."""
        run_with_hub(published, tmp_path, SAVE, f"me/{kind}", tmp_path / "saved")
        files = set(os.listdir(tmp_path / "saved"))
        processor = set() if kind == "text" else {"processor_config.json"}
        assert code_of(tmp_path / "saved") == code_for(kind)
        assert files >= (COMPLETE - {"processor_config.json", "chat_template.jinja"}) | processor
        origin = published.repositories[f"me/{kind}"][-1]["files"]
        assert (tmp_path / "saved" / "README.md").read_bytes() == origin["README.md"]
        make_image(0).save(tmp_path / "image.png")
        work = tmp_path / "elsewhere"
        work.mkdir()
        given = "A text." if kind == "text" else tmp_path / "image.png"
        assert in_a_fresh_process(USE, tmp_path / "saved", task, given, cwd=work).strip().endswith(classes)
        assert code_of(tmp_path / "saved-again") == code_for(kind)

    def test_what_cannot_be_had_is_named(self, tmp_path, tokenizer):
        model, processor = build("vision", tokenizer)
        save_checkpoint(tmp_path / "model", model, processor)
        script = """
import shutil, sys, warnings
sys.modules["modeling_mmgpt"] = None
from transformers import AutoModelForCausalLM
folder, destination = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
shutil.rmtree(folder)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.save_pretrained(destination)
print([str(one.message) for one in caught if "lacks" in str(one.message)])
"""
        said = in_a_fresh_process(script, tmp_path / "model", tmp_path / "saved", cwd=tmp_path)
        assert "lacks pipeline_mmgpt.py, processing_mmgpt.py, which" in said and "copy them from there" in said
        assert "processing_mmgpt.py" not in code_of(tmp_path / "saved")


VERSIONS = """
import sys
sys.modules["modeling_mmgpt"] = None
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, pipeline
task, *folders = sys.argv[1:]
for folder in folders:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    loaded = [
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True),
        AutoModelForCausalLM.from_config(config, trust_remote_code=True),
        AutoModel.from_pretrained(folder, trust_remote_code=True),
        pipeline(task, folder, trust_remote_code=True, device="cpu"),
    ]
    if "AutoProcessor" in config.auto_map:
        loaded.append(AutoProcessor.from_pretrained(folder, trust_remote_code=True))
    print(folder, *(sys.modules[type(one).__module__].VERSION for one in loaded))
"""


@pytest.mark.parametrize(
    ("kind", "names"), [("text", ("model", "model")), ("both", ("model", "model")), ("both", ("one", "other"))]
)
def test_two_versions_in_one_process_run_each_their_own(kind, names, tmp_path, tokenizer):
    """The configuration's own code is the same in both: by it transformers remembers which class loads a model."""
    folders = []
    for version, name in zip("AB", names, strict=True):
        edited, work = tmp_path / f"edited {version}", tmp_path / f"work {version}"
        work.mkdir()
        save_checkpoint(edited, *build(kind, tokenizer))
        for file in code_for(kind) - {"configuration_mmgpt.py"}:
            with (edited / file).open("a") as code:
                code.write(f"\n\nVERSION = {version!r}\n")
        folders.append(tmp_path / version / name)
        in_a_fresh_process(SAVE, edited, folders[-1], cwd=work)
    task = "summarization" if kind == "text" else "image-to-text"
    said = in_a_fresh_process(VERSIONS, task, folders[0], folders[1], folders[0], cwd=tmp_path)
    classes = 4 if kind == "text" else 5
    expected = [(folders[version], version) for version in (0, 1, 0)]
    assert said.splitlines() == [" ".join([str(folder), *["AB"[version]] * classes]) for folder, version in expected]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Folders as release 0.1.0 saved them, with the logits of the last token that it gave (logits.json)."""
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).parent / "saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place / "saved_by_0.1.0"


OLD_KINDS = ["text", "vision", "audio", "both", "cross_attention", "foreign_decoder"]
LOAD_OLD = """
import sys
sys.modules["modeling_mmgpt"] = None
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoProcessor
inputs, *folders = sys.argv[1:]
for folder, batch in zip(folders, torch.load(inputs, weights_only=True), strict=True):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    if not folder.endswith("text"):
        AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        difference = model(**batch["inputs"]).logits[:, -1].sub(batch["logits"]).abs().max()
    code = Path(sys.modules[type(model).__module__].__file__).parent
    print((code / "prompts_mmgpt.py").exists(), bool(difference < 1e-4))
"""


def old_batch(kind: str, folder: Path) -> dict:
    """What the release was asked, and its answer."""
    logits = torch.tensor(json.loads((folder.parent / "logits.json").read_text())[kind])
    if kind == "text":
        return {"inputs": {"input_ids": torch.arange(10, 60)[None]}, "logits": logits}
    processor = MMGPTProcessor.from_pretrained(folder)
    samples = [make_sample("Say hi.", "Hi!")]
    if hasattr(processor, "image_processor"):
        samples.append(make_sample("What is it?", "A cat.", images=[make_image(0)]))
    if hasattr(processor, "feature_extractor"):
        samples.append(make_sample("Who speaks?", "Nobody.", audios=[make_audio(1)]))
    inputs = MMGPTCollator(processor)(samples)
    inputs.pop("labels")
    return {"inputs": inputs, "logits": logits}


class TestFoldersOfTheReleaseBefore:
    @pytest.mark.parametrize("kind", OLD_KINDS)
    def test_the_package_loads_them_and_saves_them_complete(self, old, kind, tmp_path):
        batch = old_batch(kind, old / kind)
        model_class = MMGPTForCausalLM if kind == "text" else MMGPTForConditionalGeneration
        model = model_class.from_pretrained(old / kind, dtype=torch.float32).eval()
        model.save_pretrained(tmp_path / "saved")
        again = model_class.from_pretrained(tmp_path / "saved").eval()
        with torch.no_grad():
            for one in (model, again):
                torch.testing.assert_close(one(**batch["inputs"]).logits[:, -1], batch["logits"], atol=1e-4, rtol=1e-4)
        assert code_of(tmp_path / "saved") == code_for(kind)
        assert set(os.listdir(tmp_path / "saved")) >= {
            name for name in os.listdir(old / kind) if not name.endswith(".py")
        }
        if kind == "text":
            AutoTokenizer.from_pretrained(tmp_path / "saved")
        else:
            MMGPTProcessor.from_pretrained(tmp_path / "saved")

    @pytest.mark.parametrize("kind", ["text", "both"])
    def test_saving_over_one_leaves_no_code_of_its(self, old, kind, tmp_path):
        folder = shutil.copytree(old / kind, tmp_path / "model")
        (folder / "handler.py").write_text("# the owner's\n")
        model_class = MMGPTForCausalLM if kind == "text" else MMGPTForConditionalGeneration
        model_class.from_pretrained(folder).save_pretrained(folder)
        assert code_of(folder) == code_for(kind) | {"handler.py"}

    def test_their_own_code_loads_them_without_the_package_and_so_does_ours(self, old, tmp_path):
        batches = [old_batch(kind, old / kind) for kind in OLD_KINDS]
        torch.save(batches * 2, tmp_path / "inputs.pt")
        ours = []
        for kind in OLD_KINDS:
            ours.append(shutil.copytree(old / kind, tmp_path / kind))
            model_class = MMGPTForCausalLM if kind == "text" else MMGPTForConditionalGeneration
            model_class.from_pretrained(ours[-1]).save_pretrained(ours[-1])
        theirs = [old / kind for kind in OLD_KINDS]
        said = in_a_fresh_process(LOAD_OLD, tmp_path / "inputs.pt", *ours, *theirs, cwd=tmp_path).splitlines()
        # Theirs come last: that release registered its configuration, which every later folder of the process would get.
        assert said == ["False True"] * len(ours) + ["True True"] * len(theirs)
