"""pipeline() from a saved folder, in a process that cannot import the package: right answers, alone and in batches."""

import itertools
import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from transformers import pipeline

from modeling_mmgpt import (
    MMGPTForCausalLM,
    MMGPTForConditionalGeneration,
    MMGPTProcessor,
    MMGPTTextConfig,
    save_checkpoint,
)
from modeling_mmgpt import pipeline_mmgpt as tasks_of
from modeling_mmgpt.chat_templates_mmgpt import DEFAULT_PROMPTS, check_prompts, fill_prompt
from modeling_mmgpt.pipeline_mmgpt import pieces, timed_phrases
from tests.conftest import TEXT, byte_tokenizer, make_model, make_processor
from tests.test_saving import in_a_fresh_process
from tests.tiny_assistant import RATE, tone


def talk(text, *parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def colour_chat(media):
    return [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(media / "red.png")}, {"type": "text", "text": "Colour?"}],
        }
    ]


START = """
import sys
sys.modules["modeling_mmgpt"] = None  # however it is installed, here it cannot be imported
import json
from pathlib import Path
import torch
from transformers import TextIteratorStreamer, pipeline

folder, results = sys.argv[1], {}
media = Path(folder).parent

def load(task, **options):
    return pipeline(task, folder, trust_remote_code=True, device="cpu", **options)

def attempt(name, call, *args, **kwargs):
    try:
        results[name] = call(*args, **kwargs)
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"

def image(colour):
    return str(media / f"{colour}.png")

def audio(word):
    return str(media / f"{word}.wav")
"""
END = """
print(json.dumps(results))
"""

TASKS = """
summarize = load("summarization")
attempt("summary", summarize, "A cat sat there.")
attempt("summaries", summarize, ["A cat sat there.", "The dog ran and ran to the sea."], batch_size=2)
attempt("not a text", summarize, 3)
attempt("too long", summarize, "word " * 200)
translate = load("translation", tgt_lang="French")
attempt("translations", translate, ["cat", "the dog"], batch_size=2)
attempt("no language", load("translation"), "cat")
attempt("own prompt", load("translation", prompt="In French: {text}"), "cat")

answer = load("question-answering")
context = "Ann has tea. Bo has ale."
attempt("answer", answer, question="Who has ale?", context=context)
attempt("answers", answer, question=["Who has tea?", "Who has ale?"], context=context, batch_size=2)
attempt("dictionaries", answer, [{"question": "Who has tea?", "context": context}])
attempt("no context", answer, question="Who has tea?", context="")
attempt("half a question", answer, "Who has tea?")

look = load("visual-question-answering")
attempt("colour", look, image=image("red"), question="Colour?")
attempt("colour positionally", look, image("red"), "Colour?")
attempt("both colours", look, [{"image": image(c), "question": "Colour?"} for c in ("red", "blue")], batch_size=2)
attempt("best three", look, {"image": image("red"), "question": "Colour?"}, top_k=3)
describe = load("image-to-text")
attempt("description", describe, image("blue"))
attempt("descriptions", describe, [image("red"), image("blue")], batch_size=2)
attempt("text named png", describe, str(media / "text.png"))
attempt("scheme", describe, "ftp://example.org/a.png")
attempt("broken", describe, (media / "red.png").read_bytes()[:60])
attempt("bomb", describe, image("bomb"))
attempt("after bad ones", describe, image("blue"))

transcribe = load("automatic-speech-recognition")
attempt("word", transcribe, audio("high"))
attempt("both words", transcribe, [audio("low"), audio("high")], batch_size=2)
attempt("long", transcribe, audio("long"), chunk_length_s=0.5, stride_length_s=0.3, batch_size=2)
attempt("when", transcribe, audio("long"), chunk_length_s=0.5, stride_length_s=0.3, return_timestamps=True)
attempt("nothing", transcribe, audio("empty"))
attempt("stride", transcribe, audio("low"), chunk_length_s=0.2, stride_length_s=0.3)
summarize.model.save_pretrained(media / "again")
"""


