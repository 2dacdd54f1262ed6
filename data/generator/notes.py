"""Single notes of instruments and single hits of drums.

A note is a function of (draw, MIDI note, seconds), a hit a function of (draw); both give float32 samples (n,).
"""

import numpy as np

from generator.parts import (
    VOWELS,
    band,
    crush,
    curve,
    decay,
    fade,
    formant_gains,
    harmonics,
    midi_to_hertz,
    modes,
    noise,
    normalise,
    place,
    tone,
    wander,
)

# --- single notes: each takes (draw, midi, seconds) and gives samples -----------------------------------------------


def pluck(draw, midi, seconds, brightness=None, ring=None):
    """Pluck a string: partials slightly stretched, weighted by the plucking point, the high ones decaying faster."""
    pitch = float(midi_to_hertz(midi))
    count = draw.samples(seconds)
    number = np.arange(1, min(28, int(9000 / pitch) + 2))
    brightness = brightness or draw.between(0.8, 1.5)
    point = draw.between(0.12, 0.4)
    partials = pitch * number * np.sqrt(1 + draw.near(2e-5, 3e-4) * number**2)
    amplitudes = np.abs(np.sin(np.pi * number * point)) / number**brightness
    times = (ring or draw.between(1.2, 3.0)) / (1 + 0.25 * (number - 1))
    sound = normalise(modes(draw, partials, times, amplitudes, count))
    finger = noise(draw, draw.samples(0.012), 800, 6000)
    place(sound, 0, finger * decay(len(finger), draw, 0.012), 0.4)
    return fade(sound, draw, 0.002, 0.05)


def bow(draw, midi, seconds):
    """Bow a string: a sawtooth-like tone with vibrato, a slow start, body resonances and bow noise."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    time = np.arange(count) / draw.rate
    vibrato = draw.between(0.003, 0.01) * np.minimum(time / 0.4, 1) * np.sin(2 * np.pi * draw.between(4.8, 6.5) * time)
    number = np.arange(1, 31)
    body = 1 + 1.5 * np.exp(-(((number * pitch - draw.between(400, 600)) / 150) ** 2))
    body = body + 1.5 * np.exp(-(((number * pitch - draw.between(2000, 3200)) / 700) ** 2))
    sound = tone(draw, pitch * (1 + vibrato), count, harmonics(30, draw.between(0.9, 1.2)) * body)
    sound = sound + 0.06 * noise(draw, count, 1500, 8000)
    return fade(sound * wander(draw, count, 3, 0.75, 1), draw, min(0.12, seconds / 4), min(0.12, seconds / 4))


def flute(draw, midi, seconds):
    """Blow a flute: few harmonics, breath noise about the tone, tremolo."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    time = np.arange(count) / draw.rate
    tremolo = 1 + 0.18 * np.sin(2 * np.pi * draw.between(4.5, 6) * time)
    sound = tone(draw, pitch, count, [1, draw.between(0.15, 0.5), draw.between(0.04, 0.2), 0.05, 0.02]) * tremolo
    breath = noise(draw, count, pitch * 0.8, 7000, -3, [(pitch * 2, 3)])
    return fade(sound + draw.between(0.08, 0.25) * breath, draw, 0.06, 0.08)


def reed(draw, midi, seconds):
    """Blow a clarinet or saxophone: odd harmonics or all of them, a nasal formant."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    number = np.arange(1, 25)
    spectrum = harmonics(24, draw.between(0.8, 1.1), only_odd=draw.chance(0.6))
    spectrum = spectrum * (1 + 2 * np.exp(-(((number * pitch - draw.between(1000, 1700)) / 350) ** 2)))
    bend = 1 - 0.02 * np.exp(-np.arange(count) / (0.03 * draw.rate))
    sound = tone(draw, pitch * bend, count, spectrum * 0.9**number, spectrum)
    return fade(sound + 0.03 * noise(draw, count, 1000, 6000), draw, 0.04, 0.06)


def brass(draw, midi, seconds):
    """Blow a trumpet or trombone: the harmonics open up in the first tenth of a second."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    dark, bright = harmonics(26, 1.6), harmonics(26, draw.between(0.35, 0.6), brightness=0.93)
    opening = np.minimum(np.arange(count) / (draw.between(0.06, 0.15) * draw.rate), 1).astype(np.float32)
    shake = 1 + 0.004 * np.sin(2 * np.pi * draw.between(4.5, 6) * np.arange(count) / draw.rate)
    sound = tone(draw, pitch * shake, count, dark) * (1 - opening) + tone(draw, pitch * shake, count, bright) * opening
    return fade(sound, draw, 0.03, 0.07)


