"""Synthesised speech and sound effects: the classes sp-* and fx-*.

A recipe takes a `Draw` and gives `(samples, details)`: float32 mono and a dict of what was drawn that a title could
mention (`words`: adjectives that hold for the sound).
"""

import numpy as np
from scipy import signal
from synthesis_parts import (
    babble,
    band,
    crush,
    curve,
    decay,
    echo,
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
    tone,
    voice,
    wander,
)


def told(*words):
    """Give the details of a sound that only has adjectives."""
    return {"words": list(words)}


# --- speech ---------------------------------------------------------------------------------------------------------


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


# --- objects, vehicles, machines ------------------------------------------------------------------------------------


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


# --- people, animals, elements --------------------------------------------------------------------------------------


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


# --- experimental and designed --------------------------------------------------------------------------------------


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
    """Filter by a resonance that jumps through eight steps from low to high hertz."""
    pieces, state = [], np.zeros(2)
    for piece, centre in zip(np.array_split(samples, 8), np.geomspace(low, high, 8), strict=True):
        b, a = signal.iirpeak(centre, 3, fs=draw.rate)
        filtered, state = signal.lfilter(b, a, piece, zi=state)
        pieces.append(filtered)
    return np.concatenate(pieces).astype(np.float32)


def filtered_texture(draw):
    """Sweep a resonant filter over dense clicks."""
    count = draw.samples(draw.between(1.2, 2.8))
    clicks = grains(draw, count, draw.near(60, 300), 400, 6000, 0.01)
    return fade(sweep_filter(clicks, draw, draw.near(200, 600), draw.near(2000, 6000)), draw, 0.02, 0.05), told(
        "texture"
    )


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
