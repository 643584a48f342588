"""Evaluation: answers in the order of the samples, baselines, files."""

import json
import math
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from modeling_mmgpt import save_checkpoint
from tests.conftest import make_audio, make_image, make_sample, make_video, section_of
from tests.test_controls import image_samples
from training.data.formats import OWN_DATA, OwnData
from training.data.samples import answer_of, assistant_turn, make_dataset, user_turn
from training.evaluation import evaluate
from training.model_building import build_model
from training.recipe import EvaluationArguments, ModelArguments, build_recipe
from training.train_tokenizer import texts_of, train_tokenizer


CHECKOUT = Path(__file__).resolve().parent.parent


def text_samples(root=None, split=None, count: int = 6):
    questions = [f"say {'very ' * (index % 3)}{index}" for index in range(count)]
    samples = [{"id": question, "messages": [user_turn(question), assistant_turn("yes")]} for question in questions]
    return make_dataset([{"task": "say", **sample} for sample in samples])


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(texts_of(text_samples()), vocab_size=320)
    config = {
        "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5},
        "vision_config": None,
        "audio_config": None,
    }
    return build_model(ModelArguments(preset="nano", config=config), tokenizer)


class TestAnswers:
    def test_do_not_depend_on_batches_and_keep_the_order(self, parts):
        samples = list(text_samples())
        single = evaluate.answer_samples(*parts, samples, batch_size=1, max_new_tokens=4)
        assert len(set(single)) > 1, "samples must have different answers for their order to show"
        assert evaluate.answer_samples(*parts, samples, batch_size=4, max_new_tokens=4) == single
        assert evaluate.answer_samples(*parts, samples[::-1], batch_size=6, max_new_tokens=4) == single[::-1]

    def test_the_reference_is_not_shown(self, parts):
        samples = list(text_samples())
        other = [
            {**sample, "messages": [sample["messages"][0], assistant_turn("a different answer")]} for sample in samples
        ]
        assert evaluate.answer_samples(*parts, samples, max_new_tokens=4) == evaluate.answer_samples(
            *parts, other, max_new_tokens=4
        )

    def test_the_model_goes_back_to_training(self, parts):
        model, processor = parts
        model.train()
        evaluate.answer_samples(model, processor, list(text_samples(count=1)), max_new_tokens=1)
        assert model.training
        model.eval()


class TestScores:
    def test_each_task_beside_its_baselines(self):
        samples = [*image_samples(4), *text_samples(count=2)]
        predictions = dict(enumerate(["0", "1", "2", "x", "yes", "no"]))
        controls = {"shuffled": dict(enumerate("0xxx")), "blank": dict(enumerate("x1x3"))}
        tasks = evaluate.score_tasks(samples, predictions, controls, {})
        assert list(tasks) == ["even", "odd", "say"]
        assert [tasks[task]["exact_match"] for task in tasks] == [1.0, 0.5, 0.5]
        assert [tasks[task]["majority"] for task in tasks] == [0.5, 0.5, 1.0]
        assert [tasks[task]["shuffled"] for task in tasks] == [0.5, 0.0, None]
        assert [tasks[task]["blank"] for task in tasks] == [0.0, 1.0, None]
        assert all(tasks[task]["n"] == 2 and tasks[task]["low"] < tasks[task]["high"] for task in tasks)
        table = evaluate.format_table(tasks)
        assert len(table.splitlines()) == 5 and len(set(map(len, table.splitlines()))) == 1
        heads = zip(*(line.split()[-3:] for line in table.splitlines()[:2]), strict=True)
        assert list(map(" ".join, heads)) == list(evaluate.BASELINES.values())

    def test_each_task_has_the_metric_and_the_references_of_its_samples(self):
        squad = {"task": "qa", "metric": "squad", "references": ["blue", "deep blue"]}
        samples = [
            {**squad, "messages": [user_turn("?"), assistant_turn("blue")]},
            {"task": "sum", "metric": "number_match", "messages": [user_turn("2 + 2"), assistant_turn("#### 4")]},
        ]
        tasks = evaluate.score_tasks(samples, {0: "deep blue", 1: "it is 4.0"}, {}, {})
        assert (tasks["qa"]["metric"], tasks["qa"]["f1"], tasks["qa"]["exact"]) == ("squad", 1.0, 1.0)
        assert (tasks["sum"]["metric"], tasks["sum"]["number_match"]) == ("number_match", 1.0)

    def test_a_line_for_each_measure(self):
        sample = {"task": "sum", "metric": "rouge", "messages": [user_turn("?"), assistant_turn("a b c")]}
        score = evaluate.score_tasks([sample], {0: "a b"}, {}, {})
        lines = evaluate.format_table(score).splitlines()
        assert [line.split()[-6] for line in lines[2:]] == ["rouge1", "rouge2", "rougeL"]

    def test_two_metrics_under_one_name_are_refused(self):
        samples = [{"task": "a", "metric": metric, "messages": []} for metric in ("bleu", None)]
        with pytest.raises(ValueError, match="'a' have several metrics \\(bleu, exact_match\\)"):
            evaluate.metrics_of(samples)
        with pytest.raises(ValueError, match=r"unknown metric 'blue'.*'bleu'"):
            evaluate.metrics_of([{"metric": "blue", "messages": []}])

    def test_a_metric_is_told_its_language_by_the_sample(self):
        samples = [
            {"task": task, "metric": metric, "messages": [user_turn("?"), assistant_turn(answer)]}
            for task, metric, answer in (
                ("t", "bleu:zh", "今天天气很好"),
                ("n", "number_match:de", "1.000,5"),
                ("q", "squad:fr", "a bord"),
                ("v", "vqa_accuracy", "红色"),
            )
        ]
        tasks = evaluate.score_tasks(samples, {0: "今天天气很好。", 1: "1000,50", 2: "bord", 3: "红色。"}, {}, {})
        assert [(tasks[name]["metric"], tasks[name].get("language")) for name in "tnqv"] == [
            ("bleu", "zh"),
            ("number_match", "de"),
            ("squad", "fr"),
            ("vqa_accuracy", None),
        ]
        values = [tasks["t"]["bleu"], tasks["n"]["number_match"], tasks["q"]["f1"], tasks["v"]["vqa_accuracy"]]
        # 6 of 7, 5 of 6, 4 of 5 and 3 of 4 n-grams are right
        assert values == pytest.approx([100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25, 1, 2 / 3, 1])
        assert evaluate.make_records(samples[:1], {0: "今天"}, {})[0]["score"] > 0
        assert "bleu" in evaluate.format_table(tasks)

    @pytest.mark.parametrize(
        ("metric", "answer", "error"),
        [
            ("bleu", "今天天气很好", "metric `bleu:zh`"),
            ("bleu:it", "今日はいい天気", "told the language 'it'"),
            ("number_match", "三十", "not in digits"),
            ("rouge:chinese", "今天", "no code of a language"),
        ],
    )
    def test_what_would_be_judged_wrong_is_refused_before_anything_is_generated(self, metric, answer, error):
        with pytest.raises(ValueError, match=error):
            evaluate.metrics_of([{"metric": metric, "messages": [user_turn("?"), assistant_turn(answer)]}])