def piano(draw, midi, seconds):
    """Strike a piano string: stretched partials in beating pairs, two-stage decay, the knock of the hammer."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    number = np.arange(1, min(24, int(8000 / pitch) + 2))
    partials = pitch * number * np.sqrt(1 + 4e-4 * number**2)
    amplitudes = np.exp(-number / draw.between(2.5, 6)) * (np.abs(np.sin(np.pi * number / 8)) + 0.05)
    slow = draw.between(2.5, 5) / (1 + 0.15 * number)
    sound = modes(
        draw,
        np.concatenate([partials, partials * 1.0012]),
        np.concatenate([slow, slow * 0.35]),
        np.concatenate([amplitudes, amplitudes]),
        count,
    )
    knock = noise(draw, draw.samples(0.05), 60, 700) * decay(draw.samples(0.05), draw, 0.05)
    sound = normalise(sound)
    place(sound, 0, knock, 0.5)
    return fade(sound, draw, 0.003, 0.08)


def electric_piano(draw, midi, seconds):
    """Strike an electric piano: frequency modulation whose depth decays, with tremolo."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    time = np.arange(count) / draw.rate
    depth = draw.between(0.8, 2.0) * decay(count, draw, 1.0)
    sound = np.sin(2 * np.pi * pitch * time + depth * np.sin(2 * np.pi * pitch * time))
    sound = sound + 0.25 * np.sin(2 * np.pi * 14 * pitch * time) * decay(count, draw, 0.15)
    tremolo = 1 + draw.between(0, 0.3) * np.sin(2 * np.pi * draw.between(4, 7) * time)
    return fade(sound * decay(count, draw, draw.between(2, 4)) * tremolo, draw, 0.003, 0.06)


def organ(draw, midi, seconds):
    """Hold an organ key: drawbar harmonics, a key click, a slow rotor."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi)) / 2
    bars = np.zeros(16)
    bars[[0, 1, 2, 3, 5, 7, 9, 11, 15]] = draw.many(0.1, 1, 9)
    rotor = 1 + 0.003 * np.sin(2 * np.pi * draw.between(5, 7) * np.arange(count) / draw.rate)
    sound = tone(draw, pitch * rotor, count, bars) + 0.02 * noise(draw, count, 300, 4000)
    return fade(sound, draw, 0.01, 0.04)


def harpsichord(draw, midi, seconds):
    """Strike a harpsichord key: many even partials and the click of the jack."""
    sound = pluck(draw, midi, seconds, brightness=0.35, ring=draw.between(1.0, 2.0))
    sound = sound + 0.5 * np.resize(pluck(draw, midi + 12, seconds, 0.4, 1.0), len(sound))
    return fade(band(sound, draw, low=250), draw, 0.002, 0.05)


def synth_lead(draw, midi, seconds):
    """Play three detuned sawtooth or square oscillators, an octave below too, through a closing filter."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    odd = draw.chance(0.3)
    detune = draw.between(0.006, 0.02)
    bright, dark = harmonics(60, 0.6, odd), harmonics(60, 0.7, odd, brightness=draw.between(0.55, 0.85))
    sound = sum(tone(draw, pitch * d, count, bright, dark) for d in (0.5, 1 - detune, 1, 1 + detune))
    return fade(sound, draw, 0.008, 0.05)


def synth_bass(draw, midi, seconds):
    """Play a low sawtooth with a resonant filter that sweeps down."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi - 24))
    number = np.arange(1, 60)
    peaks = [draw.near(900, 2600), draw.near(120, 300)]
    spectra = [
        harmonics(59, 1.0)
        / np.sqrt(1 + (number * pitch / f) ** 6)
        * (1 + 5 * np.exp(-((number * pitch / f - 1) ** 2) * 8))
        for f in peaks
    ]
    return fade(crush(1.5 * tone(draw, pitch, count, *spectra), draw.between(1, 3)), draw, 0.004, 0.05)


def synth_bell(draw, midi, seconds):
    """Play a frequency-modulated bell with an inharmonic ratio: metallic and digital."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    time = np.arange(count) / draw.rate
    index = draw.between(2, 7) * decay(count, draw, draw.between(0.8, 2))
    ratio = draw.pick((1.41, 3.53, 2.76, 7.07))
    sound = np.sin(2 * np.pi * pitch * time + index * np.sin(2 * np.pi * pitch * ratio * time))
    return fade(sound * decay(count, draw, draw.between(1.5, 3)), draw, 0.002, 0.05)


