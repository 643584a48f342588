"""Several processes learn what one learns: DDP, sharded, tensor parallel; the shipped launcher configurations are accelerate's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env

from modeling_mmgpt import save_checkpoint
from tests.conftest import SIGLIP, TIED_DECODERS, WHISPER, make_model, make_processor, make_tied_model
from tests.toy_training import TOY_DATA, losses, toy_tree
from training import train
from training.data.formats import OWN_DATA
from training.recipe import build_recipe


CONFIGURATION = Path(__file__).resolve().parent.parent / "configuration"


def launch(processes: int, *arguments: str) -> None:
    """torchrun, as a user has it; a process that hangs fails the test."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGURATION.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


class TestTwoProcesses:
    def test_ddp_learns_what_one_process_learns(self, monkeypatch, tmp_path):
        """The same samples in each step, shared out: the same losses through the end of an epoch, and one checkpoint."""
        monkeypatch.setitem(OWN_DATA, "toy", TOY_DATA["toy"])
        curves = []
        for processes in (1, 2):
            tree = toy_tree(tmp_path / f"run-{processes}")
            tree["data"] = {"train": [{"format": "toy", "options": {"together": True}}]}
            tree["training"] |= {"max_steps": 6, "per_device_train_batch_size": 6 // processes}
            if processes == 1:
                train.train(build_recipe(tree, "toy", "toy.yaml"))
            else:
                (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
                launch(processes, "-m", "tests.toy_training", str(tmp_path / "recipe.yaml"))
            report = json.loads((tmp_path / f"run-{processes}" / "training.json").read_text())
            assert report["steps"] == 6 and report["epochs"] == 1.5
            curves.append(losses(report))
        np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
        assert curves[0][-1] < curves[0][0]

    @pytest.mark.conformance
    def test_sharded_is_whole(self):
        launch(2, "-m", "tests.two_processes", "sharded")

    @pytest.mark.conformance
    def test_tensor_parallel_is_whole(self, tokenizer, tmp_path):
        model = make_model()
        save_checkpoint(tmp_path / "model", model, make_processor(model.config, tokenizer))
        launch(2, "-m", "tests.two_processes", "parallel", str(tmp_path / "model"))

    @pytest.mark.conformance
    def test_tied_heads_are_cut_as_their_embeddings_are(self, tmp_path):
        """transformers itself refuses decoders that have no plan."""
        models = {kind: make_tied_model(kind) for kind in TIED_DECODERS}
        folders = [
            str(tmp_path / kind) for kind, model in models.items() if model.config.text_config.base_model_tp_plan
        ]
        for folder in folders:
            models[Path(folder).name].save_pretrained(folder)
        launch(2, "-m", "tests.two_processes", "tied", *folders)


@pytest.mark.parametrize("path", sorted((CONFIGURATION / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_launcher_configurations(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem] and config.num_processes == 8
    if path.stem.startswith("deepspeed"):
        engine = CONFIGURATION.parent / config.deepspeed_config["deepspeed_config_file"]
        assert HfDeepSpeedConfig(str(engine)).get_value("zero_optimization.stage") == int(path.stem[-1])


def test_fsdp_gathers_layer_by_layer(monkeypatch):
    """In the environment that accelerate launch gives to its processes, the layers of decoder and towers are found."""
    file = str(CONFIGURATION / "accelerate" / "fsdp2.yaml")
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", file, "train.py"]))
    for key, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    model = make_model(vision=SIGLIP, audio=WHISPER)
    gathered = fsdp2_prepare_auto_wrap_policy(plugin, model)
    kinds = {type(module).__name__ for module in model.modules() if gathered(module)}
    assert {"MMGPTDecoderLayer", "SiglipEncoderLayer", "WhisperEncoderLayer"} <= kinds
