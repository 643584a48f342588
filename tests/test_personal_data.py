"""Personal data are found where they are, by pattern and check digit, and nothing else is."""

import re
import time

import pytest

from training.data.cleaning.personal_data import FINDERS, KINDS, NATIONAL_IDS, Found, find, mask


# Published examples.
IDS = {
    "Belgium": "85.07.30-033.28",
    "Brazil": "111.444.777-35",
    "China": "11010519491231002X",
    "Finland": "131052-308T",
    "France": "2 55 08 14 168 025 38",
    "Germany": "86095742719",
    "India": "2341 2341 2346",
    "Italy": "RSSMRA85T10A562S",
    "Poland": "44051401359",
    "Spain": "12345678Z",
    "Sweden": "670919-9530",
    "Turkey": "17291716060",
}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ann.lee+x@mail.example.co.uk", "email"),
        ("jürgen@example.org", "email"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("GB82WEST12345698765432", "iban"),
        ("NO93 8601 1117 947", "iban"),
        ("4111 1111 1111 1111", "credit_card"),
        ("5500-0000-0000-0004", "credit_card"),
        ("378282246310005", "credit_card"),
        ("X1234567L", "national_id"),
        ("8.8.8.8", "ip_address"),
        ("2001:4860:4860::8888", "ip_address"),
        ("+49 30 1234567", "phone"),
        ("+44 (0)20 7946 0958", "phone"),
        ("0044 20 7946 0958", "phone"),
        ("(415) 555-2671", "phone"),
        ("415-555-2671", "phone"),
        ("030 12345678", "phone"),
        ("0171/1234567", "phone"),
        ("(030) 12345678", "phone"),
        ("01 23 45 67 89", "phone"),
        *((number, "national_id") for number in IDS.values()),
    ],
)
def test_it_is_found_and_its_neighbours_are_left(text, kind):
    assert find(f"It is {text}, AND 12 more.", KINDS) == [Found(kind, 6, 6 + len(text))]
    assert mask(f"({text})", KINDS) == (f"([{kind}])", [kind])


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png and @user and x@y",
        "DE89 3704 0044 0532 0130 01",  # its check digits are wrong, as of the next ones
        "4111 1111 1111 1112",
        "1234 5678 9012 3452",  # right by Luhn, of no issuer
        "192.168.0.1, 127.0.0.1 and version 1.2.3.4.5 and 300.1.1.1",
        "12:30:45, std::vector, a::b",
        "2020-01-02, 01-02-2020 12:30, 01/02/2020",
        "1,000,000 and 3.14159 and 978-3-16-148410-0",
        "from 1914 to 1918, 1 2 3 4 5 6 7 8 9 10 11 12 13 14, 0123456789",
        "the quick brown fox",
    ],
)
def test_what_is_none_is_left(text):
    assert find(text, KINDS) == []


@pytest.mark.parametrize("country", NATIONAL_IDS)
def test_a_wrong_check_digit_is_no_id(country):
    """Of all the ids that differ in the last sign alone, only one is right (Aadhaar, for example, would find any slip)."""
    number, found = IDS[country], []
    signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if number[-1].isalpha() and country != "China" else "0123456789X"
    pattern, is_right = NATIONAL_IDS[country]
    for sign in signs:
        other = number[:-1] + sign
        if re.fullmatch(pattern, other) and is_right(other):
            found.append(other)
    assert found == [number]


def test_a_slip_in_any_digit_is_found_where_the_code_promises_it():
    _, is_right = NATIONAL_IDS["India"]
    number = IDS["India"]
    for place, digit in enumerate(number):
        others = [str((int(digit) + step) % 10) for step in range(1, 10)] if digit.isdecimal() else []
        assert not any(is_right(number[:place] + other + number[place + 1 :]) for other in others)
    assert not is_right("2341 2341 2364"), "two neighbours exchanged"


def test_the_surest_kind_wins_and_none_overlap():
    text = "DE89 3704 0044 0532 0130 00"
    assert [one.kind for one in find(text, KINDS)] == ["iban"]
    assert find(text, ["email"]) == []
    several = "a@b.org, 8.8.8.8; +49 30 1234567 2020 2021"
    assert mask(several, KINDS) == ("[email], [ip_address]; [phone] 2021", ["email", "ip_address", "phone"])


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "a.", "a@a.", "a:", "1.1.1.1.", "+1(1)", "01 ", "DE89 ", "+" + "1" * 28 + " "]
)
def test_no_text_takes_long(piece):
    """Patterns that backtrack would take minutes of a text that was made for it."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    for kind in KINDS:
        list(FINDERS[kind](text))
    assert time.process_time() - started < 5