def synth_pad(draw, midi, seconds):
    """Hold a chord of detuned sawtooths that swells in."""
    count = draw.samples(seconds)
    sound = np.zeros(count, np.float32)
    for interval in draw.pick(((0, 4, 7), (0, 3, 7), (0, 7, 12), (0, 5, 7))):
        pitch = float(midi_to_hertz(midi - 12 + interval))
        spectrum = harmonics(40, 0.8, brightness=draw.between(0.85, 0.95))
        drift = 1 + wander(draw, count, 4, -0.01, 0.01)
        sound = sound + tone(draw, pitch * drift, count, spectrum)
    return fade(sound, draw, min(0.35, seconds / 3), min(0.3, seconds / 3))


def arpeggio_chip(draw, midi, seconds):
    """Play an 8-bit square wave that hops through a chord."""
    count = draw.samples(seconds)
    steps = draw.pick(((0, 4, 7, 12), (0, 3, 7, 12), (0, 12), (0, 7)))
    hops = np.arange(count) * draw.between(12, 30) / draw.rate
    pitch = midi_to_hertz(midi + np.array(steps)[hops.astype(int) % len(steps)])
    return fade(tone(draw, pitch, count, harmonics(40, 1.0, only_odd=True)) * curve([1, 0.4], count), draw, 0.003, 0.03)


def mallet(draw, midi, seconds):
    """Strike a tuned bar, a marimba's or a vibraphone's: three modes of which the upper ones die at once."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    ring = draw.near(0.4, 1.8)
    sound = modes(draw, pitch * np.array([1, 3.98, 9.6]), ring / np.array([1, 3, 8]), [1, 0.35, 0.15], count)
    return fade(sound, draw, 0.001, 0.05)


def sung_vowel(draw, midi, seconds):
    """Sing a vowel on one note, with vibrato."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    number = np.arange(1, 50)
    spectrum = formant_gains(number * pitch, np.array(draw.pick(VOWELS)) * draw.between(1, 1.2)) / number**0.5
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * draw.between(5, 6.5) * np.arange(count) / draw.rate)
    return fade(tone(draw, pitch * vibrato, count, spectrum), draw, 0.08, 0.1)


# --- drums: each takes a draw and gives samples ---------------------------------------------------------------------


def kick(draw):
    """Hit a bass drum: a sine that falls in pitch, with a click."""
    count = draw.samples(draw.between(0.25, 0.55))
    time = np.arange(count) / draw.rate
    pitch = draw.near(42, 65) + draw.near(80, 220) * np.exp(-time / draw.between(0.015, 0.04))
    sound = np.sin(2 * np.pi * np.cumsum(pitch) / draw.rate) * decay(count, draw, count / draw.rate)
    place(sound, 0, noise(draw, 160, 1000, 6000) * decay(160, draw, 0.005), draw.between(0.1, 0.8))
    return fade(crush(sound, draw.between(1, 2.5)), draw, 0.001, 0.03)


def snare(draw):
    """Hit a snare drum: two membrane modes and the rattle of the wires."""
    count = draw.samples(draw.between(0.18, 0.4))
    pitch = draw.near(160, 240)
    body = modes(draw, [pitch, pitch * 1.6, pitch * 2.3], 0.18, [1, 0.6, 0.3], count)
    rattle = noise(draw, count, 1500, draw.near(7000, 12000)) * decay(count, draw, draw.between(0.15, 0.35))
    return fade(normalise(body, 0.6) + draw.between(0.8, 2) * rattle, draw, 0.001, 0.02)


def hat(draw, opened=None):
    """Hit a hi-hat, open or closed: high noise with a metallic grain."""
    opened = draw.chance(0.3) if opened is None else opened
    count = draw.samples(draw.between(0.3, 0.7) if opened else draw.between(0.05, 0.12))
    metal = modes(draw, draw.many(5000, 13000, 14), 0.5, 1.0, count)
    sound = noise(draw, count, draw.near(5500, 8000), 15000) + 0.15 * normalise(metal)
    return fade(sound * decay(count, draw, count / draw.rate), draw, 0.001, 0.01)


