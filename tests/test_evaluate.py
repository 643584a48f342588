"""Evaluation: answers in the order of the rows, baselines, files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_mmgpt import save_checkpoint
from training import data, evaluate
from training.data.rows import answer_of, assistant_turn, make_dataset, medium, user_turn
from training.model_building import build_model
from training.recipe import ModelArguments
from training.train_tokenizer import texts_of, train_tokenizer


CHECKOUT = Path(__file__).resolve().parent.parent


def text_rows(root=None, split=None, count: int = 6):
    questions = [f"say {'very ' * (index % 3)}{index}" for index in range(count)]
    rows = [{"id": question, "messages": [user_turn(question), assistant_turn("yes")]} for question in questions]
    return make_dataset([{"task": "say", **row} for row in rows])


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(texts_of(text_rows()), vocab_size=320)
    config = {
        "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5},
        "vision_config": None,
        "audio_config": None,
    }
    return build_model(ModelArguments(preset="nano", config=config), tokenizer)


class TestAnswers:
    def test_do_not_depend_on_batches_and_keep_the_order(self, parts):
        rows = list(text_rows())
        single = evaluate.evaluate_model(*parts, rows, batch_size=1, max_new_tokens=4)
        assert len(set(single)) > 1, "rows must have different answers for their order to show"
        assert evaluate.evaluate_model(*parts, rows, batch_size=4, max_new_tokens=4) == single
        assert evaluate.evaluate_model(*parts, rows[::-1], batch_size=6, max_new_tokens=4) == single[::-1]

    def test_the_reference_is_not_shown(self, parts):
        rows = list(text_rows())
        other = [{**row, "messages": [row["messages"][0], assistant_turn("a different answer")]} for row in rows]
        assert evaluate.evaluate_model(*parts, rows, max_new_tokens=4) == evaluate.evaluate_model(
            *parts, other, max_new_tokens=4
        )

    def test_the_model_goes_back_to_training(self, parts):
        model, processor = parts
        model.train()
        evaluate.evaluate_model(model, processor, text_rows(count=1), max_new_tokens=1)
        assert model.training
        model.eval()


def image_rows(count: int) -> list[dict]:
    return [
        {
            "task": ("even", "odd")[index % 2],
            "messages": [user_turn("?", media=("image",)), assistant_turn(str(index))],
            "images": [medium(bytes([index]))],
            "audios": [],
        }
        for index in range(count)
    ]


class TestExchangedMedia:
    def test_every_row_gets_another_rows_image_of_its_task(self):
        rows = image_rows(10)
        exchanged = evaluate.exchange_media(rows)
        given = [row["images"][0]["bytes"][0] for row in exchanged]
        assert sorted(given) == list(range(10))
        assert all(index != image and index % 2 == image % 2 for index, image in enumerate(given))
        assert [row["messages"] for row in exchanged] == [row["messages"] for row in rows]
        assert evaluate.exchange_media(rows) == exchanged

    def test_text_rows_stay(self):
        rows = list(text_rows())
        assert evaluate.exchange_media(rows) == rows


class TestScores:
    def test_each_task_beside_its_baselines(self):
        rows = [*image_rows(4), *text_rows(count=2)]
        predictions = ["0", "1", "2", "x", "yes", "no"]
        shuffled = ["0", "x", "x", "x", None, None]
        tasks = evaluate.score_tasks(rows, predictions, shuffled)
        assert list(tasks) == ["even", "odd", "say"]
        assert [tasks[task]["exact_match"] for task in tasks] == [1.0, 0.5, 0.5]
        assert [tasks[task]["majority"] for task in tasks] == [0.5, 0.5, 1.0]
        assert [tasks[task]["shuffled_media"] for task in tasks] == [0.5, 0.0, None]
        assert all(tasks[task]["n"] == 2 and tasks[task]["low"] < tasks[task]["high"] for task in tasks)
        table = evaluate.format_table(tasks)
        assert len(table.splitlines()) == 4 and len(set(map(len, table.splitlines()))) == 1


class TestCommandLine:
    def test_writes_results_and_predictions(self, parts, monkeypatch, capsys, tmp_path):
        monkeypatch.setitem(data.ADAPTERS, "say", text_rows)
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{adapter: say}], test: [{adapter: say}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        override = f"training.output_dir={tmp_path / 'out'}"
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "model"), str(recipe), override])
        evaluate.main()
        assert "95% interval" in capsys.readouterr().out
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["split"] == "test" and results["tasks"]["say"]["n"] == 6
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in text_rows()]
        right = sum(
            json.loads(line)["prediction"] == answer_of(row) for line, row in zip(lines, text_rows(), strict=True)
        )
        assert results["tasks"]["say"]["exact_match"] == right / 6

    @pytest.mark.parametrize(
        ("model", "override", "message"),
        [("nothing/here", "eval.split=test", "does not exist"), ("model", "eval.split=validation", "no source")],
    )
    def test_mistakes_are_one_line(self, parts, model, override, message, monkeypatch, capsys, tmp_path):
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{adapter: fsdd}], test: [{adapter: fsdd}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / model), str(recipe), override])
        with pytest.raises(SystemExit):
            evaluate.main()
        assert message in capsys.readouterr().err

    def test_runs_as_a_file_beside_the_library_of_the_same_name(self, tmp_path):
        script = str(CHECKOUT / "training" / "evaluate.py")
        done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "key=value" in done.stdout
