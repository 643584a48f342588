r"""The words that formats bring themselves, by language: the option `language: zh` of a source takes the Chinese ones.

Formats whose prompt a recipe writes have no words of their own. A language is added here alone.
"""

from training.data.samples import NO_ANSWER
from training.data.words import language_code


# What a format asks; of "extractive_qa", whose question is the record's, the answer where a text does not hold one.
WORDS = {
    "en": {
        "captions": "Describe the picture.",
        "asr": "Transcribe the speech.",
        "translation": "Translate {source} to {target}: {text}",
        "summarization": "Summarise:\n{document}",
        "extractive_qa": NO_ANSWER,
    },
    "de": {
        "captions": "Beschreibe das Bild.",
        "asr": "Schreibe auf, was gesagt wird.",
        "translation": "Übersetze von {source} nach {target}: {text}",
        "summarization": "Fasse zusammen:\n{document}",
        "extractive_qa": "nicht beantwortbar",
    },
    "zh": {
        "captions": "描述这张图片。",
        "asr": "转写这段语音。",
        "translation": "把 {source} 译成 {target}：{text}",
        "summarization": "概括：\n{document}",
        "extractive_qa": "无法回答",
    },
    "ja": {
        "captions": "この画像を説明してください。",
        "asr": "音声を書き起こしてください。",
        "translation": "{source} から {target} に翻訳：{text}",
        "summarization": "要約：\n{document}",
        "extractive_qa": "回答不能",
    },
    "ko": {
        "captions": "이 그림을 설명하세요.",
        "asr": "음성을 받아쓰세요.",
        "translation": "{source}에서 {target}(으)로 번역: {text}",
        "summarization": "요약:\n{document}",
        "extractive_qa": "답할 수 없음",
    },
    "th": {
        "captions": "อธิบายภาพนี้",
        "asr": "ถอดเสียงเป็นข้อความ",
        "translation": "แปล {source} เป็น {target}: {text}",
        "summarization": "สรุป:\n{document}",
        "extractive_qa": "ตอบไม่ได้",
    },
    "ar": {
        "captions": "صف هذه الصورة.",
        "asr": "اكتب ما يقال.",
        "translation": "ترجم من {source} إلى {target}: {text}",
        "summarization": "لخص:\n{document}",
        "extractive_qa": "لا توجد إجابة",
    },
    "hi": {
        "captions": "इस चित्र का वर्णन करें।",
        "asr": "बोले गए शब्द लिखें।",
        "translation": "{source} से {target} में अनुवाद करें: {text}",
        "summarization": "सारांश लिखें:\n{document}",
        "extractive_qa": "उत्तर नहीं है",
    },
}
NO_ANSWERS = {language: words["extractive_qa"] for language, words in WORDS.items()}


def in_language(name: str, language: str) -> dict[str, str]:
    """The options of the format `name` that are words, in a language by its code."""
    words = WORDS.get(language_code(language))
    if words is None:
        raise ValueError(
            f"format {name} has no words of its own in the language {language!r}, but in {', '.join(sorted(WORDS))}: leave "
            f"`language` out and write `{option_of(name)}`."
        )
    return {option_of(name): words[name]}


def option_of(name: str) -> str:
    return "no_answer" if name == "extractive_qa" else "prompt"