def cymbal(draw):
    """Hit a crash cymbal: a long dense cloud of high modes."""
    count = draw.samples(draw.between(1.0, 2.4))
    metal = modes(draw, np.exp(draw.many(np.log(400), np.log(13000), 60)), draw.many(0.6, 3, 60), 1.0, count)
    hiss = noise(draw, count, 4000, 15000) * decay(count, draw, draw.between(1, 2))
    return fade(normalise(metal, 0.6) + hiss, draw, 0.002, 0.1)


def tom(draw):
    """Hit a tom, conga or other skin: membrane modes that fall slightly in pitch."""
    count = draw.samples(draw.between(0.25, 0.6))
    pitch = draw.near(80, 320)
    ratios = np.array([1, 1.59, 2.14, 2.3, 2.65, 2.92])
    times = draw.between(0.25, 0.6) / np.array([1, 1.6, 2, 2.2, 2.5, 3])
    sound = normalise(modes(draw, pitch * ratios, times, [1, 0.5, 0.35, 0.25, 0.2, 0.15], count))
    place(sound, 0, noise(draw, 400, 300, 4000) * decay(400, draw, 0.012), draw.between(0.2, 0.8))
    return fade(sound, draw, 0.001, 0.03)


def wood_or_bell(draw):
    """Hit a woodblock, clave, cowbell or triangle: few free-bar modes, short for wood and long for metal."""
    metal = draw.chance(0.5)
    count = draw.samples(draw.between(0.4, 1.2) if metal else draw.between(0.08, 0.2))
    pitch = draw.near(500, 2500)
    sound = modes(draw, pitch * np.array([1, 1.504, 2.76, 5.4]), 1.0 if metal else 0.09, [1, 0.7, 0.5, 0.3], count)
    return fade(sound, draw, 0.0008, 0.02)


def shaker(draw):
    """Shake a shaker or tambourine: a swelling stroke of high noise."""
    count = draw.samples(draw.between(0.1, 0.25))
    stroke = np.sin(np.linspace(0, np.pi, count)) ** draw.between(1.5, 4)
    return fade(noise(draw, count, 4500, 13000, 0, [(draw.near(5500, 9000), 4)]) * stroke, draw, 0.01, 0.02)


DRUMS = {
    "kick drum": kick,
    "snare drum": snare,
    "hi-hat": hat,
    "cymbal": cymbal,
    "tom": tom,
    "woodblock": wood_or_bell,
    "shaker": shaker,
}
# name: (note function, lowest and highest MIDI note, shortest and longest note in seconds)
NOTES = {
    "acoustic guitar": (pluck, (40, 72), (0.8, 2.2)),
    "bass guitar": (pluck, (28, 45), (0.8, 2.0)),
    "harp": (pluck, (48, 84), (0.9, 2.2)),
    "violin": (bow, (55, 88), (0.7, 2.2)),
    "cello": (bow, (36, 62), (0.8, 2.4)),
    "flute": (flute, (60, 90), (0.6, 2.0)),
    "clarinet": (reed, (50, 80), (0.6, 2.0)),
    "saxophone": (reed, (46, 74), (0.6, 2.0)),
    "trumpet": (brass, (55, 80), (0.5, 1.8)),
    "piano": (piano, (33, 88), (0.9, 2.6)),
    "electric piano": (electric_piano, (40, 80), (0.8, 2.2)),
    "organ": (organ, (48, 84), (0.6, 2.2)),
    "harpsichord": (harpsichord, (45, 80), (0.7, 1.8)),
    "synth lead": (synth_lead, (45, 80), (0.5, 2.0)),
    "synth bass": (synth_bass, (45, 66), (0.4, 1.5)),
    "synth bell": (synth_bell, (55, 88), (0.8, 2.4)),
    "synth pad": (synth_pad, (48, 76), (1.4, 3.0)),
    "chiptune": (arpeggio_chip, (50, 84), (0.4, 1.6)),
    "marimba": (mallet, (48, 84), (0.6, 1.6)),
    "sung vowel": (sung_vowel, (48, 76), (0.8, 2.0)),
}
