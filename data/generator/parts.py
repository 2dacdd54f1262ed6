"""Building blocks of the synthesised sounds: random draws, tones, decaying modes, shaped noise, speech, rooms.

Signals are float32 arrays of shape (samples,), roughly within [-1, 1]; frequencies are in hertz and times in seconds.
Every function that draws takes a `Draw`, which carries the generator and the sample rate.
"""

from dataclasses import dataclass

import numpy as np

# scipy.signal would do too, but importing it takes a second in every worker
from scipy import fft

TABLE = 2048  # samples in a wavetable
BLOCK = 256  # samples in a block of `modes`


@dataclass
class Draw:
    """A random generator with the sample rate in hertz; `widening` stretches every range, 0.2 = by 20 %."""

    rng: np.random.Generator
    rate: int
    widening: float = 0.0

    def between(self, low, high):
        """Draw uniformly from the range, which is stretched about its middle but never crosses zero."""
        stretch = self.widening * (high - low) / 2
        wide_low = low - stretch
        return self.rng.uniform(low if wide_low <= 0 <= low else wide_low, high + stretch)

    def near(self, low, high):
        """Draw log-uniformly from the positive range: for frequencies, times and rates."""
        stretch = self.widening * np.log(high / low) / 2
        return float(np.exp(self.rng.uniform(np.log(low) - stretch, np.log(high) + stretch)))

    def many(self, low, high, count):
        """Draw `count` values uniformly: array (count,)."""
        return self.rng.uniform(low, high, count)

    def whole(self, low, high):
        """Draw a whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, options):
        """Draw one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability):
        """Draw True with this probability."""
        return bool(self.rng.random() < probability)

    def samples(self, seconds):
        """Turn a time in seconds into a number of samples, at least 16."""
        return max(16, int(seconds * self.rate))


def midi_to_hertz(midi):
    """Turn MIDI note numbers (69 = A4 = 440 Hz) into hertz."""
    return 440.0 * 2.0 ** ((np.asarray(midi, float) - 69) / 12)


def note_name(midi):
    """Name a MIDI note number: 57 -> "A3"."""
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    return f"{names[int(midi) % 12]}{int(midi) // 12 - 1}"


def curve(values, count):
    """Join control values, equally spaced, by straight lines: array (count,)."""
    return np.interp(np.linspace(0, len(values) - 1, count), np.arange(len(values)), values)


def wander(draw, count, per_second, low=0.0, high=1.0):
    """Draw a smooth random curve (count,) between low and high that changes direction `per_second` times."""
    points = draw.many(low, high, max(2, int(count / draw.rate * per_second) + 2))
    return curve(points, count)


def fade(samples, draw, attack=0.005, release=0.02):
    """Fade in and out over these times, so that no clip starts or ends with a click."""
    count = len(samples)
    rise, fall = min(draw.samples(attack), count // 2), min(draw.samples(release), count // 2)
    samples = np.array(samples, np.float32)
    samples[:rise] *= 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, rise, dtype=np.float32))
    samples[count - fall :] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, fall, dtype=np.float32))
    return samples


def decay(count, draw, seconds):
    """Give an exponential decay (count,) that falls by 60 dB in `seconds`."""
    return np.exp(np.arange(count, dtype=np.float32) * np.float32(-6.91 / (seconds * draw.rate)))


def normalise(samples, peak=0.9):
    """Take out the mean and scale to this peak; silence stays silence."""
    samples = np.asarray(samples, np.float32)
    samples = samples - samples.mean()
    highest = np.abs(samples).max()
    return samples * np.float32(peak / highest) if highest > 1e-9 else samples


def place(target, start, piece, gain=1.0):
    """Add a piece to the target from sample `start` on, cut at the end of the target."""
    start = int(start)
    length = min(len(piece), len(target) - start)
    if length > 0 and start >= 0:
        target[start : start + length] += np.float32(gain) * piece[:length]