class TestSamples:
    def test_questions_and_plain_texts_together(self, parts):
        model, processor = parts
        model.train()
        plain = {"id": "poem", "task": "poem", "metric": "perplexity", "messages": [assistant_turn("say very " * 100)]}
        samples = [plain, *text_samples(count=2)]
        evaluation = evaluate.evaluate_samples(model, processor, samples, EvaluationArguments(max_new_tokens=2))
        assert model.training
        model.eval()
        poem, say = evaluation["tasks"]["poem"], evaluation["tasks"]["say"]
        assert poem["perplexity"] == pytest.approx(math.exp(poem["loss"])) and poem["n"] == 1
        assert poem["bits_per_byte"] > 0 and poem["majority"] is None and say["majority"] == 1.0
        assert evaluation["predictions"][0] is None and None not in evaluation["predictions"][1:]
        assert evaluation["records"][0]["loss"] == pytest.approx(poem["loss"])
        assert evaluation["records"][1]["references"] == ["yes"]

    def test_media_shuffled_and_blank_unless_left_out(self, model, processor):
        samples = [make_sample("?", "yes", images=[make_image(seed)], audios=[make_audio(seed)]) for seed in (0, 1)]
        samples += [make_sample("?", "no", videos=[make_video(seed)]) for seed in (0, 1)]
        score = evaluate.evaluate_samples(model, processor, samples, EvaluationArguments(max_new_tokens=1))["tasks"][
            "all"
        ]
        assert score["shuffled"] is not None and score["blank"] is not None
        fast = EvaluationArguments(max_new_tokens=1, baselines=False)
        score = evaluate.evaluate_samples(model, processor, samples, fast)["tasks"]["all"]
        assert score["shuffled"] is None and score["blank"] is None and score["exact_match"] is not None


