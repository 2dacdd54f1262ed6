"""Synthesised human sounds, animals and natural elements: the classes fx-h, fx-a and fx-n.

A recipe takes a `Draw` and gives `(samples, details)`: float32 mono and a dict of what was drawn that a title could
mention (`words`: adjectives that hold for the sound).
"""

import numpy as np

from generator.parts import (
    band,
    crush,
    curve,
    decay,
    fade,
    grains,
    harmonics,
    noise,
    place,
    reverb,
    told,
    tone,
    voice,
    wander,
)


def footsteps(draw):
    """Walk on some ground."""
    count = draw.samples(draw.between(1.2, 3.0))
    target = np.zeros(count, np.float32)
    gravel = draw.chance(0.5)
    period = draw.between(0.38, 0.65)
    for index in range(int(count / draw.rate / period) + 1):
        length = draw.samples(0.2)
        if gravel:
            step = grains(draw, length, 450, 1500, 7000, 0.006) * curve([0.3, 1, 0.4, 0.7, 0], length)
        else:
            step = noise(draw, length, 90, 2200, -5) * decay(length, draw, 0.09)
            place(step, draw.samples(0.07), noise(draw, 900, 400, 5000) * decay(900, draw, 0.03), 0.5)
        place(
            target, draw.samples(index * period + draw.between(0, 0.03)), fade(step, draw, 0.002), draw.between(0.6, 1)
        )
    return target, told("gravel" if gravel else "wooden floor")


def breathing(draw):
    """Breathe in and out, or snore."""
    count = draw.samples(draw.between(1.5, 3.0))
    target = np.zeros(count, np.float32)
    start, snore = 0, draw.chance(0.35)
    for index in range(6):
        length = draw.samples(draw.between(0.45, 0.9))
        sound = noise(draw, length, 250, 6000, -2, [(draw.near(500, 1100), 5), (draw.near(1600, 2600), 4)])
        if snore and index % 2 == 0:
            sound = sound * 0.4 + tone(draw, draw.near(28, 55), length, harmonics(40, 0.5)) * 0.5
        place(target, start, sound * np.sin(np.linspace(0, np.pi, length)) ** 1.5, 1 if index % 2 else 0.6)
        start += length + draw.samples(draw.between(0.05, 0.3))
    return fade(target, draw), told("snoring" if snore else "breath")


def clapping(draw):
    """Clap the hands, alone or a few people."""
    count = draw.samples(draw.between(0.8, 2.4))
    centre = draw.near(900, 1900)
    length = draw.samples(0.08)
    claps = [
        noise(draw, length, 400, 8000, -2, [(centre * draw.between(0.8, 1.2), 6)]) * decay(length, draw, 0.05)
        for _ in range(4)
    ]
    target = np.zeros(count, np.float32)
    period = draw.between(0.18, 0.5)
    for index in range(int(count / draw.rate / period) + 1):
        for _ in range(draw.pick((1, 1, 2))):
            place(target, draw.samples(index * period + draw.between(0, 0.03)), draw.pick(claps), draw.between(0.6, 1))
    return reverb(target, draw, 0.3, draw.between(0.1, 0.4)), told("hands")


def cough(draw):
    """Cough, sneeze or clear the throat: a burst of voiced noise."""
    count = draw.samples(draw.between(0.5, 1.6))
    target = np.zeros(count, np.float32)
    person, start = voice(draw), draw.samples(0.02)
    while start < count - draw.samples(0.15):
        length = draw.samples(draw.between(0.16, 0.32))
        burst = noise(draw, length, 350, 6000, -3, [(700 * person.formants, 5), (1500 * person.formants, 4)])
        pitch = person.pitch * curve([1.5, 1.1, 0.8], length)
        burst = burst * curve([1, 0.35, 0.15, 0.0], length) * 1.6
        burst = burst + 0.3 * tone(draw, pitch, length, harmonics(20, 0.6)) * curve([0, 0.6, 0.5, 0], length)
        place(target, start, fade(burst, draw, 0.006, 0.03), draw.between(0.7, 1))
        start += length + draw.samples(draw.between(0.08, 0.4))
    return target, told("dry")


