"""Synthesised music and instrument samples: the classes m-* and is-*.

A recipe takes a `Draw` and gives `(samples, details)`: float32 mono and a dict of what was drawn that a title could
mention (`pitch` as a note name, `tempo` in beats a minute, `words`: adjectives that hold for the sound).
"""

import numpy as np

from generator.notes import (
    DRUMS,
    NOTES,
    bow,
    brass,
    flute,
    synth_bass,
)
from generator.parts import (
    crush,
    echo,
    fade,
    normalise,
    note_name,
    place,
)

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10), (0, 2, 4, 7, 9))


FAMILIES = {
    "is-s": ("acoustic guitar", "bass guitar", "harp", "violin", "cello"),
    "is-w": ("flute", "clarinet", "saxophone", "trumpet"),
    "is-k": ("piano", "electric piano", "organ", "harpsichord"),
    "is-e": ("synth lead", "synth bass", "synth bell", "synth pad", "chiptune"),
}


def single_note(name):
    """Make the recipe of one sampled note of an instrument."""
    function, pitches, lengths = NOTES[name]

    def recipe(draw):
        midi = draw.whole(*pitches)
        seconds = draw.near(*lengths)
        middle = sum(pitches) / 2
        words = ["low" if midi < middle else "high", "short" if seconds < sum(lengths) / 2 else "long"]
        return function(draw, midi, seconds), {"pitch": note_name(midi), "midi": midi, "words": words}

    return recipe


def single_hit(name):
    """Make the recipe of one sampled drum hit, sometimes a flam or a short roll."""

    def recipe(draw):
        sound = DRUMS[name](draw)
        words = ["deep" if name in ("kick drum", "tom") else "crisp"]
        if name != "cymbal" and draw.chance(0.12):
            roll = np.zeros(draw.samples(0.5) + len(sound), np.float32)
            for number in range(draw.whole(2, 5)):
                place(roll, number * draw.samples(draw.between(0.05, 0.1)), sound, draw.between(0.5, 1))
            return roll, {"words": ["roll"]}
        return sound, {"words": words}

    return recipe


def beat(draw, count, kit=None):
    """Play drum hits on a grid of sixteenths: (samples (count,), beats a minute)."""
    tempo = draw.between(84, 172)
    step = 60 / tempo / 4
    target = np.zeros(count, np.float32)
    kit = kit or draw.pick(
        (("kick drum", "snare drum", "hi-hat"), ("tom", "woodblock", "shaker"), ("tom", "tom", "tom"))
    )
    low, middle, high = (DRUMS[name](draw) for name in kit)
    busy = draw.between(0.2, 0.7)
    swing = draw.between(0, 0.3)
    for index in range(int(count / draw.rate / step) + 1):
        start = draw.samples((index + (swing if index % 2 else 0)) * step) - 16
        if index % 8 == 0 or draw.chance(0.12):
            place(target, start, low, draw.between(0.8, 1))
        if index % 8 == 4 or draw.chance(0.08):
            place(target, start, middle, draw.between(0.6, 0.9))
        if index % 2 == 0 or draw.chance(busy):
            place(target, start, high, draw.between(0.2, 0.6))
    return target, round(tempo)


def drum_loop(kit):
    """Make the recipe of a percussion loop for one kit."""

    def recipe(draw):
        target, tempo = beat(draw, draw.samples(draw.between(1.8, 3.2)), kit)
        return target, {"tempo": tempo, "words": ["fast" if tempo > 125 else "slow"]}

    return recipe


