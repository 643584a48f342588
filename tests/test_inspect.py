"""What a recipe will learn from: shown, counted and estimated before any training."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mmgpt import MMGPTCollator, MMGPTForCausalLM, MMGPTTextConfig
from tests.toy_training import TOY_DATA, toy_tree
from training import inspect as inspecting
from training.data import formats
from training.inspect import (
    estimate_memory,
    inspect_recipe,
    kind_of,
    main,
    print_inspection,
    saved_of_a_layer,
    write_inspection,
)
from training.recipe import build_recipe


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, data in TOY_DATA.items():
        monkeypatch.setitem(formats.OWN_DATA, name, data)
    return toy_tree(tmp_path / "run")


def inspected(tree: dict, **options) -> dict:
    return inspect_recipe(build_recipe(tree, "toy", "toy.yaml"), **options)


def text_of_kind(sample, kind: str) -> str:
    return "".join(piece.text for piece in sample.pieces if piece.kind == kind)


class TestSamples:
    def test_are_shown_as_the_model_gets_them(self, tree):
        found = inspected(tree, shown=24)
        assert len(found["samples"]) == 24
        for sample, (images, spectrograms) in zip(found["samples"], [(1, 0), (0, 1), (0, 0)] * 8, strict=True):
            assert (len(sample.images), len(sample.spectrograms)) == (images, spectrograms)
            assert text_of_kind(sample, "learnt").endswith("<|im_end|>")
        assert found["samples"][0].images[0].size == (32, 32)
        assert np.asarray(found["samples"][0].images[0])[5, 5].tolist() == [255, 0, 0]

    def test_of_packs_share_a_sequence(self, tree):
        tree["sequence"] = {"pack_to": 200}
        found = inspected(tree, shown=1)
        assert ", " in found["samples"][0].name and text_of_kind(found["samples"][0], "learnt").count("<|im_end|>") > 1

    def test_of_pretraining_are_blocks_that_are_learnt(self, tree):
        tree |= {"stage": "pretrain", "data": {"train": [{"format": "toy_texts"}]}, "sequence": {"pack_to": 32}}
        tree["model"]["config"] |= {"vision_config": None, "audio_config": None}
        del tree["model"]["image_processor"], tree["model"]["feature_extractor"]
        found = inspected(tree)
        sample = found["samples"][0]
        assert sum(piece.tokens for piece in sample.pieces) == 32
        assert sum(piece.tokens for piece in sample.pieces if piece.kind == "learnt") >= 29, (
            "all but the first of each text"
        )

    def test_of_a_stream_are_its_first(self, tree, tmp_path):
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps({"q": f"{i}?", "answer": "yes"}) + "\n" for i in range(20))
        )
        tree["data"] = {
            "train": [
                {
                    "format": "prompt_answer",
                    "files": str(tmp_path / "a.jsonl"),
                    "options": {"prompt": "{q}", "answer": "answer"},
                }
            ],
            "streaming": True,
        }
        found = inspected(tree)
        assert found["rejected"] == [] and found["tokens"]["steps"] == 3 and found["tokens"]["epoch"] is None
        assert text_of_kind(found["samples"][0], "learnt") == "yes<|im_end|>"


class TestNumbers:
    def test_lengths_are_those_of_the_collator(self, tree):
        found = inspected(tree)["lengths"]
        recipe = build_recipe(tree, "toy", "toy.yaml")
        data = inspecting.TrainingSet(recipe)
        _, processor = inspecting.outline(recipe, data)
        batch = MMGPTCollator(processor)(list(data.samples))
        lengths = batch["attention_mask"].sum(-1)
        assert (found["shortest"], found["longest"], found["measured"]) == (lengths.min(), lengths.max(), 24)
        assert found["learnt_share"] == pytest.approx(((batch["labels"] != -100).sum() / lengths.sum()).item())
        assert sum(one["count"] for one in found["bins"]) == 24
        assert found["cut"] == found["too_long"] == 0

    def test_what_is_cut_and_what_does_not_fit_is_counted(self, tree):
        longest = inspected(tree)["lengths"]["longest"]
        tree["sequence"] = {"max_length": longest - 1}
        assert inspected(tree)["lengths"]["cut"] > 0
        tree["sequence"] = {}
        tree["model"]["config"]["text_config"]["max_position_embeddings"] = longest - 1
        assert inspected(tree)["lengths"]["too_long"] > 0

    def test_tokens_of_the_run(self, tree):
        del tree["training"]["max_steps"]
        tree["training"]["num_train_epochs"] = 2
        found = inspected(tree)
        assert found["tokens"]["steps"] == 8 and found["tokens"]["epoch"] == pytest.approx(
            24 * found["lengths"]["mean"]
        )
        assert found["tokens"]["run"] == pytest.approx(2 * found["tokens"]["epoch"])

    def test_a_stage_trains_a_part(self, tree):
        whole = inspected(tree)["memory"]
        assert whole["trained"] == whole["parameters"] and whole["optimizer"] == 8 * whole["parameters"]
        recipe = build_recipe(tree, "toy", "toy.yaml")
        model, _ = inspecting.outline(recipe, inspecting.TrainingSet(recipe))
        assert all(parameter.is_meta for parameter in model.parameters())
        model.model.vision_tower.requires_grad_(False)
        part = estimate_memory(model, recipe, np.array([10]), 512)
        assert part["weights"] == whole["weights"] and part["gradients"] < whole["gradients"]

    @pytest.mark.parametrize(
        ("heads", "key_heads", "width", "mlp"), [(4, 4, 64, 128), (4, 2, 128, 512), (8, 1, 64, 96)]
    )
    def test_stored_numbers_are_as_many_as_autograd_stores(self, heads, key_heads, width, mlp):
        def stored(layers: int) -> int:
            config = MMGPTTextConfig(
                hidden_size=width, intermediate_size=mlp, num_attention_heads=heads, num_key_value_heads=key_heads,
                num_hidden_layers=layers, vocab_size=64, qk_norm=True,
            )  # fmt: skip
            model, sizes = MMGPTForCausalLM(config), {}
            weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
            alive = []

            def count(tensor):
                storage = tensor.untyped_storage()
                alive.append(tensor)  # else its address may be another's
                if storage.data_ptr() not in weights:
                    sizes[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                model(input_ids=torch.arange(64)[None].repeat(2, 1), labels=torch.arange(64)[None].repeat(2, 1))
            return sum(sizes.values()) // 4

        config = MMGPTTextConfig(
            hidden_size=width,
            intermediate_size=mlp,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            num_hidden_layers=1,
        )
        assert (stored(3) - stored(1)) / 2 / 128 == pytest.approx(saved_of_a_layer(config), rel=0.1)


class TestRejected:
    def test_are_counted_by_kind_with_the_first_by_name(self, tree, tmp_path):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
        for number in range(3):
            (tmp_path / f"bad{number}.png").write_bytes(b"not an image")
        lines = [{"id": "a", "photo": "good.png", "label": "x"}]
        lines += [{"id": f"b{number}", "photo": f"bad{number}.png", "label": "x"} for number in range(3)]
        lines += [{"id": "c", "photo": "good.png", "label": None}]
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = {"image": "photo", "prompt": "?", "media_folder": str(tmp_path)}
        tree["data"]["train"] = [
            {"format": "labelled_media", "files": str(tmp_path / "list.jsonl"), "name": "photos", "options": options}
        ]
        (source,) = inspected(tree)["rejected"]
        assert (source["source"], source["samples"], source["rejected"]) == ("photos", 5, 4)
        assert [kind["count"] for kind in source["kinds"]] == [3, 1]
        assert "sample 'b0' of photos" in source["kinds"][0]["first"][0] and "empty" in source["kinds"][1]["kind"]

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            (
                "sample 'a' of x, split train: image 0 is 3 px wide",
                "sample 'b' of x, split train: image 12 is 5 px wide",
                True,
            ),
            ("sample 'a' of x: no file /data/a.png", "sample 'b' of x: no file /data/b.png", True),
            ("sample 'a' of x: column 'q' is empty", "sample 'a' of x: no answer", False),
        ],
    )
    def test_a_kind_has_no_names_and_numbers(self, one, other, same):
        assert (kind_of(one) == kind_of(other)) is same


class TestOutput:
    evil = "</p><script>alert(1)</script>\x1b[2J\x07"

    @pytest.fixture
    def found(self, tree):
        found = inspected(tree, shown=2)
        found["samples"][0].pieces.insert(0, inspecting.Piece("masked", self.evil, 1))
        found["samples"][0].name = self.evil
        return found

    def test_text_of_samples_commands_no_terminal(self, found, capsys):
        print_inspection(found, in_colour=False)
        shown = capsys.readouterr().out
        assert "\x1b" not in shown and "\x07" not in shown and r"\x1b[2J\x07" in shown
        assert "«red»" in shown or "«<|im_end|>»" in shown
        print_inspection(found, in_colour=True)
        assert "\x1b[2J" not in capsys.readouterr().out

    def test_text_of_samples_is_text_in_the_page(self, found, tmp_path):
        write_inspection(tmp_path / "new" / "page.html", found)
        page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
        assert "<script>" not in page and "&lt;script&gt;" in page
        assert page.count('src="data:image/png;base64,') == 2 and "http" not in page
        assert 'class="learnt"' in page and "memory of one device" in page

    def test_warns_of_what_does_not_fit(self, found, capsys):
        found["lengths"] |= {"cut": 3, "max_length": 9, "too_long": 2}
        print_inspection(found, in_colour=False)
        shown = capsys.readouterr().out
        assert "max_length=9 cuts 3 of 24" in shown and "2 of 24 samples are longer than the decoder's" in shown


class TestCommandLine:
    def test_prints_and_writes_the_page(self, tmp_path, monkeypatch, capsys):
        recipe = "configuration/recipes/demo_text_zh.yaml"
        few = "data.train.0.options.samples={text_zh: 40}"
        monkeypatch.setattr(sys, "argv", ["inspect", recipe, few, f"training.output_dir={tmp_path}", "--samples", "1"])
        main()
        shown = capsys.readouterr().out
        assert "sample 1 (text_zh-train-" in shown and "in 2 steps" in shown and (tmp_path / "inspect.html").is_file()

    def test_names_the_data_that_are_not_there(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["inspect", "configuration/recipes/gsm8k.yaml", f"data.root={tmp_path}"])
        with pytest.raises(SystemExit):
            main()
        assert "python -m training.data.fetch gsm8k --root" in capsys.readouterr().err