def laugh(draw):
    """Laugh: short voiced syllables at a falling pitch."""
    count = draw.samples(draw.between(0.8, 2.0))
    target = np.zeros(count, np.float32)
    person, start, index = voice(draw), 0, 0
    number = np.arange(1, 40)
    while start < count:
        length = draw.samples(draw.between(0.1, 0.16))
        pitch = person.pitch * 1.5 * 0.96**index * curve([1, 1.15, 0.9], length)
        formants = np.array((700, 1200, 2500)) * person.formants
        amplitudes = 1 / (1 + np.abs(number * pitch.mean() - formants[:, None]) / 150).prod(0)
        sound = tone(draw, pitch, length, amplitudes) + 0.4 * noise(draw, length, 800, 6000)
        place(target, start, fade(sound, draw, 0.02, 0.05), draw.between(0.5, 1))
        start += length + draw.samples(draw.between(0.04, 0.1))
        index += 1
    return target, told("happy")


def chewing(draw):
    """Chew or eat: wet crackles in bites."""
    count = draw.samples(draw.between(1.0, 2.4))
    bites = np.maximum(np.sin(2 * np.pi * draw.between(1.5, 2.6) * np.arange(count) / draw.rate), 0) ** 2
    return fade(grains(draw, count, 260, 500, 4500, 0.012) * bites, draw, 0.02, 0.03), told("crunchy")


def calls(draw, count, call, low, high):
    """Repeat an animal's call, `low` to `high` seconds apart, over (count,) samples."""
    target = np.zeros(count, np.float32)
    start = draw.samples(0.02)
    while start < count - draw.samples(0.05):
        sound = call()
        place(target, start, sound, draw.between(0.6, 1))
        start += len(sound) + draw.samples(draw.near(low, high))
    return target


def animal_tone(draw, pitches, seconds, formants, slope=0.6, rough=0.1):
    """Voice an animal: harmonics of a pitch curve (control points in hertz) through fixed formants."""
    count = draw.samples(seconds)
    pitch = curve(pitches, count) * (1 + wander(draw, count, 40, -rough, rough))
    number = np.arange(1, 60) * np.mean(pitches)
    gain = sum(1 / (1 + ((number - f) / (0.25 * f)) ** 2) for f in formants) + 0.05
    sound = tone(draw, pitch, count, harmonics(59, slope) * gain)
    return fade(sound + rough * noise(draw, count, 300, 5000), draw, 0.015, 0.06)


def dog(draw):
    """Bark."""
    base = draw.near(220, 650)
    bark = lambda: animal_tone(  # noqa: E731
        draw, [base, base * 1.7, base * 0.8], draw.between(0.12, 0.22), (base * 2.5, base * 5), 0.5, 0.22
    )
    return calls(draw, draw.samples(draw.between(0.6, 2.2)), bark, 0.12, 0.5), told("barking")


def cat(draw):
    """Meow."""
    base = draw.near(420, 750)
    meow = lambda: animal_tone(  # noqa: E731
        draw, [base, base * 1.5, base * 1.4, base * 0.9], draw.between(0.45, 0.95), (1300, 2600), 0.4, 0.02
    )
    return calls(draw, draw.samples(draw.between(0.7, 2.2)), meow, 0.2, 0.6), told("meow")


def cow(draw):
    """Moo or bleat: a long low call."""
    base = draw.near(95, 240)
    call = lambda: animal_tone(  # noqa: E731
        draw, [base, base * 1.3, base * 1.25, base * 0.8], draw.between(0.8, 1.5), (500, 1100, 2400), 0.5, 0.06
    )
    return calls(draw, draw.samples(draw.between(1.2, 2.6)), call, 0.2, 0.5), told("farm")


def bird_call(draw, low=2200, high=6500):
    """Sing one bird syllable: a fast sweep, sometimes trilled."""
    count = draw.samples(draw.between(0.06, 0.22))
    time = np.arange(count) / draw.rate
    pitch = curve(np.exp(draw.many(np.log(low), np.log(high), 4)), count)
    if draw.chance(0.4):
        pitch = pitch * (1 + 0.1 * np.sin(2 * np.pi * draw.between(25, 60) * time))
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / draw.rate)
    return fade(sound * np.sin(np.linspace(0, np.pi, count)), draw, 0.005, 0.01)


def bird(draw):
    """Let one bird sing close by, with pauses."""
    stock = [bird_call(draw) for _ in range(4)]
    sound = calls(draw, draw.samples(draw.between(0.7, 2.4)), lambda: draw.pick(stock), 0.02, 0.2)
    return sound, told("chirping")


