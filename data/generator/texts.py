"""Titles, tags, descriptions and uploaders of the embedded dataset, in the manner of Freesound.

What people write about sounds is missing, vague, misleading or overloaded as often as it is helpful, and it tells as
much about the uploader as about the sound. Both are imitated here, with invented people.
"""

from dataclasses import dataclass, field

import numpy as np

from generator.synthesis import RECIPES, Conditions, draw_conditions
from generator.words import (
    BOILERPLATE,
    CAMERA_TITLES,
    CLASS_TAGS,
    FRAMES,
    GEAR,
    HTML,
    LICENSES,
    NOUNS,
    PERSONAL,
    PLACES,
    TITLES,
    VAGUE,
)

SYLLABLES = tuple("ka ro lin da mo ver sti no pel tra bi sun or fen ja qui lo mar".split())
OTHER_SYLLABLES = tuple("wy thu gri peth cho ulm zeb hap dwe yan kli xan feu nnu zo hob".split())


@dataclass(frozen=True)
class Uploader:
    """An invented person with habits: recording conditions, wording of titles, favourite tags, care taken.

    `missing`, `vague` and `misleading` are chances in [0, 1] that a clip's text is so; `shares` are the chances
    (23,), in the order of `RECIPES`, that a clip of that class is theirs before normalisation over the uploaders.
    """

    name: str
    language: str
    license: str
    title: str
    camera: str
    favourites: tuple[str, ...]
    talkative: float
    overloaded: float
    missing: float
    vague: float
    misleading: float
    gear: str
    conditions: Conditions
    shares: np.ndarray = field(repr=False)


def pick(rng, options):
    """Draw one of the options."""
    return options[int(rng.integers(len(options)))]


def make_uploaders(seed, count=80, syllables=SYLLABLES):
    """Invent `count` uploaders: a skewed crowd in which one owns nearly half of some classes.

    Crowds made of different `syllables` share no name.
    """
    rng = np.random.default_rng([seed, count, 20])
    codes = tuple(RECIPES)
    uploaders, names = [], set()
    owned = rng.permutation(len(codes))[:6]
    for index in range(count):
        name = None
        while name is None or name in names:
            name = "".join(pick(rng, syllables) for _ in range(int(rng.integers(2, 5))))
            name = pick(rng, (name, name.title(), f"{name}{rng.integers(1, 99)}", f"{name}_audio", f"{name}-sounds"))
        names.add(name)
        # a few classes each, by preference within one top level: people have a trade
        home = pick(rng, codes)
        near = [code.split("-")[0] == home.split("-")[0] for code in codes]
        shares = np.where(near, rng.gamma(0.35, 1.0, len(codes)), rng.gamma(0.06, 1.0, len(codes)))
        shares *= (index + 3.0) ** -0.7
        shares[codes.index(home)] += (index + 3.0) ** -0.5
        if index < len(owned):
            shares[owned[index]] += 1.2
        main = codes[int(shares.argmax())]
        careless = rng.random() < 0.16
        personal = tuple(pick(rng, PERSONAL).lower().replace(" ", "-") for _ in range(2))
        leaking = tuple(pick(rng, CLASS_TAGS[main]) for _ in range(2))
        uploaders.append(
            Uploader(
                name=name,
                language=pick(rng, ("en",) * 14 + ("es", "es", "fr", "fr", "de", "de")),
                license=pick(rng, LICENSES[:1] * 3 + LICENSES),
                title=pick(rng, TITLES),
                camera=pick(rng, CAMERA_TITLES),
                favourites=(*leaking, personal[0], pick(rng, GEAR).lower().replace(" ", "-")),
                talkative=float(rng.uniform(0.2, 1.0)),
                overloaded=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.3 else float(rng.uniform(0, 0.15)),
                missing=float(rng.uniform(0.25, 0.55)) if careless else float(rng.uniform(0.02, 0.12)),
                vague=float(rng.uniform(0.02, 0.2)),
                misleading=float(rng.uniform(0.03, 0.16)),
                gear=pick(rng, GEAR),
                conditions=draw_conditions(rng),
                shares=shares,
            )
        )
    return tuple(uploaders)