@pytest.fixture(scope="module")
def tasks(assistant, tmp_path_factory):
    """What every task answered."""
    (assistant.parent / "text.png").write_text("not an image")
    soundfile.write(assistant.parent / "empty.wav", np.zeros(0, dtype=np.float32), RATE)
    quiet = np.zeros(RATE // 10, dtype=np.float32)
    long = np.concatenate([tone("low"), quiet, tone("high"), quiet, tone("low"), quiet])
    soundfile.write(assistant.parent / "long.wav", long, RATE)
    folder = tmp_path_factory.mktemp("elsewhere")
    return json.loads(in_a_fresh_process(START + TASKS + END, assistant, cwd=folder).splitlines()[-1])


class TestText:
    def test_summaries(self, tasks):
        assert tasks["summary"] == [{"summary_text": "cat sat"}]
        assert tasks["summaries"] == [{"summary_text": "cat sat"}, {"summary_text": "dog ran"}]

    def test_translations_in_the_checkpoints_own_words(self, tasks):
        assert tasks["translations"] == [{"translation_text": "chat"}, {"translation_text": "le chien"}]
        assert tasks["own prompt"] == [{"translation_text": "chat"}]
        assert "give tgt_lang=" in tasks["no language"]

    def test_answers_say_where_they_stand(self, tasks):
        answer = tasks["answer"]
        assert (answer["answer"], answer["start"], answer["end"]) == ("Bo", 13, 15)
        assert 0.1 < answer["score"] <= 1
        assert [one["answer"] for one in tasks["answers"]] == ["Ann", "Bo"]
        assert tasks["answers"][1]["score"] == pytest.approx(answer["score"], rel=1e-3)
        assert [one["answer"] for one in tasks["dictionaries"]] == ["Ann"]

    def test_what_is_wrong_is_said(self, tasks):
        assert "takes a text or a list of texts, but one is a int" in tasks["not a text"]
        assert "256" in tasks["too long"] and tasks["too long"].startswith("ValueError")
        assert "context is ''" in tasks["no context"]
        assert "takes question and context, but was given a str alone" in tasks["half a question"]


class TestImages:
    def test_questions(self, tasks):
        assert [one["answer"] for one in tasks["colour"]] == ["red"]
        assert tasks["colour positionally"] == tasks["colour"]
        assert [[one["answer"] for one in answers] for answers in tasks["both colours"]] == [["red"], ["blue"]]

    def test_the_best_answers_come_in_order(self, tasks):
        scores = [one["score"] for one in tasks["best three"]]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True) and sum(scores) < 1.001
        assert tasks["best three"][0]["answer"] == "red"
        assert scores[0] == pytest.approx(tasks["colour"][0]["score"], rel=1e-3)

    def test_descriptions(self, tasks):
        assert tasks["description"] == [{"generated_text": "a blue one"}]
        assert tasks["descriptions"] == [[{"generated_text": "a red one"}], [{"generated_text": "a blue one"}]]

    def test_a_bad_image_is_named_and_the_next_one_answered(self, tasks):
        assert "is not an image that can be read" in tasks["text named png"]
        assert "give a path, an http(s) or data URL" in tasks["scheme"]
        assert "the image is damaged" in tasks["broken"]
        assert "10000 x 10000 pixels, more than the 89,478,485" in tasks["bomb"]
        assert tasks["after bad ones"] == tasks["description"]


class TestAudio:
    def test_words(self, tasks):
        assert tasks["word"] == {"text": "high"}
        assert tasks["both words"] == [{"text": "low"}, {"text": "high"}]

    def test_long_audio_is_transcribed_in_pieces(self, tasks):
        assert tasks["long"] == {"text": "low high low"}

    def test_phrases_are_timed_where_the_model_was_trained_for_it(self, tasks):
        assert tasks["when"]["text"] == "low high low"
        assert [chunk["text"] for chunk in tasks["when"]["chunks"]] == ["low", "high", "low"]
        starts = [chunk["timestamp"][0] for chunk in tasks["when"]["chunks"]]
        assert starts[0] == 0 and 0.3 <= starts[1] <= 0.4 and 0.7 <= starts[2] <= 0.8
        for start, end in (chunk["timestamp"] for chunk in tasks["when"]["chunks"]):
            assert end - start == pytest.approx(0.3)

    def test_what_is_wrong_is_said(self, tasks):
        assert "is empty" in tasks["nothing"]
        assert "stride_length_s=0.3 must be less than chunk_length_s=0.2" in tasks["stride"]


