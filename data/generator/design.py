"""Synthesised experimental and designed sounds: the classes fx-ex and fx-el.

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
    modes,
    noise,
    normalise,
    place,
    resample_by,
    reverb,
    speech,
    told,
    tone,
    voice,
    wander,
)


def granular(draw):
    """Scatter slices of some sound at random pitches and times."""
    count = draw.samples(draw.between(1.2, 3.0))
    source = speech(draw, count, voice(draw)) + 0.4 * tone(draw, draw.near(100, 500), count, harmonics(30, 0.6))
    target = np.zeros(count, np.float32)
    for _ in range(int(draw.between(25, 60) * count / draw.rate)):
        length = draw.samples(draw.between(0.02, 0.09))
        start = draw.whole(0, max(1, count - 3 * length - 1))
        piece = resample_by(source[start : start + 2 * length], draw.near(0.5, 3))[:length]
        place(target, draw.whole(0, count), fade(piece, draw, 0.006, 0.01), draw.between(0.2, 1))
    return target, told("granular")


def feedback(draw):
    """Howl: a sine that climbs and jumps between resonances, overdriven."""
    count = draw.samples(draw.between(1.2, 3.0))
    steps = np.repeat(np.exp(draw.many(np.log(300), np.log(3200), 5)), 3)
    pitch = curve(steps, count) * (1 + wander(draw, count, 9, -0.02, 0.02))
    sound = tone(draw, pitch, count, [1, 0.2, 0.35, 0.1]) * curve(draw.many(0.1, 1, 6), count)
    ring = 1 + 0.6 * np.sin(2 * np.pi * draw.near(7, 90) * np.arange(count) / draw.rate)
    return fade(crush(sound * ring + 0.2 * noise(draw, count, 200, 5000), 5), draw, 0.1, 0.1), told("howling")


def glitch(draw):
    """Stutter: tiny loops of noise and tones, chopped and repeated."""
    count = draw.samples(draw.between(0.9, 2.6))
    target = np.zeros(count, np.float32)
    start = 0
    while start < count:
        length = draw.samples(draw.near(0.006, 0.05))
        kind = draw.whole(0, 2)
        if kind == 0:
            piece = noise(draw, length, draw.near(200, 3000), 14000)
        elif kind == 1:
            piece = np.sign(tone(draw, draw.near(80, 4000), length, [1.0])) * 0.5
        else:
            piece = np.zeros(length, np.float32)
        repeats = draw.whole(2, 9)
        place(target, start, np.tile(fade(piece, draw, 0.001, 0.001), repeats), draw.between(0.3, 1))
        start += length * repeats
    return fade(target, draw, 0.002, 0.01), told("digital")


def reversed_sound(draw):
    """Play something backwards: it swells and stops abruptly, with a reversed room."""
    count = draw.samples(draw.between(1.0, 2.6))
    number = 18
    frequencies = np.exp(draw.many(np.log(120), np.log(5000), number))
    sound = normalise(modes(draw, frequencies, draw.many(0.6, 2.2, number), draw.many(0.2, 1, number), count))
    sound = reverb(sound, draw, 0.8, 0.6)[::-1] * (1 + 0.5 * np.sin(np.linspace(0, draw.between(20, 200), count)))
    return fade(sound, draw, 0.05, 0.01), told("reversed")


def noise_music(draw):
    """Modulate and overdrive a drone beyond recognition."""
    count = draw.samples(draw.between(1.4, 3.0))
    carrier = tone(draw, draw.near(40, 180) * (1 + wander(draw, count, 4, -0.3, 0.3)), count, harmonics(40, 0.5))
    modulator = tone(draw, draw.near(90, 900) * (1 + wander(draw, count, 2, -0.2, 0.2)), count, [1, 0, 0.4])
    return fade(crush(4 * carrier * modulator + 0.5 * noise(draw, count, 300, 9000), 3), draw, 0.05, 0.1), told("harsh")


def whoosh(draw):
    """Sweep by: band noise whose centre and level rise and fall."""
    count = draw.samples(draw.between(0.4, 1.3))
    low, high = draw.near(250, 700), draw.near(2500, 7000)
    rise = np.sin(np.linspace(0, np.pi, count)) ** draw.between(1, 3)
    soft, sharp = noise(draw, count, low, low * 3), noise(draw, count, high / 2, high)
    return fade(soft * rise * (1 - 0.6 * rise) * 2 + sharp * rise**3, draw, 0.03, 0.04), told("fast")


def laser(draw):
    """Shoot a laser: a tone that falls quickly, sometimes several times."""
    count = draw.samples(draw.between(0.4, 1.4))
    length = draw.samples(draw.between(0.12, 0.4))
    high, low = draw.near(2500, 7000), draw.near(120, 500)
    sweep = low * (high / low) ** (np.linspace(1, 0, length) ** draw.between(1, 2))
    shot = fade(tone(draw, sweep, length, harmonics(12, 1.0)) * curve([1, 0.6, 0], length), draw, 0.002, 0.02)
    target = np.zeros(max(count, length), np.float32)
    for start in range(0, len(target), int(length * draw.between(1.0, 2.5))):
        place(target, start, shot, 0.8)
    return target, told("sci-fi")


def beeps(draw):
    """Sound an interface: a few clean beeps in intervals."""
    length = draw.samples(draw.between(0.06, 0.16))
    base = draw.near(600, 1800)
    number = draw.whole(1, 5)
    target = np.zeros(length * (number + 1) + draw.samples(0.1), np.float32)
    for index in range(number):
        pitch = base * 2 ** (draw.pick((0, 4, 5, 7, 12)) / 12)
        beep = tone(draw, pitch, length, draw.pick(([1.0], [1, 0, 0.3, 0, 0.15], [1, 0.4])))
        place(target, int(index * length * 1.2), fade(beep, draw, 0.004, 0.03), 0.8)
    return target, told("clean")


def riser(draw):
    """Rise to a drop: noise and a tone climb for the whole clip."""
    count = draw.samples(draw.between(1.4, 3.0))
    pitch = draw.near(80, 250) * 2 ** (np.linspace(0, draw.between(2, 4), count))
    sound = tone(draw, np.minimum(pitch, 7000), count, harmonics(16, 0.9)) * 0.5
    hiss = noise(draw, count, 1500, 12000) * np.linspace(0, 1, count) ** 2
    return fade((sound + hiss) * np.linspace(0.05, 1, count), draw, 0.05, 0.02), told("tension")


def alarm(draw):
    """Sound an alarm or siren: two tones in turn, or a sweep."""
    count = draw.samples(draw.between(1.0, 2.8))
    swing = np.sin(2 * np.pi * draw.near(1.2, 7) * np.arange(count) / draw.rate)
    swing = np.sign(swing) if draw.chance(0.5) else swing
    pitch = draw.near(500, 1300) * 2 ** (swing * draw.between(0.15, 0.5))
    return fade(tone(draw, pitch, count, harmonics(14, 0.9, only_odd=True)), draw, 0.01, 0.03), told("warning")


def sub_drop(draw):
    """Drop: a low sine that falls, with a cinematic hit."""
    count = draw.samples(draw.between(0.9, 2.2))
    pitch = draw.near(90, 200) * 2 ** (-np.linspace(0, draw.between(1, 2.2), count))
    sound = crush(tone(draw, pitch, count, [1, 0.15]) * decay(count, draw, 1.6), 1.8)
    hit = noise(draw, count, 60, 5000, -3) * decay(count, draw, 0.25)
    return fade(reverb(sound + hit, draw, 0.7, 0.3), draw, 0.003, 0.12), told("cinematic")


def power_up(draw):
    """Charge a device: modulated tone that climbs in steps."""
    count = draw.samples(draw.between(0.7, 1.8))
    steps = np.floor(np.linspace(0, draw.whole(6, 14), count))
    pitch = draw.near(150, 400) * 2 ** (steps * draw.pick((2, 3, 4)) / 12)
    return fade(tone(draw, np.minimum(pitch, 6000), count, harmonics(20, 1.0, True)), draw, 0.005, 0.05), told("game")


def sweep_filter(samples, draw, low, high):
    """Filter by a resonance that steps up from low to high hertz eight times."""
    steps = np.geomspace(low, high, 8)
    pieces = [
        fade(band(piece, draw, 0.8 * centre, 1.25 * centre, 3), draw, 0.003, 0.003)
        for piece, centre in zip(np.array_split(samples, 8), steps, strict=True)
    ]
    return np.concatenate(pieces)


def filtered_texture(draw):
    """Sweep a resonant filter over dense clicks."""
    count = draw.samples(draw.between(1.2, 2.8))
    clicks = grains(draw, count, draw.near(60, 300), 400, 6000, 0.01)
    return fade(sweep_filter(clicks, draw, draw.near(200, 600), draw.near(2000, 6000)), draw, 0.02, 0.05), told(
        "texture"
    )


RECIPES = {
    "fx-ex": {
        "granular texture": granular,
        "feedback": feedback,
        "glitch": glitch,
        "reversed metal": reversed_sound,
        "noise music": noise_music,
        "filtered clicks": filtered_texture,
    },
    "fx-el": {
        "whoosh": whoosh,
        "laser": laser,
        "interface beep": beeps,
        "riser": riser,
        "alarm": alarm,
        "sub drop": sub_drop,
        "power up": power_up,
    },
}