def draw_uploader(code, uploaders, rng):
    """Draw the uploader of a clip of the class `code`."""
    shares = np.array([uploader.shares[tuple(RECIPES).index(code)] for uploader in uploaders])
    return uploaders[int(rng.choice(len(uploaders), p=shares / shares.sum()))]


def fill(template, uploader, noun, details, rng):
    """Fill a template for titles and descriptions."""
    number = int(rng.integers(1, 99))
    return template.format(
        noun=noun,
        Noun=noun.capitalize(),
        NOUN=noun.upper().replace(" ", "_"),
        detail=pick(rng, details),
        word=details[-1],
        place=pick(rng, PLACES),
        nn=f"{number:02d}",
        day=f"{number % 28 + 1:02d}",
        number=int(rng.integers(1000, 99999)),
        initials=uploader.name[:2].upper(),
        name=uploader.name,
        gear=uploader.gear,
    )


def freesound_metadata(code, attributes, uploader, rng):
    """Write title, tags (one comma list) and description of a clip, as this uploader would.

    `attributes` are those of `synthesise`. The text may be missing (a camera's file name at most), vague (true, but of
    the whole top level), misleading (about another sound) or clear.
    """
    luck = rng.random()
    if luck < uploader.missing:
        title = fill(uploader.camera, uploader, "", [""], rng)
        description = fill(pick(rng, BOILERPLATE[:3]), uploader, "", [""], rng) if rng.random() < 0.2 else ""
        return {"title": title, "tags": "", "description": description}
    if luck < uploader.missing + uploader.misleading:
        # half of the errors are about a related sound, half about anything
        related = [other for other in RECIPES if other != code and other.split("-")[0] == code.split("-")[0]]
        code = pick(rng, related if rng.random() < 0.5 else list(RECIPES))
        attributes = {**attributes, "recipe": pick(rng, tuple(RECIPES[code]))}
    vague = rng.random() < uploader.vague
    language = uploader.language
    english, *others = NOUNS[attributes["recipe"]]
    common = VAGUE[code.split("-")[0]]
    if vague:
        noun = pick(rng, common if rng.random() < 0.6 else PERSONAL)
        language = "en"
    elif language == "en" or rng.random() < 0.25:
        noun = pick(rng, english)
    else:
        noun = others[("es", "fr", "de").index(language)]
    details = [str(attributes[key]) for key in ("pitch",) if attributes.get(key)]
    details += [f"{attributes['tempo']}bpm"] if attributes.get("tempo") else []
    details += list(attributes.get("words", ())) or ["sound"]
    if vague:
        details = [pick(rng, common)]

    title = fill(uploader.title, uploader, noun, details, rng)
    tags = []
    if rng.random() < 0.92:
        own = common if vague else CLASS_TAGS[code]
        tags += [pick(rng, own) for _ in range(int(rng.integers(2, 5)))]
        tags += [pick(rng, uploader.favourites) for _ in range(int(rng.integers(0, 4)))]
        if not vague:
            tags.append(pick(rng, english).replace(" ", "-"))
        if rng.random() < 0.3:
            tags.append(pick(rng, common).replace(" ", "-"))
        if rng.random() < 0.4:
            tags.append(details[0].lower())
    tags = list(dict.fromkeys(tags))
    tags = [tags[i] for i in rng.permutation(len(tags))]

    parts = []
    if rng.random() < uploader.talkative:
        parts.append(fill(pick(rng, FRAMES["vague" if vague else language]), uploader, noun, details, rng))
    if rng.random() < 0.5 * uploader.talkative:
        parts.append(fill(pick(rng, BOILERPLATE), uploader, noun, details, rng))
    if rng.random() < uploader.overloaded:
        parts += [fill(pick(rng, HTML), uploader, noun, details, rng) for _ in range(int(rng.integers(1, 4)))]
        parts += [fill(pick(rng, BOILERPLATE), uploader, noun, details, rng) for _ in range(int(rng.integers(1, 3)))]
    description = pick(rng, (" ", "\n", "\r\n\r\n")).join(dict.fromkeys(parts))
    return {"title": title, "tags": ",".join(tags), "description": description}
