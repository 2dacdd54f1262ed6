"""Synthesise a clip of any class of the Broad Sound Taxonomy, as an uploader with some equipment would record it.

samples, attributes = synthesise("fx-a", np.random.default_rng(0))
samples = record(samples, Conditions(), rng, 32000)
"""

from dataclasses import dataclass

import numpy as np

from generator import design as synthesis_design
from generator import music as synthesis_music
from generator import nature as synthesis_nature
from generator import scenes as synthesis_scenes
from generator import speech as synthesis_speech
from generator import things as synthesis_things
from generator.parts import Draw, band, fade, noise, normalise, reverb, tone

# class code -> recipe name -> function
RECIPES = {
    **synthesis_music.RECIPES,
    **synthesis_speech.RECIPES,
    **synthesis_things.RECIPES,
    **synthesis_nature.RECIPES,
    **synthesis_design.RECIPES,
    **synthesis_scenes.RECIPES,
}
# how far each variant stretches the ranges of its recipes: pretraining sees more than the embedded dataset holds
VARIANTS = {"mini": 0.0, "general": 0.2}
LONGEST = 6.0  # seconds


@dataclass(frozen=True)
class Conditions:
    """How an uploader records: habits that all of their clips share.

    `level` is the peak in dBFS, `noise_level` that of the background relative to the sound in dB, `cutoff` the upper
    band limit in hertz, `room` the reverberation time in seconds (0 = dry), `hum` the mains hum in dB or None.
    """

    level: float = -3.0
    noise_level: float = -60.0
    cutoff: float = 16000.0
    low_cut: float = 20.0
    room: float = 0.0
    hum: float | None = None


def draw_conditions(rng):
    """Draw the recording habits of one uploader."""
    return Conditions(
        level=float(-rng.gamma(1.6, 4.0)) - 0.5,
        noise_level=float(rng.uniform(-70, -30)),
        cutoff=float(rng.choice([3800.0, 6500.0, 9000.0, 12000.0, 16000.0], p=[0.05, 0.1, 0.15, 0.2, 0.5])),
        low_cut=float(rng.choice([20.0, 60.0, 120.0, 250.0], p=[0.5, 0.25, 0.15, 0.1])),
        room=float(rng.choice([0.0, 0.25, 0.6, 1.2], p=[0.6, 0.2, 0.15, 0.05])),
        hum=float(rng.uniform(-45, -30)) if rng.random() < 0.12 else None,
    )


def synthesise(code, rng, sample_rate=32000, variant="mini", recipe=None):
    """Synthesise one clip of the class `code`.

    Returns the samples, float32 (n,), peak 0.9, without the traces of any recording, and the attributes: `recipe`
    (its name), `words` (adjectives) and, where the sound has them, `pitch` ("A3"), `midi`, `tempo`.
    `variant` "general" draws from wider ranges than "mini"; `recipe` fixes the recipe instead of drawing one.
    """
    if code not in RECIPES:
        raise ValueError(f"no recipe for class {code!r}; there are {', '.join(RECIPES)}")
    draw = Draw(rng, sample_rate, VARIANTS[variant])
    names = tuple(RECIPES[code])
    if recipe is None:
        # recipes are not equally common, as sounds are not: the first two make up a little more
        recipe = draw.pick(names + names[:2])
    samples, details = RECIPES[code][recipe](draw)
    samples = np.asarray(samples, np.float32)
    if draw.chance(0.015):  # a fragment, as short as the shortest real clips
        samples = samples[: draw.samples(draw.between(0.04, 0.12))]
    elif draw.chance(0.02):  # a long one: the sound again after a rest, as many recordings have several takes
        rest = np.zeros(draw.samples(draw.between(0.1, 0.5)), np.float32)
        samples = np.concatenate([samples, rest, samples * draw.between(0.5, 1)])
    samples = fade(normalise(samples)[: int(LONGEST * sample_rate)], draw, 0.0008, 0.004)
    return samples, {"recipe": recipe, **details}


def record(samples, conditions, rng, sample_rate):
    """Record a clean sound (n,) under an uploader's conditions: float32 (n,) within [-1, 1]."""
    draw = Draw(rng, sample_rate)
    count = len(samples)
    if conditions.room and count > sample_rate // 5:
        samples = reverb(samples, draw, conditions.room * draw.between(0.8, 1.2), draw.between(0.1, 0.3))
    background = 10 ** (conditions.noise_level / 20)
    samples = samples + background * noise(draw, count, 60, 12000, -2)
    if conditions.hum is not None:
        mains = tone(draw, 50.0, count, [1, 0.7, 0.5, 0.3, 0.2])
        samples = samples + 10 ** (conditions.hum / 20) * mains
    low_cut = conditions.low_cut if conditions.low_cut > 20 else None
    samples = band(samples, draw, low_cut, conditions.cutoff)
    level = min(conditions.level + draw.rng.normal(0, 2), -0.3)
    return fade(normalise(samples, 10 ** (level / 20)), draw, 0.0005, 0.003)
