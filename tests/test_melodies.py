"""Synthesised melodies: held out as they should be, and every answer is true of the waveform."""

import io
import random

import numpy as np
import pytest
import soundfile

from tests.test_course import draw_samples, turns_of
from training.data.synthetic import melodies


def test_drawn_melodies_are_held_out_or_not():
    rng = random.Random(0)
    found = {False: set(), True: set()}
    for kind in ("notes", "glide"):
        for held_out in (False, True) * 500:
            melody = melodies.draw_melody(rng, kind, held_out)
            assert (melody.kind, melodies.is_held_out(melody)) == (kind, held_out)
            assert melody.semitone in melodies.SEMITONES[melody.register]
            found[held_out].add((melody.instrument, melody.what, melody.semitone))
    assert not found[False] & found[True]
    assert 0.1 < len(found[True]) / (len(found[True]) + len(found[False])) < 0.25


def test_splits_draw_what_they_should(monkeypatch):
    drawn = []
    monkeypatch.setattr(melodies, "synthesise", lambda melody, rng: drawn.append(melody) or np.ones(100))
    for split in ("train", "validation", "test"):
        drawn.clear()
        draw_samples("audio", split, 100)
        assert {melodies.is_held_out(melody) for melody in drawn} == {split == "test"}


def test_answers_describe_the_melody(monkeypatch):
    drawn = []
    monkeypatch.setattr(melodies, "synthesise", lambda melody, rng: drawn.append(melody) or np.ones(100))
    for sample, melody in zip(draw_samples("audio", "test", 200), drawn, strict=True):
        drawn_words = {melody.instrument, melody.register, melody.what}
        for question, answer in turns_of(sample):
            if question in ("Describe the sound.", "What do you hear?"):
                plural = melody.kind == "notes" and melody.what != "one"
                assert set(answer.split()) - {"a"} == drawn_words | {"notes" if plural else "note"}
            else:
                assert answer in drawn_words
                assert (answer in melodies.INSTRUMENTS) == ("instrument" in question)
                assert (answer in melodies.NUMBERS) == ("many" in question)
                assert (answer in melodies.SEMITONES) == ("high or low" in question)


@pytest.mark.parametrize("register", melodies.SEMITONES)
@pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
def test_pitch_is_as_said(instrument, register):
    """Measured in the spectrum: no partial below the pitch, a strong one at it."""
    semitone = melodies.SEMITONES[register][2]
    wave = melodies.synthesise(melodies.Melody(instrument, "one", register, semitone), random.Random(0))
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / melodies.RATE)
    lowest = frequencies[power > 0.1 * power.max()][0]
    assert 0.9 < lowest / (melodies.LOWEST_PITCH * 2 ** (semitone / 12)) < 1.1


@pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
@pytest.mark.parametrize("what", melodies.NUMBERS)
def test_as_many_notes_as_said(instrument, what):
    """Counted in the wave: between two notes there is a pause."""
    for seed in range(3):
        wave = melodies.synthesise(melodies.Melody(instrument, what, "low", 6 * seed), random.Random(seed))
        level = np.array([np.abs(piece).max() for piece in np.array_split(wave, len(wave) * 100 // melodies.RATE)])
        loud = np.flatnonzero(level > 0.16 * level.max())  # hundredths of a second
        pauses = (np.diff(loud) > 5).sum()
        assert pauses == melodies.NUMBERS.index(what)


@pytest.mark.parametrize("instrument", melodies.INSTRUMENTS)
@pytest.mark.parametrize("what", melodies.DIRECTIONS)
def test_glides_go_as_said(instrument, what):
    """Measured in the spectrum: the strongest frequency early in the note against later."""
    for seed in range(3):
        wave = melodies.synthesise(melodies.Melody(instrument, what, "low", 6 * seed), random.Random(seed))
        early, late = (wave[round(place * len(wave)) :][: melodies.RATE // 10] for place in (0.2, 0.55))
        peaks = [
            np.abs(np.fft.rfft(piece * np.hanning(len(piece))))[: len(piece) // 10].argmax() for piece in (early, late)
        ]
        assert (peaks[1] > peaks[0]) == (what == "rising")


def test_waves_are_clean():
    for sample in draw_samples("audio", "test", 20):
        wave, rate = soundfile.read(io.BytesIO(sample["audios"][0]["bytes"]))
        assert rate == melodies.RATE
        assert np.isfinite(wave).all() and 0.2 < np.abs(wave).max() <= 1
        assert 0.15 < len(wave) / rate < 2
