"""Synthesised speech: the classes sp-*.

A recipe takes a `Draw` and gives `(samples, details)`: float32 mono and a dict of what was drawn that a title could
mention (`words`: adjectives that hold for the sound).
"""

import numpy as np

from generator.parts import (
    babble,
    band,
    crush,
    echo,
    fade,
    grains,
    noise,
    normalise,
    place,
    resample_by,
    reverb,
    speech,
    told,
    voice,
    wander,
)


def speaker(kind, whispered=False):
    """Make the recipe of one person who speaks."""

    def recipe(draw):
        person = voice(draw, kind)
        count = draw.samples(draw.between(0.9, 3.0))
        words = ["fast" if person.speed > 5 else "slow"]
        return fade(speech(draw, count, person, whispered=whispered), draw), told(*words)

    return recipe


def conversation(draw):
    """Let two or three people speak in turn, now and then at once, in a room."""
    count = draw.samples(draw.between(2.0, 3.4))
    target = np.zeros(count, np.float32)
    people = [voice(draw, kind) for kind in draw.pick((("man", "woman"), ("man", "man"), ("woman", "woman", "man")))]
    start = 0
    for turn in range(12):
        length = draw.samples(draw.between(0.4, 0.9))
        place(target, start, speech(draw, length, people[turn % len(people)], pause=0.03), draw.between(0.5, 1))
        start += int(length * draw.between(0.6, 0.95))
        if start >= count:
            break
    return reverb(fade(target, draw), draw, draw.between(0.25, 0.5), 0.35), told("talking")


def crowd(draw):
    """Let a crowd talk."""
    count = draw.samples(draw.between(1.8, 3.2))
    sound = normalise(babble(draw, count, draw.pick((6, 9, 15))))
    return fade(reverb(sound, draw, draw.between(0.4, 0.9), 0.5), draw, 0.05, 0.1), told("busy")


def cheering(draw):
    """Let an audience cheer and applaud."""
    count = draw.samples(draw.between(1.6, 3.0))
    shouts = normalise(babble(draw, count, 9))
    roar = noise(draw, count, 500, 3500, -3, [(draw.near(900, 1500), 4), (2600, 2)])
    hands = grains(draw, count, 180, 1000, 2600, 0.012)
    sound = shouts * 0.7 + roar * wander(draw, count, 2, 0.4, 1.2) + 0.35 * hands
    return fade(reverb(sound, draw, 0.6, 0.3), draw, 0.08, 0.15), told("loud")


def robot(draw):
    """Speak on one pitch and modulate by a ring: a robot."""
    count = draw.samples(draw.between(0.9, 2.8))
    person = voice(draw, draw.pick(("man", "woman")))
    sound = speech(draw, count, person, monotone=True, pause=0.1)
    ring = np.sin(2 * np.pi * draw.near(30, 140) * np.arange(count) / draw.rate)
    return fade(crush(normalise(sound * (0.3 + 0.7 * ring)), 3), draw), told("metallic")


def vocoder(draw):
    """Speak through a synthesiser chord: the bands of a voice shape a sawtooth."""
    count = draw.samples(draw.between(1.0, 2.8))
    person = voice(draw, "man")
    person.pitch = draw.pick((82.4, 110.0, 130.8))
    sound = np.zeros(count, np.float32)
    state = draw.rng.bit_generator.state
    for interval in draw.pick(((1.0, 1.5, 2.0), (1.0, 1.26, 1.5), (1.0, 1.19, 1.78))):
        draw.rng.bit_generator.state = state  # the same syllables at another pitch
        chord = voice(draw, "man")
        chord.pitch, chord.formants = person.pitch * interval, 1.0
        sound = sound + speech(draw, count, chord, monotone=True, pause=0.05)
    return fade(echo(sound, draw, 0.09, 0.35), draw), told("electronic")


def pitched_voice(factors):
    """Make the recipe of a voice played faster or slower: chipmunk or monster."""

    def recipe(draw):
        factor = draw.near(*factors)
        count = draw.samples(draw.between(0.9, 2.4))
        sound = resample_by(speech(draw, int(count * factor) + 64, voice(draw, draw.pick(("man", "woman")))), factor)
        if factor < 1:
            sound = crush(normalise(sound), 2.5)
        return fade(sound[:count], draw), told("fast" if factor > 1 else "slow")

    return recipe


def radio_voice(draw):
    """Speak over a radio or telephone with static, distortion and an echo."""
    count = draw.samples(draw.between(1.0, 2.8))
    sound = normalise(speech(draw, count, voice(draw)))
    sound = crush(band(sound, draw, 500, 2800, 4) * 4, 2) + 0.25 * noise(draw, count, 700, 3000)
    beep = draw.samples(0.08)
    place(sound, 0, fade(0.7 * np.sin(2 * np.pi * draw.near(900, 1800) * np.arange(beep) / draw.rate), draw), 1)
    return fade(echo(sound, draw, draw.between(0.12, 0.25), 0.4), draw), told("distorted")


RECIPES = {
    "sp-s": {
        "male voice": speaker("man"),
        "female voice": speaker("woman"),
        "child voice": speaker("child"),
        "whisper": speaker(None, whispered=True),
    },
    "sp-c": {"conversation": conversation, "crowd": crowd, "cheering": cheering},
    "sp-p": {
        "robot voice": robot,
        "vocoder": vocoder,
        "chipmunk voice": pitched_voice((1.7, 2.4)),
        "monster voice": pitched_voice((0.42, 0.6)),
        "radio voice": radio_voice,
    },
}
