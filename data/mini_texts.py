"""Titles, tags, descriptions and uploaders of the embedded dataset, in the manner of Freesound.

What people write about sounds is missing, vague, misleading or overloaded as often as it is helpful, and it tells as
much about the uploader as about the sound. Both are imitated here, with invented people.
"""

from dataclasses import dataclass, field

import numpy as np
from synthesis import RECIPES, Conditions, draw_conditions

LICENSES = (
    "http://creativecommons.org/publicdomain/zero/1.0/",
    "https://creativecommons.org/licenses/by/4.0/",
    "http://creativecommons.org/licenses/by/3.0/",
    "http://creativecommons.org/licenses/by-nc/3.0/",
    "https://creativecommons.org/licenses/by-nc/4.0/",
    "http://creativecommons.org/licenses/sampling+/1.0/",
)

# recipe: (English nouns, Spanish, French, German); recipes of several classes share names, as instruments do
NOUNS = {
    "drum kit": (("drum loop", "drums", "acoustic drums", "breakbeat"), "batería", "batterie", "Schlagzeug"),
    "hand drums": (("congas", "percussion", "bongo groove", "hand drum"), "percusión", "percussions", "Trommeln"),
    "toms": (("toms", "tribal drums", "drum fill"), "tambores", "toms", "Tom-Toms"),
    "drum machine": (("drum machine", "beat", "electro beat"), "caja de ritmos", "boîte à rythmes", "Drumcomputer"),
    "acoustic guitar": (("guitar", "acoustic guitar", "nylon guitar"), "guitarra", "guitare", "Gitarre"),
    "bass guitar": (("bass guitar", "bass", "electric bass"), "bajo eléctrico", "basse", "Bassgitarre"),
    "harp": (("harp", "lyre", "plucked string"), "arpa", "harpe", "Harfe"),
    "violin": (("violin", "viola", "fiddle"), "violín", "violon", "Geige"),
    "cello": (("cello", "violoncello", "bowed string"), "violonchelo", "violoncelle", "Cello"),
    "flute": (("flute", "recorder", "tin whistle"), "flauta", "flûte", "Flöte"),
    "clarinet": (("clarinet", "oboe", "woodwind"), "clarinete", "clarinette", "Klarinette"),
    "saxophone": (("saxophone", "sax", "tenor sax"), "saxofón", "saxophone", "Saxophon"),
    "trumpet": (("trumpet", "brass", "cornet"), "trompeta", "trompette", "Trompete"),
    "piano": (("piano", "grand piano", "upright piano"), "piano", "piano", "Klavier"),
    "electric piano": (("electric piano", "keys", "e-piano"), "piano eléctrico", "piano électrique", "E-Piano"),
    "organ": (("organ", "church organ", "drawbar organ"), "órgano", "orgue", "Orgel"),
    "harpsichord": (("harpsichord", "cembalo"), "clavecín", "clavecin", "Cembalo"),
    "synth lead": (("synth", "synth lead", "saw lead"), "sintetizador", "synthé", "Synthesizer"),
    "synth bass": (("synth bass", "acid bass", "bass"), "bajo sintetizado", "basse synthé", "Synthbass"),
    "synth bell": (("fm bell", "synth", "digital bell"), "campana digital", "cloche fm", "FM-Glocke"),
    "synth pad": (("synth pad", "pad", "strings pad"), "colchón de sinte", "nappe", "Fläche"),
    "chiptune": (("chiptune", "8-bit", "square wave"), "8 bits", "puce 8 bits", "8-Bit-Ton"),
    "rock band": (("rock band", "guitar and drums", "jam"), "banda de rock", "groupe de rock", "Rockband"),
    "electronic track": (
        ("techno", "electronic track", "house loop"),
        "pista electrónica",
        "morceau électro",
        "Techno",
    ),
    "jazz combo": (("jazz", "jazz trio", "combo"), "trío de jazz", "trio de jazz", "Jazztrio"),
    "orchestra": (("orchestra", "orchestral", "ensemble"), "orquesta", "orchestre", "Orchester"),
    "kick drum": (("kick", "kick drum", "bass drum"), "bombo", "grosse caisse", "Bassdrum"),
    "snare drum": (("snare", "snare drum", "rimshot"), "caja", "caisse claire", "Snare"),
    "hi-hat": (("hi-hat", "hihat", "closed hat"), "charles", "charleston", "Hi-Hat"),
    "cymbal": (("cymbal", "crash", "ride"), "platillo", "cymbale", "Becken"),
    "tom": (("tom", "floor tom", "conga"), "tom", "tom basse", "Tom"),
    "woodblock": (("woodblock", "clave", "cowbell"), "caja china", "claves", "Holzblock"),
    "shaker": (("shaker", "tambourine", "maracas"), "maracas", "maracas", "Rassel"),
    "marimba": (("marimba", "xylophone", "vibraphone"), "marimba", "xylophone", "Marimba"),
    "male voice": (("male voice", "man speaking", "speech"), "voz de hombre", "voix d'homme", "Männerstimme"),
    "female voice": (("female voice", "woman speaking", "speech"), "voz de mujer", "voix de femme", "Frauenstimme"),
    "child voice": (("child voice", "kid speaking", "girl"), "voz de niña", "voix d'enfant", "Kinderstimme"),
    "whisper": (("whisper", "whispering", "asmr voice"), "susurro", "chuchotement", "Flüstern"),
    "conversation": (("conversation", "people talking", "dialogue"), "conversación", "conversation", "Gespräch"),
    "crowd": (("crowd", "people talking", "walla"), "multitud", "foule", "Menschenmenge"),
    "cheering": (("cheering", "crowd", "audience"), "público", "acclamations", "Jubel"),
    "robot voice": (("robot voice", "robot", "android"), "voz de robot", "voix de robot", "Roboterstimme"),
    "vocoder": (("vocoder", "vocoded voice", "talkbox"), "vocoder", "vocodeur", "Vocoder"),
    "chipmunk voice": (("chipmunk voice", "high pitched voice", "elf"), "voz de ardilla", "voix aiguë", "Piepsstimme"),
    "monster voice": (("monster voice", "demon", "deep voice"), "voz de monstruo", "voix de monstre", "Monsterstimme"),
    "radio voice": (("radio voice", "walkie talkie", "telephone voice"), "voz de radio", "voix radio", "Funkstimme"),
    "knock": (("knock", "door knock", "wood hit"), "golpe en la puerta", "toc toc", "Klopfen"),
    "door": (("door", "door slam", "creak"), "puerta", "porte", "Tür"),
    "glass": (("glass", "glass clink", "bottle"), "vaso", "verre", "Glas"),
    "cutlery": (("cutlery", "keys", "plates"), "cubiertos", "couverts", "Besteck"),
    "paper": (("paper", "plastic bag", "rustle"), "papel", "papier", "Papier"),
    "switch": (("switch", "click", "lock"), "interruptor", "interrupteur", "Schalter"),
    "ball": (("ball", "bouncing ball", "drop"), "pelota", "balle", "Ball"),
    "car engine": (("car engine", "car", "engine"), "motor de coche", "moteur", "Automotor"),
    "motorbike": (("motorbike", "motorcycle", "scooter"), "moto", "moto", "Motorrad"),
    "car passing": (("car passing", "car", "drive by"), "coche pasando", "voiture", "Vorbeifahrt"),
    "train": (("train", "railway", "tram"), "tren", "train", "Zug"),
    "helicopter": (("helicopter", "propeller", "plane"), "helicóptero", "hélicoptère", "Hubschrauber"),
    "fan": (("fan", "vacuum cleaner", "ventilation"), "ventilador", "ventilateur", "Lüfter"),
    "drill": (("drill", "power tool", "saw"), "taladro", "perceuse", "Bohrmaschine"),
    "washing machine": (("washing machine", "machine", "pump"), "lavadora", "lave-linge", "Waschmaschine"),
    "printer": (("printer", "servo", "mechanism"), "impresora", "imprimante", "Drucker"),
    "clock": (("clock", "ticking", "metronome"), "reloj", "horloge", "Uhr"),
    "footsteps": (("footsteps", "walking", "steps"), "pasos", "pas", "Schritte"),
    "breathing": (("breathing", "breath", "snore"), "respiración", "respiration", "Atmen"),
    "clapping": (("clapping", "hand clap", "applause"), "palmas", "applaudissements", "Klatschen"),
    "cough": (("cough", "sneeze", "throat"), "tos", "toux", "Husten"),
    "laugh": (("laugh", "laughter", "giggle"), "risa", "rire", "Lachen"),
    "chewing": (("chewing", "eating", "crunch"), "comiendo", "mastication", "Kauen"),
    "dog": (("dog", "dog bark", "puppy"), "perro", "chien", "Hund"),
    "cat": (("cat", "meow", "kitten"), "gato", "chat", "Katze"),
    "cow": (("cow", "sheep", "farm animal"), "vaca", "vache", "Kuh"),
    "bird": (("bird", "bird call", "sparrow"), "pájaro", "oiseau", "Vogel"),
    "frog": (("frog", "duck", "toad"), "rana", "grenouille", "Frosch"),
    "insect": (("bee", "fly", "insect"), "abeja", "abeille", "Biene"),
    "rain": (("rain", "raindrops", "shower"), "lluvia", "pluie", "Regen"),
    "wind": (("wind", "wind howl", "breeze"), "viento", "vent", "Wind"),
    "water": (("water", "water pouring", "splash"), "agua", "eau", "Wasser"),
    "fire": (("fire", "campfire", "crackle"), "fuego", "feu", "Feuer"),
    "thunder": (("thunder", "thunderstorm", "lightning"), "trueno", "tonnerre", "Donner"),
    "explosion": (("explosion", "blast", "gunshot"), "explosión", "explosion", "Explosion"),
    "granular texture": (("granular", "texture", "grains"), "granular", "granulaire", "Granular"),
    "feedback": (("feedback", "no-input", "noise"), "realimentación", "larsen", "Rückkopplung"),
    "glitch": (("glitch", "data bend", "noise"), "fallo digital", "bug", "Glitch"),
    "reversed metal": (("reversed", "metal texture", "processed sound"), "al revés", "à l'envers", "rückwärts"),
    "noise music": (("noise", "harsh noise", "distortion"), "ruido", "bruit", "Rauschen"),
    "filtered clicks": (("texture", "filter sweep", "weird"), "textura", "texture", "Textur"),
    "whoosh": (("whoosh", "swoosh", "transition"), "barrido", "souffle", "Zischen"),
    "laser": (("laser", "zap", "sci-fi gun"), "láser", "laser", "Laser"),
    "interface beep": (("beep", "ui click", "notification"), "pitido", "bip", "Piepton"),
    "riser": (("riser", "uplifter", "build up"), "subida", "montée", "Riser"),
    "alarm": (("alarm", "siren", "warning"), "alarma", "alarme", "Alarm"),
    "sub drop": (("sub drop", "impact", "cinematic hit"), "golpe grave", "impact", "Sub-Drop"),
    "power up": (("power up", "game sound", "level up"), "sonido de juego", "son de jeu", "Spielton"),
    "forest": (("forest", "birds", "woodland"), "bosque", "forêt", "Wald"),
    "night field": (("crickets", "night", "field"), "grillos", "grillons", "Grillen"),
    "seashore": (("sea", "waves", "beach"), "mar", "vagues", "Meer"),
    "creek": (("creek", "stream", "river"), "arroyo", "ruisseau", "Bach"),
    "storm": (("rain", "storm", "rainy garden"), "tormenta", "orage", "Gewitter"),
    "kitchen": (("kitchen", "cooking", "dishes"), "cocina", "cuisine", "Küche"),
    "office": (("office", "typing", "room"), "oficina", "bureau", "Büro"),
    "cafe": (("cafe", "restaurant", "people"), "bar", "café", "Café"),
    "hallway": (("hallway", "stairs", "corridor"), "pasillo", "couloir", "Treppenhaus"),
    "room tone": (("room tone", "room", "hum"), "tono de sala", "ambiance de pièce", "Raumton"),
    "street": (("street", "traffic", "city"), "calle", "rue", "Straße"),
    "market": (("market", "square", "people"), "mercado", "marché", "Markt"),
    "construction site": (("construction", "building site", "works"), "obras", "chantier", "Baustelle"),
    "city siren": (("siren", "city", "ambulance"), "sirena", "sirène", "Sirene"),
    "drone": (("drone", "dark drone", "pad"), "dron", "bourdon", "Drone"),
    "spaceship": (("spaceship", "sci-fi ambience", "engine room"), "nave espacial", "vaisseau", "Raumschiff"),
    "dark ambience": (("dark ambience", "horror", "atmosphere"), "ambiente oscuro", "ambiance sombre", "Atmosphäre"),
    "shimmer": (("shimmer", "ambient pad", "dream"), "brillo", "scintillement", "Schimmer"),
}
# tags that people put on sounds of a class, more or less whatever the sound is
CLASS_TAGS = {
    "m-sp": ("loop", "drums", "groove", "percussion", "rhythm"),
    "m-si": ("melody", "phrase", "solo", "riff", "music"),
    "m-m": ("music", "song", "loop", "instrumental", "band"),
    "is-p": ("one-shot", "drum", "hit", "percussion", "sample"),
    "is-s": ("single-note", "string", "multisample", "pluck", "instrument"),
    "is-w": ("single-note", "wind", "multisample", "tenuto", "instrument"),
    "is-k": ("single-note", "keyboard", "multisample", "chord", "instrument"),
    "is-e": ("synth", "electronic", "analog", "patch", "one-shot"),
    "sp-s": ("voice", "speech", "spoken", "talking", "word"),
    "sp-c": ("people", "voices", "crowd", "chatter", "talking"),
    "sp-p": ("voice", "effect", "processed", "robot", "synthetic"),
    "fx-o": ("foley", "household", "object", "sound-effect", "hit"),
    "fx-v": ("vehicle", "engine", "transport", "motor", "car"),
    "fx-m": ("machine", "mechanical", "motor", "industrial", "electric"),
    "fx-h": ("foley", "human", "body", "mouth", "person"),
    "fx-a": ("animal", "nature", "pet", "wildlife", "call"),
    "fx-n": ("nature", "weather", "natural", "water", "elements"),
    "fx-ex": ("experimental", "noise", "weird", "processed", "abstract"),
    "fx-el": ("sfx", "game", "sci-fi", "design", "electronic"),
    "ss-n": ("ambience", "nature", "field-recording", "birds", "outdoors"),
    "ss-i": ("ambience", "indoor", "room", "field-recording", "interior"),
    "ss-u": ("ambience", "city", "urban", "field-recording", "traffic"),
    "ss-s": ("ambient", "soundscape", "atmosphere", "drone", "synthetic"),
}
# what is written on sounds of a whole top level, so that it tells little about the class
VAGUE = {
    "m": ("loop", "120bpm", "take", "idea", "demo", "session", "groove", "jam"),
    "is": ("sample", "A3", "note", "C4", "one shot", "ff", "long", "staccato"),
    "sp": ("voice", "hello", "take", "vox", "line", "test one two", "words"),
    "fx": ("sfx", "sound", "hit", "foley", "noise", "effect", "fx", "movement"),
    "ss": ("ambience", "atmo", "background", "field recording", "ambient", "stereo", "evening"),
}
PERSONAL = (
    "Marta", "Lisbon", "Sunday", "untitled", "test", "final", "new", "old tape", "Oslo", "thing", "Berlin", "grandma",
    "my first upload", "quick take", "Kyoto", "Room 12", "holiday", "no name", "archive", "project x", "Tomás", "misc",
)  # fmt: skip
PLACES = ("Ljubljana", "Porto", "Bergen", "Nantes", "Valparaíso", "Leeds", "Graz", "Kraków", "Osaka", "Montréal")
GEAR = (
    "Zoom H4n",
    "Tascam DR-40",
    "Sony PCM-D50",
    "Roland R-05",
    "iPhone",
    "Neumann U87",
    "Rode NT1",
    "SM58",
    "Zoom H2n",
)
FRAMES = {
    "en": (
        "Recording of {noun}.",
        "A {word} {noun}.",
        "{noun}, {word}.",
        "This is a {noun} I made.",
        "{noun} in {place}",
    ),
    "es": ("Grabación de {noun}.", "{noun} en {place}.", "Sonido de {noun}, {place}."),
    "fr": ("Enregistrement de {noun}.", "{noun} à {place}.", "Prise de son : {noun}."),
    "de": ("Aufnahme von {noun}.", "{noun} in {place}.", "{noun}, aufgenommen in {place}."),
}
BOILERPLATE = (
    "Recorded with {gear}, 44.1 kHz / 16 bit.",
    "Please credit {name} if you use this sound. Free to use under Creative Commons.",
    "Normalized in Audacity, no further editing.",
    "If you like my sounds, visit my site and leave a comment!",
    "Licensed under the Attribution License. Commercial use: please ask.",
    "Part of a pack. More sounds in the same pack.",
)
HTML = (
    '<a href="https://example.org/{name}" rel="nofollow">https://example.org/{name}</a>',
    "<strong>{name} sound library</strong>",
    '<p>More at <a href="http://www.example.com/packs/{number}">pack {number}</a></p>',
    "http://www.example.net/{name}/sounds.html?id={number}",
    "<br />&nbsp;<em>thanks for listening &amp; rating</em>",
)
TITLES = (
    "{Noun}.wav", "{noun} {nn}.wav", "{noun}_{detail}_{nn}.wav", "{Noun} - {detail}", "{word}_{noun}{nn}.aif",
    "DSC00{nn}_{noun} {detail}.wav", "{NOUN}_{nn}.WAV", "{noun}, {place}.mp3", "{initials}_{noun}_{detail}.flac",
)  # fmt: skip
CAMERA_TITLES = ("zoom00{nn}.WAV", "DSC_00{nn}.wav", "REC0{nn}.wav", "R09_00{nn}.mp3", "STE-0{nn}.wav", "audio {nn}.wav",
                 "2019-04-{day} 18.{nn}.m4a", "Untitled {nn}.aif", "{number}.wav", "MOV0{nn}.wav")  # fmt: skip