def wavetable(amplitudes):
    """Give one period (TABLE,) of the sum of harmonics 1, 2, … with these amplitudes, at a peak of 1."""
    amplitudes = np.asarray(amplitudes, float)[: TABLE // 2 - 1]
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    # Schroeder's phases keep the peak low whatever the harmonics are
    number = np.arange(1, len(amplitudes) + 1)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(-1j * np.pi * number * (number - 1) / len(amplitudes))
    table = fft.irfft(spectrum)
    return (table / max(np.abs(table).max(), 1e-12)).astype(np.float32)


def tone(draw, pitch, count, amplitudes, later=None):
    """Synthesise a harmonic tone (count,).

    `pitch` is in hertz, a number or an array (count,); `amplitudes` are those of harmonics 1, 2, …; where `later`
    is given the tone passes from the first amplitudes to these. Harmonics above 0.45 of the rate are left out.
    """
    pitch = np.asarray(pitch, float)
    most = max(1, int(0.45 * draw.rate / pitch.max()))
    if pitch.ndim:
        phase = np.cumsum(pitch) / draw.rate
    else:
        phase = np.arange(count) * (float(pitch) / draw.rate)
    position = ((phase + draw.rng.random()) % 1.0 * TABLE).astype(np.int32) % TABLE
    first = wavetable(amplitudes[:most])[position]
    if later is None:
        return first
    mix = np.linspace(0, 1, count, dtype=np.float32)
    return first * (1 - mix) + wavetable(later[:most])[position] * mix


def harmonics(count, slope, only_odd=False, brightness=1.0):
    """Give amplitudes (count,) falling as k**-slope; `only_odd` damps the even ones, as in closed pipes."""
    number = np.arange(1, count + 1)
    amplitudes = number**-slope * brightness ** (number - 1)
    return np.where(only_odd & (number % 2 == 0), 0.06 * amplitudes, amplitudes)


def modes(draw, frequencies, seconds, amplitudes, count):
    """Sum exponentially decaying sinusoids, (count,): the sound of a struck or plucked body.

    `frequencies` in hertz, `seconds` (time to fall by 60 dB) and `amplitudes` have the shape (modes,).
    A power of a complex number is the product of two shorter powers, so that the whole is one matrix product.
    """
    frequencies = np.asarray(frequencies, float)
    keep = frequencies < 0.46 * draw.rate
    frequencies = frequencies[keep]
    seconds = np.broadcast_to(np.asarray(seconds, float), keep.shape)[keep]
    amplitudes = np.broadcast_to(np.asarray(amplitudes, float), keep.shape)[keep]
    exponent = (-6.91 / seconds + 2j * np.pi * frequencies) / draw.rate
    blocks = -(-count // BLOCK)
    start = amplitudes * np.exp(1j * draw.many(0, 2 * np.pi, len(frequencies)))
    coarse = start * np.exp(exponent * BLOCK * np.arange(blocks)[:, None])
    fine = np.exp(exponent[:, None] * np.arange(BLOCK))
    left = np.concatenate([coarse.real, -coarse.imag], axis=1).astype(np.float32)
    right = np.concatenate([fine.real, fine.imag]).astype(np.float32)
    return (left @ right).reshape(-1)[:count]


def noise(draw, count, low=20.0, high=20000.0, slope=0.0, peaks=()):
    """Draw noise (count,), RMS 0.25: band `low` to `high` in hertz, dB an octave, (frequency, gain) peaks."""
    length = fft.next_fast_len(count, real=True)
    frequency = np.maximum(fft.rfftfreq(length, 1 / draw.rate).astype(np.float32), 1.0)
    below, above = (low / frequency) ** 2, (frequency / high) ** 2
    gain = 1 / np.sqrt((1 + below * below * below) * (1 + above * above * above))  # ** 6 is ten times as slow
    if slope:
        gain *= (frequency / 1000.0) ** np.float32(slope / 6.02)
    for centre, height in peaks:
        gain *= 1 + height / (1 + ((frequency - centre) / (0.12 * centre)) ** 2)
    spectrum = draw.rng.standard_normal((2, len(frequency)), dtype=np.float32)
    samples = fft.irfft((spectrum[0] + 1j * spectrum[1]) * gain, length)[:count]
    return (samples * (0.25 / max(float(samples.std()), 1e-12))).astype(np.float32)


def grains(draw, count, per_second, low, high, seconds, rising=False):
    """Scatter short decaying sinusoids (drops, crackles, bubbles) over (count,) samples.

    About `per_second` grains of `low` to `high` hertz that last about `seconds` each; a grain may glide upwards.
    """
    target = np.zeros(count, np.float32)
    number = max(1, int(per_second * count / draw.rate))
    length = draw.samples(seconds * 1.5)
    time = np.arange(length, dtype=np.float32) / draw.rate
    # a small stock of grains is enough for the ear and saves most of the work
    stock = []
    for frequency in np.exp(draw.many(np.log(low), np.log(high), min(number, 12))):
        glide = time * (1 + (time / time[-1] * 0.6 if rising else 0))
        envelope = np.exp(time * (-4.0 / seconds)) * np.minimum(time / 0.0006, 1)
        stock.append(np.sin(2 * np.pi * frequency * glide) * envelope)
    starts = draw.rng.integers(0, max(1, count - 16), number)
    gains = draw.many(0.05, 1, number) ** 2
    for index, (start, gain) in enumerate(zip(starts, gains, strict=True)):
        place(target, start, stock[index % len(stock)], gain)
    return target


def band(samples, draw, low=None, high=None, order=2):
    """Filter to the band between low and high hertz (gain of Butterworth's filter, no phase); None = open."""
    count = len(samples)
    length = fft.next_fast_len(count + 1024, real=True)
    frequency = np.maximum(fft.rfftfreq(length, 1 / draw.rate).astype(np.float32), 1.0)
    gain = np.ones_like(frequency)
    if high is not None:
        gain /= np.sqrt(1 + (frequency / high) ** (2 * order))
    if low is not None:
        gain /= np.sqrt(1 + (low / frequency) ** (2 * order))
    return fft.irfft(fft.rfft(np.asarray(samples, np.float32), length) * gain, length)[:count]


def convolve(samples, response):
    """Convolve (n,) with (m,) by FFT, cut to (n,)."""
    length = fft.next_fast_len(len(samples) + len(response) - 1, real=True)
    product = fft.rfft(np.asarray(samples, np.float32), length) * fft.rfft(np.asarray(response, np.float32), length)
    return fft.irfft(product, length)[: len(samples)]


def reverb(samples, draw, seconds=0.5, wet=0.3):
    """Add a room: a decaying noise tail of `seconds` (to -60 dB), the length of the clip unchanged."""
    tail = draw.samples(seconds)
    response = noise(draw, tail, 150, 5000) * decay(tail, draw, seconds)
    response /= np.sqrt((response**2).sum()) + 1e-9
    return (1 - 0.5 * wet) * samples + wet * convolve(samples, response)


def echo(samples, draw, seconds, feedback):
    """Repeat the sound every `seconds` at `feedback` times the level before, three times."""
    result = np.array(samples, np.float32)
    for number in (1, 2, 3):
        place(result, number * draw.samples(seconds), samples, feedback**number)
    return result


def crush(samples, drive):
    """Distort by tanh; `drive` is the gain before it."""
    return np.tanh(drive * samples).astype(np.float32)


def resample_by(samples, factor):
    """Play faster by `factor` (2 = an octave higher), linearly interpolated."""
    positions = np.arange(0, len(samples) - 1, factor)
    return np.interp(positions, np.arange(len(samples)), samples).astype(np.float32)


# first three formants, in hertz, of an adult male voice
VOWELS = (
    (270, 2290, 3010),
    (390, 1990, 2550),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (440, 1020, 2240),
    (300, 870, 2240),
    (490, 1350, 1690),
)


@dataclass
class Voice:
    """A speaker: mean pitch in hertz, formants relative to a man's, syllables a second, share of breath 0 to 1."""

    pitch: float
    formants: float
    speed: float
    breath: float
    liveliness: float = 0.2


def voice(draw, kind=None):
    """Draw a speaker of one kind: man, woman or child."""
    kind = kind or draw.pick(("man", "woman", "man", "woman", "child"))
    pitch = {"man": (85, 150), "woman": (165, 250), "child": (250, 380)}[kind]
    scale = {"man": 1.0, "woman": 1.16, "child": 1.35}[kind]
    speed, breath = draw.between(3.6, 6.2), draw.between(0.02, 0.15)
    return Voice(draw.near(*pitch), scale * draw.between(0.95, 1.05), speed, breath, draw.between(0.1, 0.35))


def formant_gains(frequencies, formants):
    """Give the gain of three vocal tract resonances, and a weak fourth, at these frequencies in hertz."""
    gain = np.zeros_like(frequencies)
    levels = zip((*formants, 3500.0), (1.0, 0.55, 0.28, 0.12), (80.0, 100.0, 140.0, 250.0), strict=True)
    for centre, level, width in levels:
        gain += level / np.sqrt(1 + ((frequencies - centre) / width) ** 2)
    return gain


def speech(draw, count, speaker, pause=0.15, whispered=False, monotone=False):
    """Synthesise speech-like syllables (count,): a glottal source through moving formants, with consonants.

    `pause` is the chance of a rest after a syllable; `monotone` keeps the pitch, as a robot does.
    """
    target = np.zeros(count, np.float32)
    hiss = noise(draw, count, 2500 * speaker.formants, 9000)
    breath = noise(draw, count, 300, 6000, -3)
    accent = wander(draw, count, 2.5, 1 - speaker.liveliness, 1 + speaker.liveliness)
    start = draw.samples(draw.between(0.0, 0.12))
    vowel = draw.pick(VOWELS)
    while start < count - draw.samples(0.08):
        length = draw.samples(draw.between(0.6, 1.3) / speaker.speed)
        consonant = draw.rng.random()
        if consonant < 0.35:  # a fricative
            size = min(draw.samples(draw.between(0.04, 0.1)), count - start)
            place(target, start, fade(hiss[start : start + size], draw, 0.01, 0.02), draw.between(0.1, 0.5))
            start += int(0.8 * size)
        elif consonant < 0.6:  # a stop: silence, then a short burst
            start += draw.samples(draw.between(0.02, 0.06))
            size = min(draw.samples(0.012), count - start)
            if size > 32:
                place(target, start, fade(hiss[start : start + size], draw, 0.001, 0.006), draw.between(0.3, 0.9))
            start += max(size, 0) // 2
        length = min(length, count - start)
        if length < 64:
            break
        following = draw.pick(VOWELS)
        pitch = np.full(length, speaker.pitch) if monotone else speaker.pitch * accent[start : start + length]
        if whispered:
            scaled = [(f * speaker.formants, 12.0) for f in vowel]
            sound = noise(draw, length, 400, 7000, -3, scaled)
        else:
            number = np.arange(1, max(2, int(6000 / pitch.mean())) + 1)
            spectra = [
                formant_gains(number * pitch.mean(), np.array(shape) * speaker.formants) / number**0.5
                for shape in (vowel, following)
            ]
            sound = tone(draw, pitch, length, *spectra)
            sound = sound + speaker.breath * breath[start : start + length]
        sound = fade(sound, draw, 0.02, 0.04)
        place(target, start, sound, draw.between(0.5, 1.0))
        start += int(length * 0.92)
        vowel = following
        if draw.chance(pause):
            start += draw.samples(draw.between(0.1, 0.4))
    return target


def babble(draw, count, voices):
    """Let many people speak at once, (count,): one or two speakers, repeated at other pitches and times."""
    target = np.zeros(count, np.float32)
    speakers = 1 if voices < 6 else 2
    for _ in range(speakers):
        sample = speech(draw, count, voice(draw), pause=0.05)
        for _ in range(voices // speakers):
            other = resample_by(sample, draw.between(0.75, 1.3))
            place(target, 0, np.resize(np.roll(other, draw.whole(0, count)), count), draw.between(0.3, 1.0))
    return target / np.float32(np.sqrt(max(voices, 1)))


def told(*words):
    """Give the details of a sound that only has adjectives."""
    return {"words": list(words)}