def test_a_pipelines_model_saves_a_complete_folder_again(tasks, assistant):
    """transformers writes classes into config.custom_pipelines, which no file could hold."""
    names = {path.name for path in (assistant.parent / "again").iterdir()}
    assert names >= {path.name for path in assistant.iterdir()}


BUILT_IN = """
def ask(text, *parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

red, blue = (ask("Colour?", {"type": "image", "path": image(colour)}) for colour in ("red", "blue"))
low, high = (ask("Heard?", {"type": "audio", "path": audio(word)}) for word in ("low", "high"))
once = [{"role": "user", "content": "Once"}]
prefilled = [*red, {"role": "assistant", "content": [{"type": "text", "text": "r"}]}]

class Chats(torch.utils.data.Dataset):
    def __init__(self, chats):
        self.chats = chats

    def __len__(self):
        return len(self.chats)

    def __getitem__(self, index):
        return self.chats[index]

def texts(outputs):
    return [texts(output) if isinstance(output, list) else output["generated_text"] for output in outputs]

write = load("text-generation")
attempt("text-generation too long", write, ask("word " * 200))
attempt("text-generation too long without a template", write, "word " * 200)
attempt("text-generation", lambda: texts(write([once, ask("In French: the dog")], batch_size=2, return_full_text=False)))
for task in ("image-text-to-text", "any-to-any"):
    pipe = load(task)
    chat = lambda chats, **options: texts(pipe(text=chats, return_full_text=False, **options))
    attempt(f"{task} bad", chat, [ask("Colour?", {"type": "image", "path": image("bomb")})])
    attempt(f"{task} too long", chat, ask("word " * 200))
    attempt(f"{task} one", chat, red, max_new_tokens=8)
    attempt(f"{task} batch", chat, [red, blue, once], batch_size=3)
    attempt(f"{task} alone", chat, [red, blue, once])
    attempt(f"{task} prefilled", chat, prefilled)
    attempt(f"{task} mixed", chat, [red, prefilled], batch_size=2)
    attempt(f"{task} mixed alone", chat, [red, prefilled])
    streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    pipe(text=ask("In French: the dog"), generate_kwargs={"streamer": streamer})
    results[f"{task} streamed"] = list(streamer)
    for size in (1, 2, 4):
        options = {"batch_size": size, "return_full_text": False}
        attempt(f"{task} list by {size}", chat, [red, blue, red], batch_size=size)
        attempt(f"{task} data set by {size}", lambda: texts(pipe(text=Chats([red, blue, red]), **options)))
        attempt(f"{task} given first by {size}", lambda: texts(pipe(Chats([red, blue, red]), **options)))
        attempt(f"{task} generator by {size}", lambda: texts(pipe((one for one in [red, blue, red]), **options)))
        attempt(f"{task} texts by {size}", lambda: [str(one) for one in pipe(text=["Once", "Who", "What"], **options)])
        prompts = [{"text": "<|image|>Colour?", "images": image(colour)} for colour in ("red", "blue", "red")]
        attempt(f"{task} prompts by {size}", lambda: texts(pipe(prompts, **options)))
        attempt(f"{task} beams by {size}", lambda: [len(one) for one in pipe(
            text=[red, blue, red], generate_kwargs={"num_beams": 2, "num_return_sequences": 2}, **options)])
    attempt(f"{task} a data set of one", lambda: texts(pipe(text=Chats([blue]), **options)))
    attempt(f"{task} plain", lambda: pipe(text="<|image|>Colour?", images=image("red"), return_full_text=False)[0])
attempt("audio", chat, [low, high, red], batch_size=3)
pairs = [{"text": "<|audio|>Heard?", "audio": audio("low")}, {"text": "<|image|>Colour?", "images": image("red")}]
attempt("pairs alone", lambda: texts(pipe(pairs, return_full_text=False)))
attempt("pairs", lambda: texts(pipe(pairs, batch_size=2, return_full_text=False)))
extract = load("feature-extraction")
features = extract(["Once", "In French: cat"], batch_size=2, return_tensors=True)
alone = extract("Once", return_tensors=True)
length = alone.shape[1]
results["features"] = [list(features[0].shape), (features[0][:, -length:] - alone).abs().max().item()]
results["left"] = extract.tokenizer.padding_side
"""


