"""Synthesised objects, vehicles and machines: the classes fx-o, fx-v and fx-m.

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
    reverb,
    told,
    tone,
    wander,
)


def impact(draw, low, high, ring, number=10, hardness=6000):
    """Strike an object: random modes between low and high hertz that ring for `ring` seconds, and a noise burst."""
    count = draw.samples(min(ring * 1.2 + 0.05, 1.6))
    frequencies = np.exp(draw.many(np.log(low), np.log(high), number))
    sound = normalise(modes(draw, frequencies, ring * draw.many(0.3, 1, number), draw.many(0.2, 1, number), count))
    burst = noise(draw, count, low * 0.7, hardness) * decay(count, draw, 0.03)
    return fade(sound + draw.between(0.3, 1.0) * burst, draw, 0.0008, 0.02)


def several(draw, strike, count, low, high):
    """Repeat a strike at irregular times, `low` to `high` seconds apart, over (count,) samples."""
    target = np.zeros(count, np.float32)
    start = draw.samples(0.01)
    stock = [strike() for _ in range(3)]
    while start < count:
        place(target, start, draw.pick(stock), draw.between(0.3, 1))
        start += draw.samples(draw.near(low, high))
    return target


def knock(draw):
    """Knock on a door or table."""
    low = draw.near(110, 260)
    count = draw.samples(draw.between(0.5, 1.6))
    return several(draw, lambda: impact(draw, low, 1400, 0.12, 8, 3000), count, 0.12, 0.35), told("wooden")


def door(draw):
    """Creak and slam a door."""
    count = draw.samples(draw.between(0.9, 2.2))
    target = np.zeros(count, np.float32)
    length = int(count * draw.between(0.3, 0.6))
    rasp = tone(draw, curve(draw.many(60, 260, 5), length), length, harmonics(40, 0.3))
    place(target, 0, fade(band(rasp, draw, 500, 4500) * wander(draw, length, 8), draw, 0.05, 0.05), 0.35)
    place(target, length, impact(draw, 55, 700, 0.35, 14, 2500), 1.3)
    place(target, length + draw.samples(0.05), impact(draw, 1500, 5000, 0.06, 6), 0.4)
    return reverb(target, draw, 0.4, 0.3), told("slam")


def glass(draw):
    """Clink glasses or break one."""
    broken = draw.chance(0.4)
    count = draw.samples(draw.between(0.6, 1.7))
    target = several(draw, lambda: impact(draw, 1800, 9000, 0.5, 9, 12000), count, 0.15, 0.6)
    if broken:
        target += 1.5 * grains(draw, count, 60, 2500, 9000, 0.06) * curve([1, 0.5, 0.2, 0.05], count)
    return target, told("broken" if broken else "clink")


def cutlery(draw):
    """Rattle cutlery, plates or keys."""
    count = draw.samples(draw.between(0.7, 2.0))
    return several(draw, lambda: impact(draw, 2200, 9500, 0.22, 8, 9000), count, 0.03, 0.16), told("metallic")


def paper(draw):
    """Rustle paper or plastic: bursts of crackling noise."""
    count = draw.samples(draw.between(0.7, 2.0))
    crackle = grains(draw, count, 320, 1800, 8000, 0.006)
    rustle = noise(draw, count, 1800, 11000) * wander(draw, count, 14) ** 2
    return fade((rustle + crackle) * wander(draw, count, 5, 0.05, 1), draw, 0.02, 0.05), told("crumpled")


def switch(draw):
    """Click a switch, a pen or a lock: two dry clicks."""
    count = draw.samples(draw.between(0.3, 0.7))
    return several(draw, lambda: impact(draw, 1200, 7000, 0.04, 6, 10000), count, 0.1, 0.3), told("short")


def ball(draw):
    """Drop something that bounces, each time sooner."""
    count = draw.samples(draw.between(0.8, 1.8))
    target = np.zeros(count, np.float32)
    strike, start, wait = impact(draw, draw.near(180, 600), 3500, 0.12, 7), 0, draw.between(0.2, 0.42)
    for bounce in range(14):
        place(target, draw.samples(start), strike, 0.85**bounce)
        start, wait = start + wait, wait * draw.between(0.72, 0.84)
    return target, told("bouncing")


def engine(draw, count, pulses, roughness=0.4):
    """Run a combustion engine (count,): `pulses` is its firing rate in hertz, an array (count,)."""
    resonances = np.arange(1, 50) * pulses.mean()
    exhaust = 1 / (1 + (resonances / draw.near(120, 350)) ** 1.5) + 0.2 * np.exp(-(((resonances - 900) / 500) ** 2))
    jitter = 1 + wander(draw, count, 30, -0.03, 0.03)
    sound = tone(draw, pulses * jitter, count, exhaust * draw.many(0.4, 1, 49))
    half = tone(draw, pulses * jitter / 2, count, exhaust * draw.many(0.1, 0.7, 49))
    rumble = noise(draw, count, 60, 2500, -4) * (0.6 + 0.4 * sound)
    return crush(sound + 0.7 * half + roughness * rumble, draw.between(0.8, 2.0))


def car_revving(draw):
    """Rev an engine: the firing rate rises and falls."""
    count = draw.samples(draw.between(1.4, 3.0))
    idle = draw.near(24, 40)
    turns = curve([idle, idle * 1.1, idle * draw.between(2, 4), idle * draw.between(1.5, 5), idle], count)
    return fade(engine(draw, count, turns), draw, 0.05, 0.1), told("revving")


def motorbike(draw):
    """Run a small engine that races through its gears."""
    count = draw.samples(draw.between(1.4, 2.8))
    low = draw.near(60, 100)
    gears = curve([low, low * 2.2, low * 1.3, low * 2.5, low * 1.5, low * 2.6], count)
    return fade(crush(engine(draw, count, gears, 0.25), 3), draw, 0.05, 0.1), told("fast")


def passing_by(draw):
    """Pass by: tyre noise and engine swell and sink, and the pitch falls."""
    count = draw.samples(draw.between(1.8, 3.4))
    time = np.arange(count) / draw.rate
    speed, moment = draw.between(12, 30), draw.between(0.35, 0.65) * count / draw.rate
    distance = np.sqrt(4.0 + (speed * (time - moment)) ** 2)
    doppler = 1 / (1 + speed**2 * (time - moment) / distance / 343)
    sound = engine(draw, count, draw.near(45, 90) * doppler, 0.3) * 0.8 + noise(draw, count, 250, 4500, -3)
    return fade(sound * (2.0 / distance) ** 0.8, draw, 0.1, 0.15), told("passing")


def train(draw):
    """Roll over rail joints: rumble, a metallic hiss and regular double knocks."""
    count = draw.samples(draw.between(1.8, 3.2))
    sound = noise(draw, count, 40, 900, -3) + 0.25 * noise(draw, count, 2500, 8000, 0, [(draw.near(3000, 5000), 5)])
    wheel, period = impact(draw, 120, 2500, 0.16, 10, 4000), draw.between(0.35, 0.6)
    for index in range(int(count / draw.rate / period) + 1):
        for lag in (0, 0.11):
            place(sound, draw.samples(index * period + lag), wheel, draw.between(0.8, 1.4))
    if draw.chance(0.3):
        length = draw.samples(0.8)
        horn = tone(draw, 311.0, length, harmonics(14, 0.5)) + tone(draw, 370.0, length, harmonics(14, 0.5))
        place(sound, draw.whole(0, count // 2), fade(horn, draw, 0.06, 0.1), 0.5)
    return fade(sound, draw, 0.08, 0.15), told("rolling")


def propeller(draw):
    """Fly a propeller plane or helicopter: blade thumps over a turbine whine."""
    count = draw.samples(draw.between(1.6, 3.0))
    blades = draw.near(11, 28)
    thump = np.maximum(tone(draw, blades, count, harmonics(12, 0.4)), 0)
    sound = noise(draw, count, 60, 1600, -4) * (0.25 + 2.2 * thump)
    whine = tone(draw, draw.near(900, 2500) * (1 + wander(draw, count, 1, -0.01, 0.01)), count, [1, 0.3, 0.2])
    return fade(sound + draw.between(0.03, 0.12) * whine, draw, 0.15, 0.2), told("flying")


def fan(draw):
    """Run a fan or vacuum cleaner: steady noise with motor harmonics."""
    count = draw.samples(draw.between(1.3, 3.0))
    pitch = draw.near(90, 420)
    motor = tone(draw, pitch, count, harmonics(20, 0.8) * draw.many(0.1, 1, 20))
    sound = noise(draw, count, 200, draw.near(3000, 9000), -2, [(pitch * 4, 4)]) + draw.between(0.15, 0.5) * motor
    return fade(sound, draw, 0.08, 0.12), told("steady")


def drill(draw):
    """Run an electric drill or saw that is loaded and unloaded."""
    count = draw.samples(draw.between(1.0, 2.6))
    top = draw.near(350, 900)
    pitch = top * curve([0.15, 1, 0.95, draw.between(0.6, 0.8), 0.7, 1, 0.2], count)
    sound = tone(draw, pitch, count, harmonics(30, 0.4) * draw.many(0.2, 1, 30))
    grind = noise(draw, count, 1500, 9000) * (0.3 + 0.7 * wander(draw, count, 6))
    return fade(crush(sound + 0.5 * grind, 2), draw, 0.05, 0.08), told("harsh")


def washing_machine(draw):
    """Turn a drum: periodic thumps, sloshing and mains hum."""
    count = draw.samples(draw.between(1.8, 3.2))
    hum = tone(draw, draw.pick((50.0, 60.0)) * 2, count, harmonics(8, 0.7) * draw.many(0.2, 1, 8))
    cycle = 0.5 + 0.5 * np.sin(2 * np.pi * draw.between(1.2, 3.5) * np.arange(count) / draw.rate)
    sound = 0.5 * hum + noise(draw, count, 120, 1800, -3) * (0.2 + cycle**3)
    return fade(sound, draw, 0.08, 0.1), told("rhythmic")


def printer(draw):
    """Run a mechanism with steps: a click and a whirr at a fixed rate."""
    count = draw.samples(draw.between(1.2, 2.8))
    rate = draw.near(6, 18)
    step = impact(draw, 900, 5000, 0.05, 7)
    target = 0.12 * noise(draw, count, 800, 5000, 0, [(draw.near(1200, 3000), 8)])
    whirr = tone(draw, draw.near(300, 700), count, harmonics(20, 0.6))
    target = target + 0.12 * whirr * (np.sin(2 * np.pi * rate / 4 * np.arange(count) / draw.rate) > 0)
    for index in range(int(count / draw.rate * rate)):
        place(target, draw.samples(index / rate), step, draw.between(0.6, 0.9))
    return fade(target, draw, 0.02, 0.05), told("mechanical")


def clock(draw):
    """Tick a clock, sometimes with the hum of its case."""
    count = draw.samples(draw.between(1.4, 3.2))
    tick, tock = (impact(draw, 1400, 6500, 0.05, 6, 9000) for _ in range(2))
    target = np.zeros(count, np.float32)
    period = draw.pick((0.2, 0.25, 0.5))
    for index in range(int(count / draw.rate / period) + 1):
        place(target, draw.samples(index * period), tock if index % 2 else tick, 0.8)
    return target, told("ticking")


RECIPES = {
    "fx-o": {
        "knock": knock,
        "door": door,
        "glass": glass,
        "cutlery": cutlery,
        "paper": paper,
        "switch": switch,
        "ball": ball,
    },
    "fx-v": {
        "car engine": car_revving,
        "motorbike": motorbike,
        "car passing": passing_by,
        "train": train,
        "helicopter": propeller,
    },
    "fx-m": {
        "fan": fan,
        "drill": drill,
        "washing machine": washing_machine,
        "printer": printer,
        "clock": clock,
    },
}
