"""What a run leaves behind: the model with its card, the report, the curves."""

import json

import pytest
from PIL import Image

from modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTProcessor
from modeling_mmgpt.tools.model_card import licences_of, read_facts, record_results
from tests.conftest import section_of
from tests.toy_training import TOY_DATA, losses, toy_tree, train_toy
from training.data.formats import OWN_DATA
from training.recipe import build_recipe
from training.run_results import write_curves
from training.train import train


@pytest.fixture
def tree(monkeypatch, tmp_path) -> dict:
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestFiles:
    def test_leaves_a_model_a_curve_and_a_log(self, tree, tmp_path):
        report = train_toy(tree)
        folder = tmp_path / "run"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["data.parquet", "loss.png", "model", "recipe.yaml", "training.json"]
        assert json.loads((folder / "training.json").read_text()) == report
        assert report["steps"] == 3 and report["samples"] == 24 and len(losses(report)) == 3
        assert Image.open(folder / "loss.png").width > 400

        training = section_of(folder / "model" / "README.md", "Training")
        assert training.startswith(f"Recipe `toy`, stage `finetune`: 3 steps, with {report['tokens']} tokens in ")
        assert f"Hardware: {report['hardware']}." in training and training.endswith("| toy | 24 | 1.0 |")

        model = MMGPTForConditionalGeneration.from_pretrained(folder / "model")
        assert model.num_parameters() == report["parameters"]
        processor = MMGPTProcessor.from_pretrained(folder / "model")
        assert processor.tokenizer.im_end_token_id in model.generation_config.eos_token_id

    def test_goes_on_from_a_checkpoint(self, tree, tmp_path):
        first = losses(train_toy(tree))
        start = tmp_path / "start"
        (tmp_path / "run" / "model").rename(start)
        result = {"task": "see", "measure": "exact_match", "value": 0.5, "n": 8}
        record_results(start, [result], by="recipe `toy`, split `test`")
        tree["model"] = {"checkpoint": str(start)}
        tree["data"]["train"] = [{"format": "toy", "weight": 2, "license": "mit"}]
        assert losses(train(build_recipe(tree, "again", "again.yaml")))[0] < first[0]
        # The card tells both parts, and nothing of what the model could do before the second.
        path = tmp_path / "run" / "model" / "README.md"
        now, before = section_of(path, "Training").split("Before that, as `start`:")
        assert "Recipe `again`" in now and "| toy | 48 | 2 |" in now
        assert "Recipe `toy`" in before and "| toy | 24 | 1.0 |" in before
        assert read_facts(path.parent)["results"] == [] and licences_of(read_facts(path.parent)) == {"toy": "mit"}


class TestCurves:
    LOG = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "grad_norm": 1.0}, {"step": 2, "eval_loss": 2.5}]

    def test_metrics_of_the_validation_data_have_a_panel_of_their_own(self, tmp_path):
        write_curves(self.LOG, tmp_path / "loss.png")
        write_curves([*self.LOG, {"step": 2, "eval_read_exact_match": 0.5}], tmp_path / "both.png")
        write_curves([*self.LOG, {"step": 2, "eval_runtime": 0.5}], tmp_path / "timed.png")
        heights = [Image.open(tmp_path / f"{name}.png").height for name in ("loss", "both", "timed")]
        assert heights[1] == 2 * heights[0] and heights[2] == heights[0]

    def test_a_run_without_a_logged_step_has_an_empty_figure(self, tmp_path):
        write_curves([], tmp_path / "loss.png")
        assert Image.open(tmp_path / "loss.png").width > 400
