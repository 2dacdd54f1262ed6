"""Synthesised soundscapes, the classes ss-*: beds of noise with events in them.

A recipe takes a `Draw` and gives `(samples, details)`, as in `synthesis_things`.
"""

import numpy as np

from generator.nature import bird_call, dog, footsteps
from generator.parts import (
    babble,
    band,
    curve,
    fade,
    grains,
    harmonics,
    midi_to_hertz,
    noise,
    normalise,
    place,
    reverb,
    speech,
    told,
    tone,
    voice,
    wander,
)
from generator.things import (
    cutlery,
    door,
    impact,
    passing_by,
    several,
)


def length(draw):
    """Draw the length of a soundscape, in samples: longer than most effects, as in real collections."""
    return draw.samples(draw.between(1.9, 3.1))


def birds(draw, count, per_second):
    """Scatter bird calls of three birds, near and far, over (count,) samples."""
    target = np.zeros(count, np.float32)
    stock = [[bird_call(draw, low, low * 2.2) for _ in range(3)] for low in draw.many(1800, 4000, 3)]
    for start in draw.rng.integers(0, count, max(2, int(per_second * count / draw.rate))):
        place(target, start, draw.pick(draw.pick(stock)), draw.between(0.05, 0.5))
    return reverb(target, draw, 0.6, 0.4)


def crickets(draw, count):
    """Let crickets stridulate: a high tone pulsed twice over."""
    time = np.arange(count) / draw.rate
    pulses = np.maximum(np.sin(2 * np.pi * draw.between(14, 30) * time), 0) ** 2
    phrases = np.sin(2 * np.pi * draw.between(0.8, 2.2) * time) > draw.between(-0.7, 0)
    return tone(draw, draw.near(3800, 5500), count, [1, 0.1]) * pulses * phrases


def forest(draw):
    """Birds over a light wind in the leaves."""
    count = length(draw)
    leaves = noise(draw, count, 300, 6000, -4) * wander(draw, count, 1, 0.2, 0.8)
    return fade(0.35 * leaves + birds(draw, count, draw.between(3, 9)), draw, 0.15, 0.2), told("morning")


def night_field(draw):
    """Crickets and now and then an animal, at night."""
    count = length(draw)
    bed = noise(draw, count, 80, 3000, -5) * 0.15
    sound = bed + 0.35 * crickets(draw, count) + 0.2 * crickets(draw, count)
    if draw.chance(0.25):
        sound += 0.08 * np.resize(dog(draw)[0], count)
    return fade(sound, draw, 0.15, 0.2), told("night")


def seashore(draw):
    """Waves that break slowly, with gulls."""
    count = length(draw)
    wave = wander(draw, count, 0.8, 0.1, 1.0)
    sound = noise(draw, count, 60, 900, -3) * 0.5 + noise(draw, count, 500, 9000, -2) * wave**2
    for start in draw.rng.integers(0, count, draw.whole(0, 3)):
        size = draw.samples(draw.between(0.25, 0.45))
        gull = tone(draw, curve([1400, 1900, 1100], size), size, harmonics(10, 0.5))
        place(sound, start, fade(gull, draw, 0.03, 0.08), draw.between(0.05, 0.2))
    return fade(sound, draw, 0.15, 0.2), told("calm")


def creek(draw):
    """A brook with birds."""
    count = length(draw)
    sound = grains(draw, count, 160, 400, 2500, 0.03, rising=True) + 0.3 * noise(draw, count, 500, 8000, -2)
    return fade(0.6 * sound + 0.8 * birds(draw, count, 3), draw, 0.15, 0.2), told("flowing")


def storm(draw):
    """Rain and wind outdoors with distant thunder."""
    count = length(draw)
    sound = 0.7 * noise(draw, count, 700, 11000, -1) + noise(draw, count, 30, 250, -5) * wander(draw, count, 2) ** 2
    sound += 0.5 * grains(draw, count, 300, 1500, 8000, 0.004) + 0.15 * birds(draw, count, 2)
    return fade(sound, draw, 0.15, 0.2), told("heavy")


def room(draw, count, tone_level=0.3):
    """Give the bed of an indoor scene: low noise and mains hum."""
    hum = tone(draw, draw.pick((50.0, 60.0)), count, harmonics(12, 0.9) * draw.many(0.1, 1, 12))
    return 0.25 * noise(draw, count, 40, draw.near(600, 1800), -6) + tone_level * 0.25 * hum


