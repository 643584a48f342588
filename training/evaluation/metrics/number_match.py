"""Number match: the share of answers whose last number is the right one (GSM8K, Cobbe et al. 2021, section 2)."""

import re
from decimal import Decimal

from training.evaluation.metrics.answers import AnswerMetric, estimate_share
from training.evaluation.metrics.final_answer import final_answer


# A number of which a part is in words, such as 3万, is none: its digits alone are another one.
NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)[万萬亿億만억]?")
# In digits of any script; Arabic and full-width signs as those of ASCII.
SIGNS = str.maketrans("٫٬，．－−", ".,,.--")
SWAPPED = str.maketrans(",.", ".,")
# Languages that write 1.000,5 for a thousand and a half; where they set blanks between thousands, only narrow ones are read.
DECIMAL_COMMA = (
    "af", "az", "be", "bg", "bs", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "hy", "id", "is", "it",
    "ka", "kk", "lb", "lt", "lv", "mk", "nb", "nl", "nn", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "tr", "uk",
    "uz", "vi",
)  # fmt: skip
NARROW_BLANKS = re.compile(r"(?<=\d)[\u00a0\u202f](?=\d{3})")


def last_number(text: str, language: str | None = None) -> Decimal | None:
    """The last number after the last mark, or of the whole text where there is none; `1,000.0` and `1000` are the same."""
    answer = final_answer(text).translate(SIGNS)
    if language in DECIMAL_COMMA:
        answer = NARROW_BLANKS.sub("", answer).translate(SWAPPED)
    found = NUMBER.findall(answer)
    return Decimal(found[-1].replace(",", "")) if found and found[-1][-1].isdecimal() else None


class NumberMatch(AnswerMetric):
    """{"number_match": share, "low": share, "high": share, "n": count}, low and high bounding the 95% interval (Wilson)."""

    measure = "number_match"
    about = ("share whose last number after `####` is right", "GSM8K", "own")
    interval = staticmethod(estimate_share)

    def check_references(self, references: list[list[str]]) -> None:
        """Numbers in words (`three`, `三十`, `3万`) are not read: such a reference could never be met."""
        for right in references:
            if not any(last_number(one, self.language) is not None for one in right):
                raise ValueError(
                    f"number_match reads digits, but the last number of {right[0][-40:]!r} is not in digits: write the reference "
                    "in digits, or judge by `final_answer`."
                )

    def score_samples(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """An answer without a number is wrong."""
        numbers = [last_number(one, self.language) for one in predictions]
        targets = [{last_number(one, self.language) for one in right} for right in references]
        return [float(number in right - {None}) for number, right in zip(numbers, targets, strict=True)]