@pytest.fixture(scope="module")
def built_in(assistant, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built-in")
    return json.loads(in_a_fresh_process(START + BUILT_IN + END, assistant, cwd=folder).splitlines()[-1])


class TestTransformersOwnTasks:
    def test_text_generation(self, built_in):
        assert built_in["text-generation"] == [["upon"], ["le chien"]]

    @pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
    def test_conversations(self, built_in, task):
        assert built_in[f"{task} one"] == ["red"]
        assert built_in[f"{task} batch"] == built_in[f"{task} alone"] == [["red"], ["blue"], ["upon"]]
        assert built_in[f"{task} prefilled"] == ["ed"]
        assert "batch_size=1" in built_in[f"{task} mixed"]
        assert built_in[f"{task} mixed alone"] == [["red"], ["ed"]]
        assert set(built_in[f"{task} plain"]) == {"input_text", "generated_text"}

    def test_what_is_too_long_is_refused(self, built_in):
        longer = [said for name, said in built_in.items() if "too long" in name]
        assert len(longer) == 4 and all("the model reads at most 256" in said for said in longer)

    @pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
    def test_a_bad_image_is_named(self, built_in, task):
        assert "10000 x 10000 pixels, more than" in built_in[f"{task} bad"]

    @pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
    def test_streaming(self, built_in, task):
        words = [piece for piece in built_in[f"{task} streamed"] if piece]
        assert "".join(words) == "le chien" and len(words) > 1

    @pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
    @pytest.mark.parametrize("size", [1, 2, 4])
    def test_a_last_batch_of_one_and_data_sets_of_chats(self, built_in, task, size):
        for form in ("list", "data set", "given first", "generator"):
            assert built_in[f"{task} {form} by {size}"] == [["red"], ["blue"], ["red"]], form
        assert built_in[f"{task} a data set of one"] == [["blue"]]
        if not transformers.__version__.startswith("5.17."):  # which itself returns one answer to a question
            assert built_in[f"{task} beams by {size}"] == [2, 2, 2]
        if task == "any-to-any":  # the other one takes no list of dictionaries
            assert built_in[f"{task} prompts by {size}"] == built_in[f"{task} prompts by 1"]
            assert len(built_in[f"{task} prompts by {size}"]) == 3
        assert built_in[f"{task} texts by {size}"] == built_in[f"{task} texts by 1"]
        assert "'What'" in built_in[f"{task} texts by {size}"][2]

    def test_any_to_any_batches_audio_and_images(self, built_in):
        assert built_in["audio"] == [["low"], ["high"], ["red"]]
        assert built_in["pairs"] == built_in["pairs alone"]

    def test_features_do_not_depend_on_the_batch(self, built_in):
        shape, difference = built_in["features"]
        assert shape == [1, 14, 64] and difference < 1e-4


class TestFromObjects:
    """Of a model and its processor, without a folder."""

    @pytest.fixture(scope="class")
    def objects(self, assistant):
        from modeling_mmgpt import MMGPTForConditionalGeneration, MMGPTProcessor

        model = MMGPTForConditionalGeneration.from_pretrained(assistant)
        return {"model": model, "processor": MMGPTProcessor.from_pretrained(assistant), "device": "cpu"}

    CASES = [
        ("summarization", tasks_of.MMGPTSummarizationPipeline, lambda media: "A cat sat there.", "cat sat"),
        ("translation", tasks_of.MMGPTTranslationPipeline, lambda media: "cat", "chat"),
        ("image-to-text", tasks_of.MMGPTImageToTextPipeline, lambda media: str(media / "blue.png"), "a blue one"),
        (
            "automatic-speech-recognition",
            tasks_of.MMGPTSpeechRecognitionPipeline,
            lambda media: str(media / "low.wav"),
            "low",
        ),
        ("image-text-to-text", tasks_of.MMGPTImageTextToTextPipeline, colour_chat, "'red'"),
        ("any-to-any", tasks_of.MMGPTAnyToAnyPipeline, colour_chat, "'red'"),
    ]

    @pytest.mark.parametrize(("task", "kind", "ask", "answer"), CASES)
    def test_by_the_class_and_by_pipeline(self, objects, assistant, task, kind, ask, answer):
        options = {"tgt_lang": "French"} if task == "translation" else {}
        by_class = kind(**objects, **options)
        by_name = pipeline(task, config=objects["model"].config, pipeline_class=kind, **objects, **options)
        for pipe in (by_class, by_name):
            outputs = pipe([ask(assistant.parent)] * 3, batch_size=2)
            assert len(outputs) == 3 and all(answer in str(output).replace("assistant\\n", "'") for output in outputs)

    def test_what_is_missing_is_said(self, objects):
        with pytest.raises(ValueError, match="give `processor=`"):
            tasks_of.MMGPTSummarizationPipeline(model=objects["model"], device="cpu")


TEXT_ONLY = """
for name, batch in (("one", 1), ("two", 2)):
    attempt(name, load("summarization", max_new_tokens=4), ["The sea.", "A longer text about it."], batch_size=batch)
attempt("answer", load("question-answering", max_new_tokens=4), question="Who?", context="Ann is here.")
try:
    load("image-to-text")
except Exception as error:
    results["no eyes"] = type(error).__name__
results["type"] = type(load("summarization").model).__name__
"""


@pytest.mark.parametrize("chats", [True, False])
def test_a_text_only_model_has_the_tasks_of_text(tmp_path, processor, chats):
    torch.manual_seed(1)
    decoder = MMGPTForCausalLM(MMGPTTextConfig(**TEXT)).eval()
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = processor.chat_template if chats else None
    save_checkpoint(tmp_path / "text", decoder, tokenizer)
    done = json.loads(in_a_fresh_process(START + TEXT_ONLY + END, tmp_path / "text", cwd=tmp_path).splitlines()[-1])
    assert done["one"] == done["two"] and all(set(one) == {"summary_text"} for one in done["one"])
    assert set(done["answer"]) == {"answer", "score", "start", "end"}
    assert done["type"] == "MMGPTForCausalLM" and "no eyes" in done


def test_a_model_has_the_tasks_of_its_encoders():
    assert "image-to-text" in make_model().config.custom_pipelines
    deaf = make_model(audio=None).config.custom_pipelines
    assert "automatic-speech-recognition" not in deaf and "image-to-text" in deaf
    assert set(MMGPTTextConfig(**TEXT).custom_pipelines) == {"summarization", "translation", "question-answering"}


class TestPieces:
    def test_cuts_where_it_is_quietest(self):
        waveform = np.ones(100)
        waveform[35:40] = 0
        assert pieces(waveform, length=50, stride=20, window=5) == [(0, 37), (37, 84), (84, 100)]

    def test_short_audio_is_one_piece(self):
        assert pieces(np.ones(50), length=50, stride=20, window=5) == [(0, 50)]

    def test_nothing_is_lost_and_nothing_comes_twice(self):
        waveform = np.random.default_rng(0).normal(size=1000)
        spans = pieces(waveform, length=130, stride=40, window=8)
        assert spans[0][0] == 0 and spans[-1][1] == 1000
        assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
        assert all(0 < end - start <= 130 for start, end in spans)

    def test_without_a_stride_it_cuts_at_the_end(self):
        assert pieces(np.ones(25), length=10, stride=0, window=3) == [(0, 10), (10, 20), (20, 25)]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("<|0.00|> a b<|1.20|><|2.00|> c<|2.50|>", [("a b", (10.0, 11.2)), ("c", (12.0, 12.5))]),
        ("<|0.50|> open", [("open", (10.5, 13.0))]),
        ("no times", [("no times", (10.0, 13.0))]),
        ("", []),
    ],
)
def test_timed_phrases(text, phrases):
    found = timed_phrases(text, 10.0, 13.0)
    assert [(one["text"], tuple(map(pytest.approx, one["timestamp"]))) for one in found] == phrases