SYLLABLES = (
    "ka",
    "ro",
    "lin",
    "da",
    "mo",
    "ver",
    "sti",
    "no",
    "pel",
    "tra",
    "bi",
    "sun",
    "or",
    "fen",
    "ja",
    "qui",
    "lo",
    "mar",
)
OTHER_SYLLABLES = (
    "wy",
    "thu",
    "gri",
    "peth",
    "cho",
    "ulm",
    "zeb",
    "hap",
    "dwe",
    "yan",
    "kli",
    "xan",
    "feu",
    "nnu",
    "zo",
    "hob",
)


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
            shares[owned[index]] += 6.0
        main = codes[int(shares.argmax())]
        careless = rng.random() < 0.18
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
                missing=float(rng.uniform(0.3, 0.6)) if careless else float(rng.uniform(0.02, 0.14)),
                vague=float(rng.uniform(0.05, 0.35)),
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
    if rng.random() < 0.85:
        own = common if vague else CLASS_TAGS[code]
        tags += [pick(rng, own) for _ in range(int(rng.integers(1, 4)))]
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
        parts.append(fill(pick(rng, FRAMES[language]), uploader, noun, details, rng))
    if rng.random() < 0.5 * uploader.talkative:
        parts.append(fill(pick(rng, BOILERPLATE), uploader, noun, details, rng))
    if rng.random() < uploader.overloaded:
        parts += [fill(pick(rng, HTML), uploader, noun, details, rng) for _ in range(int(rng.integers(1, 4)))]
        parts += [fill(pick(rng, BOILERPLATE), uploader, noun, details, rng) for _ in range(int(rng.integers(1, 3)))]
    description = pick(rng, (" ", "\n", "\r\n\r\n")).join(parts)
    return {"title": title, "tags": ",".join(tags), "description": description}