def kitchen(draw):
    """A kitchen: refrigerator, dishes, cutlery."""
    count = length(draw)
    sound = room(draw, count, 0.6)
    for start in draw.rng.integers(0, count, 3):
        place(sound, start, normalise(cutlery(draw)[0]), draw.between(0.15, 0.5))
    plate = lambda: impact(draw, 500, 3500, 0.25, 9)  # noqa: E731
    sound += 0.4 * several(draw, plate, count, 0.4, 1.2)
    return fade(reverb(sound, draw, 0.35, 0.35), draw, 0.1, 0.15), told("home")


def office(draw):
    """An office: typing, ventilation, muffled voices."""
    count = length(draw)
    key = lambda: impact(draw, 1500, 5500, 0.03, 6, 7000)  # noqa: E731
    sound = room(draw, count) + 0.3 * several(draw, key, count, 0.06, 0.3)
    sound += 0.5 * band(speech(draw, count, voice(draw)), draw, high=700)
    return fade(reverb(sound, draw, 0.3, 0.3), draw, 0.1, 0.15), told("typing")


def cafe(draw):
    """A café or restaurant: babble in a lively room, cups."""
    count = length(draw)
    sound = 0.6 * normalise(babble(draw, count, 9)) + room(draw, count)
    cup = lambda: impact(draw, 1800, 6500, 0.3, 7)  # noqa: E731
    sound += 0.35 * several(draw, cup, count, 0.3, 1.0)
    return fade(band(reverb(sound, draw, 0.8, 0.6), draw, high=5000), draw, 0.1, 0.15), told("busy")