class TestPrompts:
    def test_a_checkpoint_carries_its_own(self, tmp_path, model, tokenizer):
        from modeling_mmgpt import MMGPTProcessor

        parts = make_processor(model.config, tokenizer)
        prompts = {"summarization": "In short: {text}"}
        processor = MMGPTProcessor.from_config(
            model.config,
            tokenizer,
            image_processor=parts.image_processor,
            feature_extractor=parts.feature_extractor,
            prompts=prompts,
        )
        processor.save_pretrained(tmp_path)
        assert MMGPTProcessor.from_pretrained(tmp_path).prompts == {**DEFAULT_PROMPTS, **prompts}

    def test_what_is_wrong_is_said(self):
        with pytest.raises(ValueError, match=r"no task \['juggling'\]"):
            check_prompts({"juggling": "Juggle."})
        with pytest.raises(ValueError, match=r"lacks {text}"):
            check_prompts({"summarization": "Summarise."})
        with pytest.raises(ValueError, match="give tgt_lang="):
            fill_prompt("translation", DEFAULT_PROMPTS["translation"], {"text": "cat"})

    def test_braces_in_the_text_are_text(self):
        assert fill_prompt("summarization", "Sum: {text}", {"text": "{x} {"}) == "Sum: {x} {"
        assert fill_prompt("summarization", '{{"a": "{text}"}}', {"text": "{{x}}"}) == '{"a": "{{x}}"}'

    @pytest.mark.parametrize("name", ["text.__class__", "text:>200000000", "text[0]", "text!r", "0", " text", ""])
    def test_prompts_are_plain_substitution(self, name):
        prompt = f"{{text}} {{{name}}}"
        with pytest.raises(ValueError, match="names alone are filled in"):
            check_prompts({"summarization": prompt})
        with pytest.raises(ValueError, match="names alone are filled in"):
            fill_prompt("summarization", prompt, {"text": "a"})