class TestCommandLine:
    def test_writes_results_and_predictions(self, parts, monkeypatch, capsys, tmp_path):
        monkeypatch.setitem(OWN_DATA, "say", OwnData(text_samples))
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{format: say}], test: [{format: say}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        override = f"training.output_dir={tmp_path / 'out'}"
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "model"), str(recipe), override])
        evaluate.main()
        printed = capsys.readouterr().out
        assert "95% interval" in printed
        assert "</html>" in (tmp_path / "out" / "errors.html").read_text()
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["split"] == "test" and results["tasks"]["say"]["n"] == 6
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [sample["id"] for sample in text_samples()]
        right = sum(
            json.loads(line)["prediction"] == answer_of(sample)
            for line, sample in zip(lines, text_samples(), strict=True)
        )
        assert results["tasks"]["say"]["exact_match"] == right / 6
        path = tmp_path / "model" / "README.md"
        assert f"written into the model card: {path}" in printed
        score = results["tasks"]["say"]
        numbers = f"{round(right / 6, 4)} | {round(score['low'], 4)} to {round(score['high'], 4)} | 1.0 | 6 |"
        assert f"| say | exact_match | {numbers}" in section_of(path, "Results")
        (entry,) = ModelCard.load(path).data.eval_results
        assert (entry.dataset_name, entry.dataset_split, entry.metric_value) == ("say", "test", round(right / 6, 4))

    def test_the_card_stays_as_it_is_where_it_is_not_wanted_or_cannot_be_read(self, parts, monkeypatch, tmp_path):
        monkeypatch.setitem(OWN_DATA, "say", OwnData(text_samples))
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{format: say}], test: [{format: say}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        path, override = tmp_path / "model" / "README.md", f"training.output_dir={tmp_path / 'out'}"
        before = path.read_text()
        command = ["evaluate.py", str(tmp_path / "model"), str(recipe), override, "eval.max_new_tokens=1"]
        monkeypatch.setattr(sys, "argv", [*command, "eval.card=false"])
        evaluate.main()
        assert path.read_text() == before
        path.write_text("---\n{\n---\n")
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match=r"The model card is as it was: .*README.md cannot be read"):
            evaluate.main()
        assert path.read_text() == "---\n{\n---\n" and (tmp_path / "out" / "results.json").is_file()

    def test_the_card_names_the_data_set_of_the_hub_and_the_baselines_of_the_main_measure(self, parts, tmp_path):
        save_checkpoint(tmp_path / "model", *parts)
        source = {"dataset": "me/sums", "format": "prompt_answer", "metric": "rouge"}
        tree = {"model": {"preset": "nano"}, "data": {"train": [source], "test": [source]}}
        sample = {"task": "sums", "metric": "rouge", "messages": [user_turn("?"), assistant_turn("a b c")]}
        score = evaluate.score_tasks([sample], {0: "a b"}, {"shuffled": {0: "a"}, "blank": {0: "a"}}, {})
        path = evaluate.record_evaluation(tmp_path / "model", build_recipe(tree, "toy", "toy.yaml"), score)
        entries = ModelCard.load(path).data.eval_results
        assert [entry.metric_type for entry in entries] == ["rouge1", "rouge2", "rougeL"]
        assert {entry.dataset_type for entry in entries} == {"me/sums"}
        words, table = section_of(path, "Results").split("\n\n")
        lines = table.splitlines()
        assert "Recipe `toy`, split `test`" in words and "| majority | shuffled | blank | n |" in lines[0]
        assert lines[2].endswith("| 1.0 | 0.5 | 0.5 | 1 |") and lines[3].endswith("|  |  |  | 1 |")
        assert evaluate.record_evaluation("me/model", build_recipe(tree, "toy", "toy.yaml"), score) is None

    @pytest.mark.parametrize(
        ("model", "override", "message"),
        [("nothing/here", "eval.split=test", "does not exist"), ("model", "eval.split=validation", "no source")],
    )
    def test_mistakes_are_one_line(self, parts, model, override, message, monkeypatch, capsys, tmp_path):
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{format: fsdd}], test: [{format: fsdd}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / model), str(recipe), override])
        with pytest.raises(SystemExit):
            evaluate.main()
        assert message in capsys.readouterr().err

    def test_how_sure_the_model_is_on_request(self, parts, monkeypatch, capsys, tmp_path):
        monkeypatch.setitem(OWN_DATA, "say", OwnData(text_samples))
        recipe = tmp_path / "toy.yaml"
        recipe.write_text("model: {preset: nano}\ndata: {train: [{format: say}], test: [{format: say}]}\n")
        save_checkpoint(tmp_path / "model", *parts)
        out = tmp_path / "out"
        command = [
            "evaluate.py",
            str(tmp_path / "model"),
            str(recipe),
            f"training.output_dir={out}",
            "eval.quality=true",
        ]
        monkeypatch.setattr(sys, "argv", command)
        evaluate.main()
        assert "mean confidence" in capsys.readouterr().out
        records = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert all(
            0 < one["confidence"] <= 1 and one["entropy"] > 0 and 0 <= one["repetition"] <= 1 for one in records
        )
        assert [one["prediction"] for one in records] == evaluate.answer_samples(*parts, list(text_samples()))
        assert (out / "calibration.png").is_file()
        section = section_of(tmp_path / "model" / "README.md", "Calibration")
        assert "| say | expected calibration error |" in section and "| task | confidence | answers |" in section
