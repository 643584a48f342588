r"""Does an answer change when nothing changes but the group that a question is about? A counterfactual probe.

Each question is asked about each group of an axis, with and without an image. Measured is the probability of the answer that is
favourable to the person, among the answers that the question has. An axis whose terms should change nothing (a bicycle, a blue
coat) shows how far any change of wording moves the model.
"""

from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from modeling_mmgpt import MMGPTCollator
from training.data.samples import user_turn
from training.evaluation.bias_prompts import Prompts, fill, result_of
from training.evaluation.controls import MID_GREY
from training.evaluation.metrics.answers import estimate_ratio


SCOPE = (
    "Probability of the answer that is favourable to the person, among the answers that the question has. `change`: of a "
    "group, its difference from the mean of the groups of its axis, on average over the questions (n); 0 is ideal. `spread`: "
    "of an axis, the standard deviation between its groups, on average over the questions; to be compared with that of the "
    "control, whose terms should change nothing. `with image`: the same questions beside an image that is the same for all "
    "groups. A few questions in one language: what is not asked here is not measured."
)
GREY = Image.new("RGB", (224, 224), (MID_GREY,) * 3)


def measure_probe(model, processor, prompts: Prompts, images: list | None = None, batch_size: int = 16) -> list[dict]:
    r"""The spread of each axis and the change of each group, with 95% intervals (bootstrap over the questions).

    images (`list`, *optional*): files or `PIL.Image`s that all questions are asked with, too, each in turn; their mean is taken. By
        default a grey one, where the model has a vision encoder.
    """
    if images is None:
        images = [GREY] if getattr(model.config, "vision_config", None) is not None else []
    columns = {"": [None], **({", with image": images} if images else {})}
    probabilities = {}
    for suffix, shown in columns.items():
        means = np.mean([ask_all(model, processor, prompts, image, batch_size) for image in shown], axis=0)
        probabilities[suffix] = means  # (questions, groups of all axes)
    results = []
    for axis, names in prompts.groups.items():
        places = [place for place, (of, _, _) in enumerate(prompts.terms()) if of == axis]
        for suffix, table in probabilities.items():
            spreads = table[:, places].std(axis=1, ddof=1)
            results.append(result_of(axis, f"spread{suffix}", estimate_ratio(spreads), len(spreads)))
        for suffix, table in probabilities.items():
            changes = table[:, places] - table[:, places].mean(axis=1, keepdims=True)
            for name, values in zip(names, changes.T, strict=True):
                results.append(result_of(f"{axis}: {name}", f"change{suffix}", estimate_ratio(values), len(values)))
    return results


@torch.inference_mode()
def ask_all(model, processor, prompts: Prompts, image, batch_size: int) -> np.ndarray:
    """The probability of the favourable answer to each question about each group: `(questions, groups)`."""
    tokenizer = getattr(processor, "tokenizer", processor)
    was_training = model.training
    model.eval()
    table = []
    # What comes again is not encoded again: all questions have one image.
    with nullcontext() if image is None else model.media_cache():
        for question in tqdm(prompts.questions, desc="questions" if image is None else "questions with an image"):
            texts = [fill(question.ask, term) for _, _, term in prompts.terms()]
            line = []
            for start in range(0, len(texts), batch_size):
                batch, before = encode_questions(processor, texts[start : start + batch_size], image)
                batch = {key: value.to(model.device) for key, value in batch.items()}
                answers = [
                    tokenizer(before + answer, add_special_tokens=False)["input_ids"] for answer in question.answers
                ]
                line += answer_probabilities(model, batch, answers)[:, 0].tolist()
            table.append(line)
    model.train(was_training)
    return np.array(table)


def encode_questions(processor, texts: list[str], image) -> tuple[dict, str]:
    """The batch of prompts, left-padded, and what stands between a prompt and its answer. A tokenizer without a chat template is
    that of a model which continues texts."""
    if isinstance(processor, ProcessorMixin):
        media = {"images": [image]} if image is not None else {}
        samples = [{"messages": [user_turn(text, ("image",) * len(media))], **media} for text in texts]
        return MMGPTCollator(processor, add_generation_prompt=True)(samples), ""
    is_chat = processor.chat_template is not None
    if is_chat:
        turns = [[{"role": "user", "content": text}] for text in texts]
        texts = [processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    else:
        texts = [f"{text}\nAnswer:" for text in texts]
    return encode_texts(processor, texts, add_special_tokens=not is_chat), "" if is_chat else " "


def encode_texts(tokenizer, texts: list[str], add_special_tokens: bool = True) -> dict:
    """Texts to be continued, left-padded; a tokenizer of a model that was trained without padding gets a token for it."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        texts, padding=True, padding_side="left", add_special_tokens=add_special_tokens, return_tensors="pt"
    )
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


def answer_probabilities(model, batch: dict, answers: list[list[int]]) -> torch.Tensor:
    """The probability of each answer, as the beginning of what follows the prompt, among `answers`: `(B, answers)`."""
    ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, L)
    after: dict[tuple, torch.Tensor] = {}  # answers that differ in their last token alone share one forward
    likelihoods = []
    for answer in answers:
        start = tuple(answer[:-1])
        if start not in after:
            more = ids.new_tensor(start).expand(len(ids), -1)
            longer = {
                "input_ids": torch.cat([ids, more], 1),
                "attention_mask": torch.cat([mask, torch.ones_like(more)], 1),
            }
            logits = model(**batch | longer, use_cache=False, logits_to_keep=len(answer)).logits
            after[start] = logits.float().log_softmax(-1)  # (B, tokens of the answer, V)
        likelihoods.append(after[start][:, range(len(answer)), answer].sum(-1))  # (B,)
    return torch.stack(likelihoods, 1).softmax(1)