class TestChecks:
    """A guard, how sure the model was, and answers that it is not sure enough of; the same for our tasks and for transformers'."""

    WITHHELD = "The answer was withheld (bad words)."

    @pytest.fixture(scope="class")
    def parts(self, assistant):
        return {
            "model": MMGPTForConditionalGeneration.from_pretrained(assistant),
            "processor": MMGPTProcessor.from_pretrained(assistant),
        }

    @staticmethod
    def guard(text, images):
        is_red = any(image.getpixel((0, 0))[0] > 200 for image in images)
        return "bad words" if "dog" in text or text.strip() == "chat" or is_red else None

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_questions_and_answers_are_withheld_alone_and_in_batches(self, parts, batch_size):
        """The first by its answer, the second by its question; a batch does not change the others."""
        translate = tasks_of.MMGPTTranslationPipeline(**parts, tgt_lang="French", guard=self.guard)
        answers = translate(["cat", "the dog", "dear"], batch_size=batch_size)
        free = translate(["dear"], guard=None)
        assert [answer["translation_text"] for answer in answers] == [
            self.WITHHELD,
            self.WITHHELD,
            free[0]["translation_text"],
        ]

    def test_images_are_judged(self, parts, assistant):
        look = tasks_of.MMGPTVisualQuestionAnsweringPipeline(**parts, guard=self.guard)
        colours = [str(assistant.parent / f"{colour}.png") for colour in ("red", "blue")]
        assert [look(image=colour, question="Colour?")[0]["answer"] for colour in colours] == [self.WITHHELD, "blue"]
        described = tasks_of.MMGPTImageToTextPipeline(**parts, prompt="Describe the picture.", guard=self.guard)
        assert [described(colour)[0]["generated_text"] for colour in colours] == [self.WITHHELD, "a blue one"]

    @pytest.mark.parametrize("kind", [tasks_of.MMGPTAnyToAnyPipeline, tasks_of.MMGPTImageTextToTextPipeline])
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_transformers_own_tasks_are_guarded_in_every_form_of_their_answers(
        self, parts, assistant, kind, batch_size
    ):
        pipe, media = kind(**parts, guard=self.guard), assistant.parent
        chats = [
            talk("Colour?", {"type": "image", "path": str(media / "blue.png")}),
            talk("Colour?", {"type": "image", "path": str(media / "red.png")}),
            talk("In French: cat"),
        ]
        new = pipe(text=chats, return_full_text=False, batch_size=batch_size, generate_kwargs={"do_sample": False})
        assert [answer["generated_text"].strip() for (answer,) in new] == ["blue", self.WITHHELD, self.WITHHELD]
        full = pipe(text=chats, batch_size=batch_size, generate_kwargs={"do_sample": False})
        assert [answer["generated_text"][-1]["content"].strip() for (answer,) in full] == [
            "blue",
            self.WITHHELD,
            self.WITHHELD,
        ]

    def test_how_sure_the_model_was(self, parts, assistant):
        read = tasks_of.MMGPTSummarizationPipeline(**parts, return_quality=True, do_sample=False)
        known, unknown = read(["A cat sat there.", "qwzx vvv kjkj"], max_new_tokens=20)
        assert known["summary_text"] == "cat sat" and known["confidence"] > 0.7
        for quality in (known, unknown):
            assert quality["log_probability"] <= 0 <= quality["entropy"] and 0 <= quality["repetition"] < 1
        assert set(known) == {"summary_text", "confidence", "log_probability", "entropy", "repetition"}
        assert set(read("A cat sat there.", return_quality=False)[0]) == {"summary_text"}
        pipe = tasks_of.MMGPTAnyToAnyPipeline(**parts, return_quality=True)
        one, other = pipe(
            text=[talk("Once"), talk("In French: cat")], batch_size=2, generate_kwargs={"do_sample": False}
        )
        alone = pipe(text=talk("Once"), generate_kwargs={"do_sample": False})
        assert one[0]["confidence"] == pytest.approx(alone[0]["confidence"], abs=1e-4) and other[0]["confidence"] > 0.9

    def test_it_abstains_below_the_confidence_that_was_asked_for(self, parts):
        noise = 0.3 * np.random.default_rng(0).normal(size=RATE).astype(np.float32)
        hear = tasks_of.MMGPTSpeechRecognitionPipeline(**parts, return_quality=True)
        sure, unsure = sorted([hear(tone("low")), hear(noise)], key=lambda heard: -heard["confidence"])
        between = (sure["confidence"] + unsure["confidence"]) / 2
        texts = {hear(clip, min_confidence=between)["text"] for clip in (tone("low"), noise)}
        assert texts == {sure["text"], "I am not sure enough to answer."}
        pipe = tasks_of.MMGPTAnyToAnyPipeline(**parts, min_confidence=0.9)
        chats = [talk("Once"), talk("qwzx vvv kjkj")]
        answers = pipe(text=chats, return_full_text=False, batch_size=2, generate_kwargs={"do_sample": False})
        assert [answer["generated_text"].strip() for (answer,) in answers] == [
            "upon",
            "I am not sure enough to answer.",
        ]

    def test_beams_are_refused_and_what_is_no_guard_too(self, parts):
        with pytest.raises(ValueError, match="need num_beams=1"):
            tasks_of.MMGPTSummarizationPipeline(**parts, min_confidence=0.5)("A cat sat there.", num_beams=2)
        with pytest.raises(ValueError, match="guard is a str"):
            tasks_of.MMGPTSummarizationPipeline(**parts, guard="toxic")

    def test_off_costs_nothing(self, parts, monkeypatch):
        """Without them nothing watches the generation and nothing is decoded twice."""
        seen, generate = [], parts["model"].generate
        monkeypatch.setattr(parts["model"], "generate", lambda **given: seen.append(given) or generate(**given))
        monkeypatch.setattr(tasks_of.ProcessorBatchingMixin, "check", None)
        tasks_of.MMGPTSummarizationPipeline(**parts)("A cat sat there.")
        tasks_of.MMGPTAnyToAnyPipeline(**parts)(text=talk("Once"))
        assert all("logits_processor" not in given for given in seen) and len(seen) == 2
