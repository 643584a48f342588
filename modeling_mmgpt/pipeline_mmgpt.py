"""`pipeline()` for the tasks that transformers no longer has, in the forms of input and output that transformers 4 had.

summarization, translation     text                    -> [{"summary_text"}], [{"translation_text"}]
question-answering             question and context    -> {"answer", "score", "start", "end"}
visual-question-answering      image and question      -> [{"answer", "score"}]
image-to-text                  image                   -> [{"generated_text"}]
automatic-speech-recognition   audio of any length     -> {"text"}, with return_timestamps=True also {"chunks"}

A task is a prompt (chat_templates_mmgpt.py), how its input is read, and how its answer is written. Of the tasks that transformers
still has, any-to-any and image-text-to-text are here because its own classes refuse batches for models that take audio.

At construction or at a call each takes `guard=` (see guarding_mmgpt.py), `return_quality=True`, which adds to an answer how sure the model
was of it (see answer_quality_mmgpt.py), and `min_confidence=`: below that the answer is that the model is not sure enough.

From objects: `MMGPTSummarizationPipeline(model=model, processor=processor)`. transformers' `pipeline()` finds these classes by the
config of a folder; for a model object it takes `config=model.config` and `pipeline_class=MMGPTSummarizationPipeline` as well.

Media are opened by the processor: text checkpoints carry this file too, but nothing that decodes media.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AnyToAnyPipeline, ImageTextToTextPipeline, LogitsProcessorList
from transformers.pipelines import any_to_any, image_text_to_text
from transformers.pipelines.base import ChunkPipeline

from .answer_quality_mmgpt import UNSURE, Quality, QualityRecorder, answer_lengths
from .chat_templates_mmgpt import DEFAULT_PROMPTS, TIMESTAMPS, fill_prompt, tokenize_chats
from .guarding_mmgpt import as_guard, withheld


# An answer ends by itself; this bounds one that does not.
MAX_NEW_TOKENS = 256


@dataclass
class Checks:
    """What is asked about answers, beside the answers."""

    guard: Callable | None = None
    min_confidence: float | None = None
    return_quality: bool = False

    @classmethod
    def taken_from(cls, options: dict) -> dict:
        """Takes the checks out of a pipeline's options."""
        taken = {name: options.pop(name) for name in cls.__dataclass_fields__ if name in options}
        as_guard(taken.get("guard"))
        return taken

    def record(self, settings: dict, config) -> QualityRecorder | None:
        """What has to watch `generate()` with these settings, put among them; `None`: nothing is asked that needs it."""
        if self.min_confidence is None and not self.return_quality:
            return None
        if (settings.get("num_beams") or config.num_beams or 1) > 1:
            raise ValueError(
                "min_confidence and return_quality need num_beams=1: how sure a model is of beams is not measured."
            )
        recorder = QualityRecorder()
        settings["logits_processor"] = LogitsProcessorList([*(settings.get("logits_processor") or []), recorder])
        return recorder

    def replacement(self, text: str, images: list, answer: str, quality: Quality | None) -> str | None:
        """The sentence in the place of an answer to a question; `None`: the answer stands."""
        sentence = withheld(self.guard, text, images) or withheld(self.guard, answer)
        is_unsure = self.min_confidence is not None and quality.confidence < self.min_confidence
        return sentence or (UNSURE if is_unsure else None)

    def shown(self, quality: Quality | None) -> dict[str, float]:
        return quality.as_dict() if self.return_quality else {}


@dataclass
class Request:
    """One request to the model: its prompt, the media before it, and what `postprocess` needs to know about it."""

    prompt: str
    media: list[dict] = field(default_factory=list)
    about: dict = field(default_factory=dict)

    @property
    def messages(self) -> list[dict]:
        content = [*self.media, {"type": "text", "text": self.prompt}] if self.media else self.prompt
        return [{"role": "user", "content": content}]


