r"""Words of any language, for metrics and for cleaning.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words: each of their characters, with its vowel
signs and tone marks, counts as a word, as is usual where no dictionary is at hand. Other scripts, Korean among them, keep the words
that their writers set apart. What is written in Latin letters is cut as it always was.

One text has several spellings in Unicode, which look the same: they are made one before words are compared.
"""

from unicodedata import east_asian_width, normalize

import regex


UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー々〆\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A mark such as a Hindi vowel sign is part of its word: Python's own \w leaves it out. So is the joiner inside Persian words.
LETTER = r"\w\p{N}"
WORD = rf"[[{LETTER}]&&[{UNSPACED}]]\p{{M}}*|[[{LETTER}]--[{UNSPACED}]]+"
WORDS = regex.compile(WORD, regex.V1)
WORDS_WITH_APOSTROPHE = regex.compile(rf"{WORD}(?:['’][[{LETTER}]--[{UNSPACED}]]+)?", regex.V1)
PIECES = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+", regex.V1)
GAPS = regex.compile(rf"(?<=[{UNSPACED}]\p{{M}}*)\s+(?=[{UNSPACED}])", regex.V1)
# Letters of words that blanks set apart: with the punctuation of ASCII, and with any.
EUROPEAN = regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]")
SPACED = regex.compile(rf"[\p{{L}}--[{UNSPACED}]]", regex.V1)
LETTERS = regex.compile(r"\p{L}")
ALPHABETS_WITHOUT_BLANKS = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
UNSPACED_CHARACTER = regex.compile(rf"[{UNSPACED}]", regex.V1)
# The same to a reader: marks of direction, chances to break a line, and the widths in which East Asia writes one letter. What joins
# letters (U+200C, U+200D) is spelling.
INVISIBLE = regex.compile(r"[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
WIDTHS = regex.compile(r"[\u3000\uff01-\uffdc]+")
# How many characters make a word on average, where each is counted as one.
CHARACTERS_OF_A_WORD, LETTERS_OF_A_WORD = 2, 4


def composed(text: str) -> str:
    """The text with letters and their marks composed (NFC), without the invisible."""
    return normalize("NFC", INVISIBLE.sub("", text))


def folded(text: str) -> str:
    """The text for a comparison of words: composed, in lower case, full-width and half-width letters as the usual ones."""
    return composed(WIDTHS.sub(lambda wide: normalize("NFKC", wide[0]), text)).lower()


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return WORDS.findall(folded(text))


def split_words(text: str) -> list[str]:
    """As `str.split`, with each character of a script without blanks by itself; punctuation stays where it is."""
    return PIECES.findall(text)


def join_unspaced(text: str) -> str:
    """The text without the blanks between characters of a script that has none."""
    return GAPS.sub("", text)


def scaled(words: list[str], count: int) -> int:
    """How many of these words say as much as `count` words that blanks set apart: by the script that most of them are in."""
    letters = sum(1 for word in words if ALPHABETS_WITHOUT_BLANKS.match(word))
    characters = sum(1 for word in words if UNSPACED_CHARACTER.match(word)) - letters
    if max(letters, characters) * 2 <= len(words):
        return count
    return count * (LETTERS_OF_A_WORD if letters > characters else CHARACTERS_OF_A_WORD)


def is_mostly(letters: regex.Pattern, text: str) -> bool:
    """Whether most letters of the text are such letters, or there are none."""
    return len(letters.findall(text)) * 2 >= len(LETTERS.findall(text))


def written_length(text: str) -> int:
    """Characters, the wide ones of East Asia counted twice: one of them says as much as several Latin letters."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in composed(text))


def language_code(name: str) -> str:
    """The language of a code such as `zh` or `zh-Hans`: `zh`."""
    code = regex.split("[-_]", name)[0].lower()
    if not regex.fullmatch("[a-z]{2,3}", code):
        raise ValueError(f"{name!r} is no code of a language: write that of ISO 639, such as en, zh, ja or ar.")
    return code
