"""Importing the package and loading a checkpoint: no network, no other process, nothing read outside the folders that are given.

Seen by audit hooks (PEP 578), which no code can pass by, in a process of its own. PyTorch and transformers are imported before: what
counts is what our code and the loading of our folders add."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


FILES = ("open", "os.listdir", "os.scandir")
WATCH = """
import sys
import torch, transformers, tokenizers, safetensors, accelerate, PIL.Image, soundfile, torchvision
import transformers.pipelines, transformers.generation.utils, huggingface_hub.hf_api, huggingface_hub.repocard

events = []
def watch(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.gethostby", "subprocess.Popen", "os.exec", "os.posix_spawn",
                         "os.spawn", "os.system", "os.fork", "urllib.Request", "ctypes.dlopen")):
        events.append((event, str(arguments[0])))
    elif event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        events.append((event, arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()))
sys.addaudithook(watch)
"""
BY_REMOTE_CODE = """
sys.modules["modeling_mmgpt"] = None
from transformers import AutoModelForMultimodalLM, AutoProcessor
model = AutoModelForMultimodalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
BY_PACKAGE = """
import modeling_mmgpt
for name in modeling_mmgpt.__all__:
    getattr(modeling_mmgpt, name)
model = modeling_mmgpt.MMGPTForConditionalGeneration.from_pretrained(sys.argv[1])
processor = modeling_mmgpt.MMGPTProcessor.from_pretrained(sys.argv[1])
"""
TELL = """
import json
print(json.dumps([events, sys.path]))
"""


def events_of(code: str, folder: Path, work: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The events, and where Python looks for modules."""
    environment = {"HF_HOME": str(work / "home"), "PATH": "/usr/bin", "HOME": str(work), "PYTHONPATH": str(Path.cwd())}
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # whoever asks the Hub is seen, and gets no answer
    command = [sys.executable, "-c", WATCH + code + TELL, str(folder)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    events, places = json.loads(done.stdout.splitlines()[-1])
    return [tuple(event) for event in events], places


@pytest.mark.parametrize("code", [BY_REMOTE_CODE, BY_PACKAGE], ids=["remote code", "package"])
def test_loading_reaches_for_nothing(assistant, tmp_path, code):
    events, places = events_of(code, assistant, tmp_path)
    reached = [event for event in events if event[0] not in FILES]
    assert not reached, reached
    # Looking for a module, Python lists the folders that it may be in.
    looked = [path for event, path in events if event in FILES and (event == "open" or path not in places)]
    installed = {sys.prefix, sys.base_prefix, str(Path.cwd() / "modeling_mmgpt"), str(Path.cwd() / "hub_card.md")}
    allowed = (*installed, str(assistant), str(tmp_path), "/dev/", "/proc/")
    outside = sorted({path for path in looked if not str(Path(path).absolute()).startswith(allowed)})
    assert not outside, outside
    assert any(path.endswith("model.safetensors") for path in looked) or any(path.endswith(".json") for path in looked)


def test_the_hook_sees_what_it_must(tmp_path):
    code = """
import socket, subprocess
open("/etc/hostname").close()
subprocess.run(["true"])
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
"""
    events, _ = events_of(code, tmp_path, tmp_path)
    assert ("open", "/etc/hostname") in events
    assert {event for event, _ in events} >= {"subprocess.Popen", "socket.connect", "socket.getaddrinfo"}
