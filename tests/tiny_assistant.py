"""A tiny model that has memorised a dozen answers, so that what a pipeline or a server returns can be right or wrong."""

from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
import torch

from modeling_mmgpt import MMGPTCollator, MMGPTProcessor, save_checkpoint
from tests.conftest import byte_tokenizer, make_model, make_processor, make_sample


RATE = 16000
PROMPTS = {
    "translation": "In {tgt_lang}: {text}",
    "automatic-speech-recognition": "Heard?",
    "automatic-speech-recognition/timestamps": "Heard when?",
}
TEXTS = {
    "Summarise: A cat sat there.": "cat sat",
    "Summarise: The dog ran and ran to the sea.": "dog ran",
    "In French: cat": "chat",
    "In French: the dog": "le chien",
    "Ann has tea. Bo has ale. Who has tea?": "Ann",
    "Ann has tea. Bo has ale. Who has ale?": "Bo",
    "Once": "upon",
}
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
PITCHES = {"low": 300, "high": 3000, "neither low nor high but between": 1000}  # one longer than 20 tokens


def square(colour: str) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (24, 20), COLOURS[colour])


def tone(word: str, seconds: float = 0.3) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * PITCHES[word] * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def lessons() -> list[dict]:
    samples = [make_sample(question, answer) for question, answer in TEXTS.items()]
    for colour in COLOURS:
        samples.append(make_sample("Colour?", colour, images=[square(colour)]))
        samples.append(make_sample("Describe the picture.", f"a {colour} one", images=[square(colour)]))
    for first, second in (("red", "blue"), ("blue", "red")):
        images = [square(first), square(second)]
        samples.append(make_sample("Colours?", f"{first} {second}", images=images))
        turns = [make_sample("Colour?", colour, images=[square(colour)])["messages"] for colour in (first, second)]
        samples.append({"messages": turns[0] + turns[1], "images": images, "audios": [], "videos": []})
    for word in PITCHES:
        for before, after in ((0.0, 0.0), (0.0, 0.1), (0.01, 0.08), (0.02, 0.1)):
            silence = (int(before * RATE), int(after * RATE))
            audio = {"array": np.pad(tone(word), silence), "sampling_rate": RATE}
            samples.append(make_sample("Heard?", word, audios=[audio]))
            samples.append(make_sample("Heard when?", f"<|0.00|> {word}<|0.30|>", audios=[audio]))
    return samples


def teach_assistant(folder: Path) -> Path:
    """The assistant as a saved folder."""
    model = make_model(text={"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256})
    built = make_processor(model.config, byte_tokenizer())
    processor = MMGPTProcessor.from_config(
        model.config,
        built.tokenizer,
        image_processor=built.image_processor,
        feature_extractor=built.feature_extractor,
        prompts=PROMPTS,
    )
    # The bound of transcripts, which `transformers serve` would set to 20 tokens.
    model.generation_config.update(eos_token_id=3, pad_token_id=1, max_new_tokens=48)
    batch = MMGPTCollator(processor)(lessons())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(400):
        loss = model(**batch).loss
        if loss < 0.01:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05, f"the tiny assistant has not learnt its answers: loss {loss:.3f}"
    return save_checkpoint(folder, model.eval(), processor)


def write_media(folder: Path) -> None:
    PIL.Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")  # 100 megapixels in 12 KB
    for colour in COLOURS:
        square(colour).save(folder / f"{colour}.png")
    for word in PITCHES:
        soundfile.write(folder / f"{word}.wav", tone(word), RATE)