def hallway(draw):
    """A hall or stairwell: steps, a door, a long reverberation."""
    count = length(draw)
    sound = room(draw, count, 0.2)
    place(sound, draw.whole(0, count // 3), footsteps(draw)[0], 0.5)
    if draw.chance(0.6):
        place(sound, draw.whole(0, count // 2), door(draw)[0], 0.4)
    return fade(reverb(sound, draw, 1.6, 0.7), draw, 0.1, 0.2), told("reverberant")


def quiet_room(draw):
    """An empty room: hum, ventilation and a clock."""
    count = length(draw)
    sound = room(draw, count, 0.9)
    tick = impact(draw, 1500, 5000, 0.04, 6)
    for index in range(4):
        place(sound, draw.samples(0.2 + index), tick, draw.between(0, 0.25))
    sound += 0.15 * band(babble(draw, count, 3), draw, high=450)
    return fade(sound, draw, 0.1, 0.15), told("empty")


def traffic(draw, count, cars):
    """Give the bed of a street: far rumble and passing cars."""
    sound = 0.5 * noise(draw, count, 40, 1400, -4) * wander(draw, count, 1, 0.5, 1)
    for start in draw.rng.integers(-count // 2, count // 2, cars):
        car = passing_by(draw)[0]
        place(sound, max(start, 0), car[max(-start, 0) :], draw.between(0.3, 0.8))
    return sound


def horn(draw):
    """Honk."""
    size = draw.samples(draw.between(0.15, 0.6))
    pitch = draw.near(330, 480)
    sound = tone(draw, pitch, size, harmonics(20, 0.3)) + tone(draw, pitch * 1.25, size, harmonics(20, 0.3))
    return fade(sound, draw, 0.01, 0.03)


def street(draw):
    """A street: traffic, horns, voices."""
    count = length(draw)
    sound = traffic(draw, count, 2) + 0.25 * normalise(babble(draw, count, 3))
    for start in draw.rng.integers(0, count, draw.whole(0, 3)):
        place(sound, start, reverb(horn(draw), draw, 0.4, 0.4), draw.between(0.1, 0.4))
    return fade(sound, draw, 0.15, 0.2), told("busy")


def market(draw):
    """A market or square: many voices, steps, a distant vehicle."""
    count = length(draw)
    sound = 0.7 * normalise(babble(draw, count, 9)) + 0.8 * noise(draw, count, 40, 1000, -4)
    sound += 0.3 * np.resize(footsteps(draw)[0], count) + traffic(draw, count, 1) * 0.5
    return fade(sound, draw, 0.15, 0.2), told("crowded")


def construction(draw):
    """A building site: hammering, a motor, traffic behind."""
    count = length(draw)
    hit = lambda: impact(draw, 300, 4000, 0.3, 10)  # noqa: E731
    motor = tone(draw, draw.near(60, 120) * (1 + wander(draw, count, 3, -0.05, 0.05)), count, harmonics(40, 0.4))
    sound = traffic(draw, count, 1) + 0.5 * several(draw, hit, count, 0.25, 0.7) + 0.12 * motor
    return fade(reverb(sound, draw, 0.5, 0.3), draw, 0.15, 0.2), told("loud")


def siren_far(draw):
    """A city with a siren in the distance."""
    count = length(draw)
    swing = np.sin(2 * np.pi * draw.between(0.3, 1.2) * np.arange(count) / draw.rate)
    siren = tone(draw, 750 * 2 ** (0.4 * swing), count, harmonics(8, 1.0))
    return fade(traffic(draw, count, 2) + 0.15 * reverb(siren, draw, 1.0, 0.7), draw, 0.15, 0.2), told("distant")


def drone(draw):
    """A drone of slowly beating partials."""
    count = length(draw)
    sound = np.zeros(count, np.float32)
    root = float(midi_to_hertz(draw.whole(28, 45)))
    for ratio in (1, 1.5, 2, draw.pick((2.25, 3, 2.67)), 4.0):
        pitch = root * ratio * (1 + wander(draw, count, 1, -0.006, 0.006))
        spectrum = harmonics(20, 1.2, brightness=draw.between(0.7, 0.9))
        sound = sound + tone(draw, pitch, count, spectrum) * wander(draw, count, 1.2, 0.2, 1)
    return fade(reverb(sound, draw, 1.5, 0.5), draw, 0.3, 0.35), told("evolving")


def spaceship(draw):
    """The inside of a spaceship: throbbing bass, computer beeps, air."""
    count = length(draw)
    throb = 0.6 + 0.4 * np.sin(2 * np.pi * draw.between(0.8, 4) * np.arange(count) / draw.rate)
    sound = tone(draw, draw.near(40, 75), count, harmonics(20, 1.0)) * throb + 0.4 * noise(draw, count, 200, 2000, -3)
    for start in draw.rng.integers(0, count, draw.whole(2, 6)):
        size = draw.samples(draw.between(0.05, 0.12))
        place(sound, start, fade(tone(draw, draw.near(900, 3000), size, [1, 0.2]), draw), draw.between(0.1, 0.3))
    return fade(reverb(sound, draw, 1.0, 0.4), draw, 0.25, 0.3), told("sci-fi")


def dark_ambience(draw):
    """A dark ambience: filtered noise that breathes, metallic swells."""
    count = length(draw)
    centre = draw.near(200, 800)
    sound = noise(draw, count, 50, 3000, -4, [(centre, 25), (centre * 1.5, 20), (centre * 2.7, 15)])
    low = tone(draw, draw.near(45, 80) * (1 + wander(draw, count, 1, -0.03, 0.03)), count, harmonics(10, 1.0))
    sound = sound * wander(draw, count, 1.2, 0.2, 1) + 0.4 * low
    return fade(reverb(sound, draw, 1.8, 0.6), draw, 0.3, 0.35), told("dark")


def shimmer(draw):
    """High synthetic shimmer: many slow partials that come and go."""
    count = length(draw)
    sound = np.zeros(count, np.float32)
    root = draw.whole(57, 69)
    for interval in (0, 7, 12, 16, 19, 24):
        swell = wander(draw, count, 2, 0, 1) ** 2
        sound = sound + tone(draw, float(midi_to_hertz(root + interval)), count, [1, 0.2, 0.1]) * swell
    sound += 0.15 * noise(draw, count, 3000, 9000) * wander(draw, count, 1)
    return fade(reverb(sound, draw, 1.8, 0.7), draw, 0.3, 0.35), told("dreamy")


RECIPES = {
    "ss-n": {"forest": forest, "night field": night_field, "seashore": seashore, "creek": creek, "storm": storm},
    "ss-i": {"kitchen": kitchen, "office": office, "cafe": cafe, "hallway": hallway, "room tone": quiet_room},
    "ss-u": {"street": street, "market": market, "construction site": construction, "city siren": siren_far},
    "ss-s": {"drone": drone, "spaceship": spaceship, "dark ambience": dark_ambience, "shimmer": shimmer},
}