def frog(draw):
    """Croak, or quack: pulses at a rate that can be heard."""
    base = draw.near(60, 120)
    croak = lambda: animal_tone(draw, [base, base * 1.2, base], draw.between(0.15, 0.4), (900, 1900), 0.1, 0.05)  # noqa: E731
    return calls(draw, draw.samples(draw.between(0.8, 2.2)), croak, 0.1, 0.4), told("croaking")


def insect(draw):
    """Buzz like a fly or bee that comes and goes."""
    count = draw.samples(draw.between(0.9, 2.6))
    pitch = draw.near(130, 330) * (1 + wander(draw, count, 8, -0.12, 0.12))
    sound = tone(draw, pitch, count, harmonics(30, 0.6)) * wander(draw, count, 3, 0.1, 1)
    return fade(band(sound, draw, low=200), draw, 0.05, 0.08), told("buzzing")


def rain(draw):
    """Rain on a surface."""
    count = draw.samples(draw.between(1.3, 3.0))
    heavy = draw.chance(0.5)
    drops = grains(draw, count, 700 if heavy else 200, 1500, 9000, 0.004)
    return fade(noise(draw, count, 900, 13000, -1) * (0.8 if heavy else 0.3) + drops, draw, 0.08, 0.12), told(
        "heavy" if heavy else "light"
    )


def wind(draw):
    """Let the wind howl: noise through slowly moving resonances."""
    count = draw.samples(draw.between(1.6, 3.2))
    gusts = wander(draw, count, 1.2, 0.15, 1)
    centre = draw.near(250, 700)
    low, high = (noise(draw, count, 40, 2500, -7, [(centre * f, 12)]) for f in (1, 1.8))
    return fade(low * (1.1 - gusts) + high * gusts * 1.4, draw, 0.15, 0.2), told("gusts")


def water(draw):
    """Pour or splash water: rising bubbles over a soft hiss."""
    count = draw.samples(draw.between(1.0, 2.8))
    bubbles = grains(draw, count, draw.near(40, 140), 350, 2200, 0.05, rising=True)
    return fade(bubbles + 0.25 * noise(draw, count, 800, 7000, -2), draw, 0.05, 0.1), told("flowing")


def fire(draw):
    """Burn: crackles over a low roar."""
    count = draw.samples(draw.between(1.3, 3.0))
    crackle = grains(draw, count, draw.near(12, 45), 1200, 7000, 0.008)
    roar = noise(draw, count, 50, 700, -4) * wander(draw, count, 5, 0.4, 1)
    return fade(roar * 0.5 + 1.5 * crackle, draw, 0.08, 0.12), told("crackling")


def thunder(draw):
    """Roll thunder, or explode: a crack and a long low rumble."""
    count = draw.samples(draw.between(1.6, 3.2))
    rumble = noise(draw, count, 25, 320, -5) * wander(draw, count, 5, 0.3, 1) * curve([0.2, 1, 0.7, 0.4, 0.1], count)
    crack = noise(draw, count, 120, 6000, -4) * decay(count, draw, draw.between(0.3, 0.9))
    return fade(rumble * 1.5 + draw.between(0.3, 1.2) * crack, draw, 0.004, 0.3), told("rumble")


def explosion(draw):
    """Explode: a hard attack, distorted noise that darkens as it dies away."""
    count = draw.samples(draw.between(1.0, 2.4))
    bright = noise(draw, count, 40, 7000, -3) * decay(count, draw, 0.35)
    dark = noise(draw, count, 25, 350, -4) * decay(count, draw, count / draw.rate)
    return fade(crush(2 * bright + 2.5 * dark, 2), draw, 0.002, 0.15), told("boom")


RECIPES = {
    "fx-h": {
        "footsteps": footsteps,
        "breathing": breathing,
        "clapping": clapping,
        "cough": cough,
        "laugh": laugh,
        "chewing": chewing,
    },
    "fx-a": {"dog": dog, "cat": cat, "cow": cow, "bird": bird, "frog": frog, "insect": insect},
    "fx-n": {
        "rain": rain,
        "wind": wind,
        "water": water,
        "fire": fire,
        "thunder": thunder,
        "explosion": explosion,
    },
}
