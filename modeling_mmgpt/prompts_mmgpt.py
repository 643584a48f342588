"""What a model is asked, task by task. The names in braces are filled in; a picture or a sound comes before the text.

A model knows the words it was trained on: a checkpoint carries its own prompts in processor_config.json, and these stand in
for those it does not name.
"""

DEFAULT_PROMPTS = {
    "summarization": "Summarise: {text}",
    "translation": "Translate into {tgt_lang}: {text}",
    "question-answering": "{context} {question}",
    "visual-question-answering": "{question}",
    "image-to-text": "Describe the picture.",
    "automatic-speech-recognition": "Transcribe the recording.",
}

# A checkpoint that names this one was trained to answer it as Whisper does: "<|0.00|> words<|1.20|>", in seconds.
TIMESTAMPS = "automatic-speech-recognition/timestamps"


def check_prompts(prompts: dict[str, str]) -> None:
    """Refuses tasks that there are not, and prompts that leave no place for what they are about."""
    unknown = prompts.keys() - DEFAULT_PROMPTS.keys() - {TIMESTAMPS}
    if unknown:
        raise ValueError(f"prompts has no task {sorted(unknown)}: it takes {[*DEFAULT_PROMPTS, TIMESTAMPS]}.")
    needed = {"summarization": ["text"], "translation": ["text"], "question-answering": ["context", "question"]}
    for task, prompt in prompts.items():
        missing = [name for name in needed.get(task, []) if f"{{{name}}}" not in prompt]
        if missing:
            raise ValueError(f"The prompt of {task} is {prompt!r}: it lacks {{{missing[0]}}}.")


def fill_prompt(task: str, prompt: str, fields: dict[str, str]) -> str:
    """`prompt` with its names filled in from `fields`."""
    try:
        return prompt.format_map(fields)
    except KeyError as error:
        name = error.args[0]
        raise ValueError(f"The prompt of {task} is {prompt!r}: give {name}=... with the input.") from None


__all__ = ["DEFAULT_PROMPTS", "TIMESTAMPS", "check_prompts", "fill_prompt"]