class MMGPTTaskPipeline(ChunkPipeline):
    """A task as requests to the model. A batch of requests becomes tensors at once, by the processor, which knows on which side text
    and on which side audio is padded.

    Given at construction or at a call: `prompt` in place of the checkpoint's, the task's own options, and whatever
    `generate()` takes, as it is or in `generate_kwargs`.
    """

    _load_processor = None  # a text-only model has a tokenizer and no processor
    _load_tokenizer = None  # a model given as an object may come with its processor alone
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    key: str  # of the answer
    options: tuple[str, ...] = ()  # of `ask`, besides `prompt`
    scored = False  # whether the answers come with their probabilities

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **with_tokenizer(kwargs))

    def _sanitize_parameters(self, generate_kwargs=None, **kwargs):
        asked = {name: kwargs.pop(name) for name in ("prompt", *self.options) if name in kwargs}
        checks = Checks.taken_from(kwargs)
        return asked, {**kwargs, **(generate_kwargs or {}), **checks}, {}

    def preprocess(self, inputs, **options):
        requests = list(self.ask(inputs, **options))  # of each task: the requests that one input becomes
        for index, request in enumerate(requests):
            yield {"request": request, "is_last": index == len(requests) - 1}

    def postprocess(self, outputs):
        """The answers to the one request of an input, under the task's own name for them."""
        return [{self.key: answer.pop("text"), **answer} for answer in outputs[0]["answers"]]

    def image_part(self, image) -> dict:
        return {"type": "image", "image": self.processor.load_medium("image", image, "the image")}

    def fill(self, prompt: str | None, task: str, **fields) -> str:
        prompts = DEFAULT_PROMPTS if self.processor is None else self.processor.prompts
        return fill_prompt(task, prompts[task] if prompt is None else prompt, fields)

    def _forward(self, model_inputs: dict, **generate_kwargs) -> dict:
        checks = Checks(**Checks.taken_from(generate_kwargs))
        batched = isinstance(model_inputs["request"], list)
        requests = model_inputs["request"] if batched else [model_inputs["request"]]
        answers = self.answer(requests, generate_kwargs, checks)
        return {**model_inputs, "answers": answers if batched else answers[0]}

    def answer(self, requests: list[Request], generate_kwargs: dict, checks: Checks) -> list[list[dict]]:
        """For each request its answers: `text`, where the task wants it `score`, and what was asked about its quality."""
        inputs = self.tensors(requests)
        settings, config = (
            dict(generate_kwargs),
            generate_kwargs.get("generation_config") or self.model.generation_config,
        )
        if not {"max_new_tokens", "max_length"} & settings.keys() and config.max_new_tokens is None:
            settings["max_new_tokens"] = MAX_NEW_TOKENS
        if config.pad_token_id is None and self.tokenizer.pad_token_id is not None:
            settings.setdefault("pad_token_id", self.tokenizer.pad_token_id)
        recorder = checks.record(settings, config)
        output = self.model.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=self.scored)
        new_tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
        answers = [
            {"text": text.strip()} for text in self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        ]
        if self.scored:
            for answer, score in zip(answers, self.probabilities(output, new_tokens), strict=True):
                answer["score"] = score
        each = len(answers) // len(requests)
        ends = self.model.generation_config.eos_token_id
        qualities = [None] * len(answers) if recorder is None else recorder.measure(new_tokens, ends)
        for index, (answer, quality) in enumerate(zip(answers, qualities, strict=True)):
            request = requests[index // each]
            images = [part["image"] for part in request.media if part["type"] == "image"]
            answer["text"] = checks.replacement(request.prompt, images, answer["text"], quality) or answer["text"]
            answer |= checks.shown(quality)
        return [answers[start : start + each] for start in range(0, len(answers), each)]

    def tensors(self, requests: list[Request]) -> dict[str, torch.Tensor]:
        conversations = [request.messages for request in requests]
        options = {"padding": len(requests) > 1, "padding_side": "left"}
        shared = {"add_generation_prompt": True, "return_tensors": "pt"}
        if self.processor is not None:
            inputs = self.processor.apply_chat_template(
                conversations, tokenize=True, return_dict=True, processor_kwargs=options, **shared
            )
        else:
            if self.tokenizer.chat_template is None:  # a model that only continues text
                conversations = [request.prompt for request in requests]
            inputs = tokenize_chats(self.tokenizer, conversations, **options, **shared)
        return {
            name: tensor.to(self.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def probabilities(self, output, new_tokens: torch.Tensor) -> list[float]:
        """Of each answer: the product of the probabilities of its tokens up to the one that ends it."""
        log_probabilities = self.model.compute_transition_scores(
            output.sequences, output.scores, output.get("beam_indices"), normalize_logits=True
        )  # (answers, tokens)
        ends = self.model.generation_config.eos_token_id
        lengths = torch.tensor(answer_lengths(new_tokens, ends), device=new_tokens.device)
        is_over = torch.arange(new_tokens.shape[1], device=new_tokens.device) >= lengths[:, None]
        return log_probabilities.masked_fill(is_over, 0.0).sum(-1).exp().tolist()


class MMGPTTextPipeline(MMGPTTaskPipeline):
    """A text in, a text out. For a text, a list with its answer; for a list of texts, a list with an answer for each."""

    kind: str  # the task

    def ask(self, inputs, prompt=None, **options):
        if not isinstance(inputs, str):
            raise ValueError(f"{self.kind} takes a text or a list of texts, but one is a {type(inputs).__name__}.")
        yield Request(self.fill(prompt, self.kind, text=inputs, **options))

    def __call__(self, inputs, **kwargs):
        results = super().__call__(inputs, **kwargs)
        flat = isinstance(inputs, list) and all(len(answers) == 1 for answers in results)
        return [answers[0] for answers in results] if flat else results


class MMGPTSummarizationPipeline(MMGPTTextPipeline):
    kind, key = "summarization", "summary_text"


class MMGPTTranslationPipeline(MMGPTTextPipeline):
    """`src_lang` and `tgt_lang` fill the prompt's places of these names."""

    kind, key = "translation", "translation_text"
    options = ("src_lang", "tgt_lang")


class MMGPTQuestionAnsweringPipeline(MMGPTTaskPipeline):
    """`question=` and `context=`, each a text or a list, or dictionaries of the two. `start` and `end` say where the answer
    is in the context; they are `None` where it is not, since the model answers in its own words."""

    scored = True

    def ask(self, inputs, prompt=None):
        require("question-answering", inputs, "question", "context")
        text = self.fill(prompt, "question-answering", question=inputs["question"], context=inputs["context"])
        yield Request(text, about={"context": inputs["context"]})

    def postprocess(self, outputs):
        context = outputs[0]["request"].about["context"]
        answers = []
        for answer in outputs[0]["answers"]:
            start = context.lower().find(answer["text"].lower()) if answer["text"] else -1
            place = (start, start + len(answer["text"])) if start >= 0 else (None, None)
            text = answer.pop("text")
            answers.append({**answer, "start": place[0], "end": place[1], "answer": text})
        return answers[0] if len(answers) == 1 else answers

    def __call__(self, inputs=None, question=None, context=None, **kwargs):
        return super().__call__(paired(inputs, question=question, context=context), **kwargs)


class MMGPTVisualQuestionAnsweringPipeline(MMGPTTaskPipeline):
    """`image=` and `question=`, each one or a list, or dictionaries of the two. `top_k` answers by beam search."""

    key, scored = "answer", True

    def _sanitize_parameters(self, top_k=None, **kwargs):
        if top_k is not None and top_k > 1:
            # Without a length penalty the beams come in the order of their probabilities.
            kwargs.update(num_beams=top_k, num_return_sequences=top_k, length_penalty=0.0)
        return super()._sanitize_parameters(**kwargs)

    def ask(self, inputs, prompt=None):
        require("visual-question-answering", inputs, "question", "image")
        text = self.fill(prompt, "visual-question-answering", question=inputs["question"])
        yield Request(text, [self.image_part(inputs["image"])])

    def __call__(self, image=None, question=None, **kwargs):
        if question is None:  # a dictionary, a list of them, a data set
            return super().__call__(image, **kwargs)
        return super().__call__(paired(None, image=image, question=question), **kwargs)


class MMGPTImageToTextPipeline(MMGPTTaskPipeline):
    key = "generated_text"

    def ask(self, inputs, prompt=None):
        yield Request(self.fill(prompt, "image-to-text"), [self.image_part(inputs)])


class MMGPTSpeechRecognitionPipeline(MMGPTTaskPipeline):
    """A path, a URL, bytes, a waveform at the model's rate, or `{"raw" or "array", "sampling_rate"}`.

    Audio longer than `chunk_length_s` seconds (by default: than what the model takes at once, if that is bounded) is transcribed
    in pieces. It is cut where it is quietest within the last `stride_length_s` seconds of a piece (by default a sixth of it),
    so that no word is transcribed twice and few are cut. With `return_timestamps=True`, `chunks` has the times: of each phrase if
    the checkpoint was trained for that, else of each piece.
    """

    options = ("chunk_length_s", "stride_length_s", "return_timestamps")

    def ask(self, inputs, prompt=None, chunk_length_s=None, stride_length_s=None, return_timestamps=False):
        extractor = self.processor.feature_extractor
        rate = extractor.sampling_rate
        if isinstance(inputs, dict) and "raw" in inputs:
            inputs = {"array": inputs["raw"], "sampling_rate": inputs["sampling_rate"]}
        waveform = self.processor.load_medium("audio", inputs, "the audio")
        if chunk_length_s is None and self.processor.fixed_audio_window:
            chunk_length_s = extractor.chunk_length
        length = round(chunk_length_s * rate) if chunk_length_s else len(waveform)
        stride = length // 6 if stride_length_s is None else round(stride_length_s * rate)
        if not 0 <= stride < length:
            raise ValueError(f"stride_length_s={stride_length_s} must be less than chunk_length_s={chunk_length_s}.")
        timed = return_timestamps and TIMESTAMPS in self.processor.prompts
        text = self.fill(prompt, TIMESTAMPS if timed else "automatic-speech-recognition")
        for start, end in pieces(waveform, length, stride, window=max(1, rate // 50)):
            about = {"start": start / rate, "end": end / rate, "timed": timed, "timestamps": bool(return_timestamps)}
            yield Request(text, [{"type": "audio", "audio": waveform[start:end]}], about)

    def postprocess(self, outputs):
        chunks = []
        for output in outputs:
            about, text = output["request"].about, output["answers"][0]["text"]
            if about["timed"]:
                chunks += timed_phrases(text, about["start"], about["end"])
            else:
                chunks.append({"text": text, "timestamp": (about["start"], about["end"])})
        result = {"text": " ".join(chunk["text"] for chunk in chunks if chunk["text"])}
        measured = [{key: value for key, value in one["answers"][0].items() if key != "text"} for one in outputs]
        result |= min(
            measured, key=lambda quality: quality.get("confidence", 1.0)
        )  # of the piece that it was least sure of
        return {**result, "chunks": chunks} if outputs[0]["request"].about["timestamps"] else result


def require(task: str, inputs, *names: str) -> None:
    """Refuses an input that is not a dictionary with something under each name."""
    if not isinstance(inputs, dict):
        raise ValueError(f"{task} takes {' and '.join(names)}, but was given a {type(inputs).__name__} alone.")
    for name in names:
        if inputs.get(name) is None or (isinstance(inputs[name], str) and not inputs[name]):
            raise ValueError(f"{task} takes {' and '.join(names)}, but {name} is {inputs.get(name)!r}.")


def with_tokenizer(given: dict) -> dict:
    """What a pipeline is built of, with the tokenizer of a processor that came without one. transformers would take the feature
    extractor out of it too, and then refuse batches, since the two pad on different sides."""
    processor, tokenizer = given.get("processor"), given.get("tokenizer")
    if tokenizer is None and processor is None:
        raise ValueError(
            "A pipeline needs the processor of its model: give `processor=`, or for text alone `tokenizer=`."
        )
    return {**given, "tokenizer": processor.tokenizer if tokenizer is None else tokenizer}


def paired(inputs, **named):
    """Dictionaries of what is named: one, or a list of them where one or the other is a list. Given `inputs` stay as they are."""
    if inputs is not None:
        return inputs
    lengths = {len(value) for value in named.values() if isinstance(value, list)}
    if not lengths:
        return named
    if len(lengths) > 1:
        raise ValueError(f"{' and '.join(named)} are lists of different lengths: {sorted(lengths)}.")
    length = lengths.pop()
    columns = [value if isinstance(value, list) else [value] * length for value in named.values()]
    return [dict(zip(named, values, strict=True)) for values in zip(*columns, strict=True)]


def pieces(waveform: np.ndarray, length: int, stride: int, window: int) -> list[tuple[int, int]]:
    """(start, end) of consecutive pieces of up to `length` samples, each ending where `window` samples are quietest among the
    last `stride` of it."""
    spans, start = [], 0
    while len(waveform) - start > length:
        last = waveform[start + length - stride : start + length]
        end = start + length
        if len(last) > window:
            energy = np.convolve(last.astype(np.float64) ** 2, np.ones(window), mode="valid")
            quietest = len(energy) - 1 - int(energy[::-1].argmin())  # the last of several
            end = start + length - stride + quietest + window // 2
        spans.append((start, end))
        start = end
    return [*spans, (start, len(waveform))]


def timed_phrases(text: str, start: float, end: float) -> list[dict]:
    """The phrases of "<|0.00|> words<|1.20|>", timed from `start`, as Whisper's are (Radford et al. 2022, section 2.3). A phrase
    that was not closed lasts to `end`."""
    parts = re.split(r"<\|(\d+(?:\.\d+)?)\|>", text)  # words, time, words, time, ...
    phrases = []
    for place in range(0, len(parts), 2):
        words = parts[place].strip()
        if words:
            began = start + float(parts[place - 1]) if place else start
            ended = start + float(parts[place + 1]) if place + 1 < len(parts) else end
            phrases.append({"text": words, "timestamp": (began, ended)})
    return phrases


class ProcessorBatchingMixin:
    """Batches of transformers' own multimodal pipelines, made by the processor.

    They pad samples that are tensors already, and refuse when text is padded on the left (as generation needs) and audio on the
    right (as a feature extractor does). Here a sample waits as it came, and the batch goes through their `preprocess` at once."""

    _load_tokenizer = None  # without one, transformers makes no batches; only its being there counts
    chat_class: type  # as the task's own `postprocess` knows it

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **with_tokenizer(kwargs))

    def preprocess(self, inputs=None, **options):
        messages = getattr(inputs, "messages", inputs)
        if isinstance(messages, (list, tuple)) and all(isinstance(one, dict) and "role" in one for one in messages):
            inputs = self.chat_class(messages)  # those of a data set or a generator come as they are
        return {"waiting": SimpleNamespace(inputs=inputs, options=options)}  # a dictionary would be taken apart

    def _sanitize_parameters(self, **kwargs):
        checks = Checks.taken_from(kwargs)
        before, generating, after = super()._sanitize_parameters(**kwargs)
        return before, {**generating, **checks}, after

    def _forward(self, model_inputs, generate_kwargs=None, **kwargs):
        checks, settings = Checks(**Checks.taken_from(kwargs)), dict(generate_kwargs or {})
        recorder = checks.record(settings, settings.get("generation_config") or self.model.generation_config)
        waiting = model_inputs["waiting"]
        waiting = waiting if isinstance(waiting, list) else [waiting]
        inputs, options = [one.inputs for one in waiting], dict(waiting[0].options)
        if all(hasattr(one, "messages") for one in inputs):
            prepared = self.chats(inputs, options)
        else:
            prepared = super().preprocess(self.merged(inputs), **options)
        outputs = super()._forward(prepared.to(self.device), generate_kwargs=settings, **kwargs)
        if checks != Checks():
            self.check(inputs, outputs, checks, recorder)
        return outputs

    def check(self, inputs: list, outputs: dict, checks: Checks, recorder: QualityRecorder | None) -> None:
        """Puts sentences in the place of answers in `outputs`, and adds what is shown of their quality."""
        sequences, length = outputs["generated_sequence"], outputs["input_ids"].shape[1]
        rows = sequences.reshape(-1, sequences.shape[-1])
        texts = self.tokenizer.batch_decode(rows[:, length:], skip_special_tokens=True)
        ends = self.model.generation_config.eos_token_id
        qualities = [None] * len(rows) if recorder is None else recorder.measure(rows[:, length:], ends)
        each = len(rows) // len(inputs)
        questions = [self.question(one) if checks.guard else ("", []) for one in inputs]
        kept = []
        for index, (row, text, quality) in enumerate(zip(rows, texts, qualities, strict=True)):
            sentence = checks.replacement(*questions[index // each], text.strip(), quality)
            words = [] if sentence is None else self.tokenizer(sentence, add_special_tokens=False)["input_ids"]
            kept.append(row if sentence is None else torch.cat([row[:length], row.new_tensor(words)]))
        pad = self.tokenizer.pad_token_id or 0
        padded = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=pad)
        outputs["generated_sequence"] = padded.reshape(*sequences.shape[:-1], -1)
        shown = [checks.shown(quality) for quality in qualities]
        outputs["quality"] = [shown[start : start + each] for start in range(0, len(shown), each)]

    def question(self, asked) -> tuple[str, list]:
        """The text and the images of an input, for a guard."""
        if isinstance(asked, str):
            return asked, []
        if not hasattr(asked, "messages"):
            texts, images = as_list(asked.get("text")), as_list(asked.get("images"))
        else:
            contents = [message["content"] for message in asked.messages]
            texts = [content for content in contents if isinstance(content, str)]
            parts = [part for content in contents if not isinstance(content, str) for part in content]
            texts += [part["text"] for part in parts if part["type"] == "text"]
            pictures = [part for part in parts if part["type"] == "image"]
            images = [
                next(part[key] for key in ("image", "url", "path", "base64") if key in part) for part in pictures
            ]
        return "\n".join(texts), [self.processor.load_medium("image", one, "the image") for one in images]

    def postprocess(self, model_outputs, **kwargs):
        records = super().postprocess(model_outputs, **kwargs)
        several = model_outputs.get("quality") or []  # out of a batch those of this input, else of each input
        qualities = several if several and isinstance(several[0], dict) else [one for own in several for one in own]
        return [record | quality for record, quality in zip(records, qualities, strict=True)] if qualities else records

    def chats(self, chats: list, options: dict):
        """Conversations as one batch; all are answered, or the last words of all are continued."""
        continued = {chat.messages[-1]["role"] == "assistant" for chat in chats}
        if len(continued) > 1:
            raise ValueError(
                "Some conversations end with the assistant and some do not: give these apart, or batch_size=1."
            )
        options.setdefault("continue_final_message", continued.pop())
        options["processor_kwargs"] = {"padding": len(chats) > 1, **(options.get("processor_kwargs") or {})}
        batch = copy.copy(chats[0])
        batch.messages = [chat.messages for chat in chats]
        prepared = super().preprocess(batch, **options)
        prepared["text"] = chats
        return prepared

    def merged(self, inputs: list):
        """Samples of text, or of text and media, as one sample with lists. Audio is opened: transformers would need torchcodec."""
        if all(isinstance(one, str) for one in inputs):
            return inputs
        if len(inputs) > 1 or isinstance(inputs[0], str):
            inputs = [{"text": one} if isinstance(one, str) else one for one in inputs]
            merged = {"text": [one["text"] for one in inputs]}
            for name in {key for one in inputs for key in one if key != "text"}:
                listed = [as_list(one.get(name)) for one in inputs]
                merged[name] = listed if name == "images" else [item for items in listed for item in items]
            inputs = [{name: value for name, value in merged.items() if any(value)}]
        if not isinstance(inputs[0], dict) or inputs[0].get("audio") is None:
            return inputs[0]
        load, clips = self.processor.load_medium, as_list(inputs[0]["audio"])
        return {**inputs[0], "audio": [load("audio", clip, f"audio {i}") for i, clip in enumerate(clips)]}


def as_list(value) -> list:
    """`value`, or what is in it."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


class MMGPTAnyToAnyPipeline(ProcessorBatchingMixin, AnyToAnyPipeline):
    chat_class = any_to_any.Chat

    def __init__(self, *args, **kwargs):
        # Past AnyToAnyPipeline's own, which (in transformers 5.17) demands librosa of all models with audio: soundfile opens ours.
        super(AnyToAnyPipeline, self).__init__(*args, **with_tokenizer(kwargs))


class MMGPTImageTextToTextPipeline(ProcessorBatchingMixin, ImageTextToTextPipeline):
    chat_class = image_text_to_text.Chat