def melody(draw, name, count, tempo):
    """Play a melody of one instrument in some scale: (samples (count,), first MIDI note)."""
    function, (lowest, highest), _ = NOTES[name]
    target = np.zeros(count, np.float32)
    scale = np.array(draw.pick(SCALES))
    root = draw.whole(lowest, max(lowest, highest - 20))
    degree, start, first = draw.whole(0, 6), 0, None
    while start < count - draw.samples(0.15):
        beats = draw.pick((0.5, 0.5, 1, 1, 0.25, 2))
        midi = min(root + 12 * (degree // len(scale)) + scale[degree % len(scale)], highest)
        first = first or midi
        seconds = beats * 60 / tempo
        place(target, start, function(draw, midi, max(0.12, seconds * draw.between(0.9, 1.15))), draw.between(0.6, 1))
        start += draw.samples(seconds)
        degree = int(np.clip(degree + draw.whole(-2, 2), 0, 11))
    return target, first


def phrase(name):
    """Make the recipe of a solo phrase of one instrument."""

    def recipe(draw):
        tempo = draw.between(80, 150)
        target, first = melody(draw, name, draw.samples(draw.between(1.8, 3.2)), tempo)
        words = ["fast" if tempo > 115 else "slow"]
        return fade(target, draw, 0.003, 0.08), {"pitch": note_name(first), "tempo": round(tempo), "words": words}

    return recipe


def ensemble(draw, melodic, chordal, drums_level):
    """Play drums, bass, chords and melody together."""
    count = draw.samples(draw.between(1.9, 3.1))
    drums, tempo = beat(draw, count, ("kick drum", "snare drum", "hi-hat"))
    bar = 240 / tempo
    target = drums_level * drums
    root = draw.whole(45, 56)
    chords = draw.pick(((0, 5, 7, 5), (0, 8, 3, 10), (0, 7, 9, 5), (0, 3, 5, 7)))
    function = NOTES[chordal][0]
    for index in range(int(count / draw.rate / bar * 2) + 1):
        start = draw.samples(index * bar / 2)
        note = root + chords[index % 4]
        for interval in (0, 4 if chords[0] == 0 and index % 2 else 3, 7):
            place(target, start, function(draw, note + interval, bar / 2), 0.3)
        place(target, start, synth_bass(draw, note, bar / 2), 0.5)
    tune, _ = melody(draw, melodic, count, tempo)
    target += draw.between(0.3, 0.6) * tune
    return fade(target, draw, 0.004, 0.12), {"tempo": tempo, "words": ["fast" if tempo > 125 else "slow"]}


def rock_band(draw):
    """Play a band with guitars."""
    sound, details = ensemble(draw, draw.pick(("acoustic guitar", "saxophone")), "acoustic guitar", 0.9)
    return crush(normalise(sound), draw.between(1, 3)), details


def electronic_track(draw):
    """Play an electronic track with synths."""
    return ensemble(draw, draw.pick(("synth lead", "synth bell", "chiptune")), "synth lead", 1.1)


def jazz_combo(draw):
    """Play a small combo with piano and a wind instrument."""
    return ensemble(draw, draw.pick(("saxophone", "trumpet", "flute")), draw.pick(("piano", "electric piano")), 0.5)


def orchestra(draw):
    """Play strings, winds and brass together, without drums."""
    count = draw.samples(draw.between(1.9, 3.1))
    target = np.zeros(count, np.float32)
    root = draw.whole(48, 58)
    tempo = draw.between(70, 120)
    length = 120 / tempo
    for index in range(int(count / draw.rate / length) + 1):
        chord = root + draw.pick((0, 5, 7, -4))
        for interval, function in zip((-12, 0, 4, 7, 12), (bow, bow, brass, bow, flute), strict=True):
            place(target, draw.samples(index * length), function(draw, chord + interval, length * 1.1), 0.5)
    tune, _ = melody(draw, draw.pick(("violin", "flute", "trumpet")), count, tempo)
    return fade(echo(target + 0.7 * tune, draw, 0.11, 0.4), draw, 0.02, 0.2), {
        "tempo": round(tempo),
        "words": ["grand"],
    }


RECIPES = {
    "m-sp": {
        "drum kit": drum_loop(("kick drum", "snare drum", "hi-hat")),
        "hand drums": drum_loop(("tom", "woodblock", "shaker")),
        "toms": drum_loop(("tom", "tom", "tom")),
        "drum machine": drum_loop(("kick drum", "shaker", "woodblock")),
    },
    "m-si": {
        name: phrase(name)
        for name in (
            "acoustic guitar",
            "piano",
            "flute",
            "violin",
            "saxophone",
            "synth lead",
            "electric piano",
            "cello",
        )
    },
    "m-m": {
        "rock band": rock_band,
        "electronic track": electronic_track,
        "jazz combo": jazz_combo,
        "orchestra": orchestra,
    },
    "is-p": {**{name: single_hit(name) for name in DRUMS}, "marimba": single_note("marimba")},
    **{code: {name: single_note(name) for name in names} for code, names in FAMILIES.items()},
}
