"""Synthesised music and instrument samples: the classes m-* and is-*.

A recipe takes a `Draw` and gives `(samples, details)`: float32 mono and a dict of what was drawn that a title could
mention (`pitch` as a note name, `tempo` in beats a minute, `words`: adjectives that hold for the sound).
"""

import numpy as np
from synthesis_parts import (
    VOWELS,
    band,
    crush,
    curve,
    decay,
    echo,
    fade,
    formant_gains,
    harmonics,
    midi_to_hertz,
    modes,
    noise,
    normalise,
    note_name,
    place,
    tone,
    wander,
)

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10), (0, 2, 4, 7, 9))


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
    """Play detuned sawtooth or square oscillators through a closing filter."""
    count = draw.samples(seconds)
    pitch = float(midi_to_hertz(midi))
    odd = draw.chance(0.4)
    bright, dark = harmonics(48, 0.85, odd), harmonics(48, 0.9, odd, brightness=draw.between(0.6, 0.9))
    sound = sum(tone(draw, pitch * d, count, bright, dark) for d in (1, 1 + draw.between(0.004, 0.014)))
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
    ratio = draw.pick((1.41, 3.53, 2.76, 5.19))
    sound = np.sin(2 * np.pi * pitch * time + index * np.sin(2 * np.pi * pitch * ratio * time))
    return fade(sound * decay(count, draw, draw.between(1.5, 3)), draw, 0.002, 0.05)


def synth_pad(draw, midi, seconds):
    """Hold a chord of detuned sawtooths that swells in."""
    count = draw.samples(seconds)
    sound = np.zeros(count, np.float32)
    for interval in draw.pick(((0, 4, 7), (0, 3, 7), (0, 7, 12), (0, 5, 7))):
        pitch = float(midi_to_hertz(midi - 12 + interval))
        spectrum = harmonics(30, 1.0, brightness=draw.between(0.75, 0.92))
        drift = 1 + wander(draw, count, 2, -0.006, 0.006)
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
    count = draw.samples(draw.between(2.0, 3.4))
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
    count = draw.samples(draw.between(2.2, 3.4))
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
