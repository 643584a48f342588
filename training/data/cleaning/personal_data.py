r"""Personal data in texts, by patterns: found, so that a sample is left out, or masked.

    mask("Write to ann@example.org", KINDS)  # ("Write to [email]", ["email"])

Where a number has a check digit it has to be right, so that numbers of other kinds stay: cards (Luhn and their issuers' prefixes),
IBANs (ISO 7064), and the national ids of `NATIONAL_IDS`. Numbers without one, such as US social security numbers, are not looked for.
Patterns find what is written like personal data: no names, no addresses, and nothing that is spelt out.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple


class Found(NamedTuple):
    kind: str
    start: int
    end: int


def find(text: str, kinds: Collection[str]) -> list[Found]:
    """Where personal data of these kinds stand in the text, in order; no two overlap."""
    found: list[Found] = []
    for kind in KINDS:  # the surest first: digits of an IBAN are no phone number
        if kind not in kinds:
            continue
        pieces, end = [], 0
        for start, stop in sorted(FINDERS[kind](text)):
            if start >= end:
                found.append(Found(kind, start, stop))
                pieces += [text[end:start], "\0" * (stop - start)]
                end = stop
        text = "".join([*pieces, text[end:]])
    return sorted(found, key=lambda one: one.start)


def mask(text: str, kinds: Collection[str]) -> tuple[str, list[str]]:
    """The text with `[kind]` in the place of each, and the kinds of what stood there."""
    found, pieces, end = find(text, kinds), [], 0
    for one in found:
        pieces += [text[end : one.start], f"[{one.kind}]"]
        end = one.end
    return "".join([*pieces, text[end:]]), [one.kind for one in found]


def digits_of(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


# ---- check digits


def passes_luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def passes_verhoeff(digits: str) -> bool:
    """Verhoeff (1969): the digits in a walk through the dihedral group of the pentagon."""
    turn, permutation = 0, (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    for place, digit in enumerate(reversed(digits)):
        number = int(digit)
        for _ in range(place % 8):
            number = permutation[number]
        sign = 1 if turn < 5 else -1
        turn = (turn + sign * number) % 5 + 5 * ((turn < 5) != (number < 5))
    return turn == 0


def passes_mod_11_10(digits: str) -> bool:
    """ISO 7064."""
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def weighted(digits: str, weights: Collection[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def is_date(year: int, month: int, day: int) -> bool:
    try:
        return bool(datetime.date(year, month, day))
    except ValueError:
        return False


# ---- national ids: pattern, and whether the match is right


def is_belgian(text: str) -> bool:
    body, check = digits_of(text)[:9], int(digits_of(text)[9:])
    return check in (97 - int(body) % 97, 97 - int("2" + body) % 97)  # the second for those born since 2000


def is_brazilian(text: str) -> bool:
    digits = digits_of(text)
    checks = [weighted(digits[:length], range(length + 1, 1, -1)) * 10 % 11 % 10 for length in (9, 10)]
    return len(set(digits)) > 1 and checks == [int(digits[9]), int(digits[10])]


def is_chinese(text: str) -> bool:
    born = int(text[6:10]), int(text[10:12]), int(text[12:14])
    remainder = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(text[:17])) % 11
    return is_date(*born) and text[17].upper() == "10X98765432"[remainder]


def is_finnish(text: str) -> bool:
    born = 1900 + int(text[4:6]), int(text[2:4]), int(text[:2])
    return is_date(*born) and text[-1] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[7:10]) % 31]


def is_french(text: str) -> bool:
    digits = re.sub(r"\s", "", text).replace("2A", "19").replace("2B", "18")
    return 97 - int(digits[:13]) % 97 == int(digits[13:])


def is_german(text: str) -> bool:
    """Of the first ten digits exactly one comes twice or three times, which few other numbers of eleven digits have."""
    counts = sorted(map(text[:10].count, set(text[:10])), reverse=True)
    return counts[0] in (2, 3) and counts[1] == 1 and passes_mod_11_10(text)


def is_italian(text: str) -> bool:
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    values = [int(sign) if sign.isdecimal() else ord(sign) - ord("A") for sign in text[:15]]
    total = sum(odd[value] if place % 2 == 0 else value for place, value in enumerate(values))
    return chr(ord("A") + total % 26) == text[15]


def is_polish(text: str) -> bool:
    century, month = divmod(int(text[2:4]), 20)
    born = (1900, 2000, 2100, 2200, 1800)[century] + int(text[:2]), month, int(text[4:6])
    return is_date(*born) and weighted(text, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def is_spanish(text: str) -> bool:
    number = text[:-1].rstrip("-").replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def is_swedish(text: str) -> bool:
    digits = digits_of(text)[-10:]
    day = int(digits[4:6])
    return is_date(2000, int(digits[2:4]), day - 60 if day > 60 else day) and passes_luhn(digits)


def is_turkish(text: str) -> bool:
    digits = [int(digit) for digit in text]
    tenth = (7 * sum(digits[:9:2]) - sum(digits[1:8:2])) % 10
    return digits[9] == tenth and digits[10] == sum(digits[:10]) % 10


NATIONAL_IDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "Belgium": (r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", is_belgian),
    "Brazil": (r"\d{3}\.\d{3}\.\d{3}-\d\d", is_brazilian),
    "China": (r"[1-9]\d{16}[\dXx]", is_chinese),
    "Finland": (r"\d{6}[-+A]\d{3}[0-9A-FHJ-NPR-Y]", is_finnish),
    "France": (r"[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", is_french),
    "Germany": (r"[1-9]\d{10}", is_german),
    "India": (r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}", lambda text: passes_verhoeff(digits_of(text))),
    "Italy": (r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", is_italian),
    "Poland": (r"\d{11}", is_polish),
    "Spain": (r"(?:\d|[XYZ]-?)\d{7}-?[A-HJ-NP-TV-Z]", is_spanish),
    "Sweden": (r"(?:\d\d)?\d{6}[-+]\d{4}", is_swedish),
    "Turkey": (r"[1-9]\d{10}", is_turkish),
}


# ---- finders


EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}(?!(?:png|jpe?g|gif|webp|svg)\b)[A-Za-z]{2,24}\b"
)
# Characters of an IBAN, by country.
IBAN_LENGTHS = (
    "AD24 AE23 AT20 BE16 BG22 BR29 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GR27 HR21 HU28 IE22 IL23 IS26 IT27 "
    "LI21 LT20 LU20 LV21 MC27 MT31 NL18 NO15 PL28 PT25 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TR26 UA29"
)
IBAN_FORMS = (r"%s\d\d(?: ?[A-Z0-9]){%d}" % (one[:2], int(one[2:]) - 4) for one in IBAN_LENGTHS.split())  # noqa: UP031
IBAN = re.compile(rf"(?<!\w)(?:{'|'.join(IBAN_FORMS)})(?!\w)", re.ASCII)
CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
# Of Visa, Mastercard, American Express, Discover, JCB and Diners Club: first digits, and how many there are.
ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
IP_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"
)
# With the code of a country; as in North America; in groups behind a zero, as in much of Europe and Asia, but no date.
PHONE = re.compile(
    r"(?<![\w+])(?<!\d )(?:\+|00)[1-9]\d{0,14}(?:[ ./-]?\(\d{1,5}\)|[ ./-]\d{1,12}|(?<=\))\d{1,12}){0,6}(?!\w)"
    r"|(?<![\w.-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}(?![\w-])"
    r"|(?<![\w.,/-])(?<!\d )(?!\d\d?[-/.]\d\d?[-/.])(?:\(0[1-9]\d{0,4}\) ?|0[1-9]\d{0,4}[ /-])\d{2,8}(?:[ -]\d{2,8}){0,4}(?!\w)"
)
LAST_GROUP = re.compile(r"[ ./-]?\(?\d+\)?$")


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in IBAN.finditer(text):
        compact = match[0].replace(" ", "")
        if int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1:
            yield match.span()


def find_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        digits = digits_of(match[0])
        if ISSUERS.fullmatch(digits) and passes_luhn(digits):
            yield match.span()


def find_national_ids(text: str) -> Iterator[tuple[int, int]]:
    for pattern, is_right in NATIONAL_IDS.values():
        for match in re.finditer(rf"(?<![\w.-]){pattern}(?![\w-])", text, flags=re.ASCII):
            if is_right(match[0]):
                yield match.span()


def find_ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Public ones: those of home networks are everybody's."""
    for match in IP_ADDRESS.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if address.is_global and not address.is_reserved:
            yield match.span()


def find_phones(text: str) -> Iterator[tuple[int, int]]:
    """Of 9 to 15 digits (ITU-T E.164); numbers that stand behind one are no part of it."""
    for match in PHONE.finditer(text):
        number = match[0]
        while len(digits_of(number)) > 15:
            number = LAST_GROUP.sub("", number)
        if len(digits_of(number)) >= 9:
            yield match.start(), match.start() + len(number)


FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": lambda text: (match.span() for match in EMAIL.finditer(text)),
    "iban": find_ibans,
    "credit_card": find_cards,
    "national_id": find_national_ids,
    "ip_address": find_ip_addresses,
    "phone": find_phones,
}
KINDS = tuple(FINDERS)
