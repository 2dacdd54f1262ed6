"""From metadata to text: what CLAP's text encoder and the metadata classifier read.

Freesound metadata is written by uploaders: file names as titles, tags, descriptions full of HTML, links, equipment and
licence notes. `freesound_text` keeps what describes the sound, most informative part first, so that the tokenizer's
ordinary truncation on the right cuts what matters least. FSD50K and NSynth metadata becomes sentences for contrastive
pretraining, in one of several phrasings drawn by a generator. Everything is deterministic. An empty string means that
nothing usable was left: the model treats the text as missing.
"""

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence

import pandas as pd
from numpy.random import Generator

from haf_utils.io.progress import bar

__all__ = ["add_text", "freesound_text", "fsd50k_caption", "nsynth_caption", "pitch_name"]

MAX_WORDS = 200  # ours: CLAP reads 77 tokens, the metadata classifier gains nothing beyond
MAX_CHARACTERS = 1_500  # for scripts that write no spaces
_RAW_CHARACTERS = 10_000  # read of a field at most, since some descriptions are very long

_EXTENSION = re.compile(r"\s{0,3}\.(?:wave?|aiff?|aifc|flac|ogg|oga|opus|mp[234]|m4a|aac|wma|caf|amr|3gp)\b", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--[^<>]*-->|\[/?(?:url|b|i|img|quote)\b[^\[\]]{0,300}\]", re.I)
_LINK = re.compile(
    r"(?:https?|ftp)://\S+|\bwww\.\S+|\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){0,3}\.[a-z]{2,8}\b"
    r"|\b[\w-]{2,64}\.(?:com|org|net|edu|info|io|de|co\.uk|nl|fr|es|it|fm|tv|me)\b(?:/\S*)?",
    re.I,
)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)
_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-._ ])[01]?\d\1[0-3]?\d|[0-3]?\d([-._ ])[01]?\d\2(?:19|20)\d\d)(?!\d)"
    r"|(?<!\d)[0-2]\d[:h][0-5]\d(?:[:m][0-5]\d)?(?!\d)"
)
# Serial numbers, compact dates (five digits or more), counters (from 0) and hashes (eight hexadecimal digits or more).
_SERIAL = re.compile(r"\b\d{5,}\w?\b|\b0\d+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.I)
_RATE = re.compile(r"\b(?:44[.,]1|48|88[.,]2|96|192)\s?k(?:hz)?\b|\b(?:16|24|32)[\s-]?bits?\b|\b\d{2,3}\s?kbps\b", re.I)
# Words that name a file or a recorder, never a sound. A title of these and numbers alone counts as missing.
_NAMELESS = frozenset(
    """audio aufnahme bwf clip copy dat dr dsc dscf dscn edirol edit file final gopr image img ls mah memo mix mov mvi
    new no number olympus part pcm pict project rec recorded recorder recording sample samples session snd sound
    soundfile sounds ste take tascam test tk track trk unknown unnamed untitled ver version vid video vn
    voicememo ws zoom""".split()
)
_RECORDER = re.compile(r"^\W*(?:dsc[fn]?|dr|gopr|img|mov|mvi|r-?09|rec|ste|tascam|track|vid|zoom)[\s-]*\d+", re.I)
# Makers and programs: a tag or a short sentence with one of these is about equipment.
_BRANDS = r"""zoom\W?h\d\w*|h[1-6]n|tascam|edirol|roland\W?r\W{0,2}\d+|sennheiser|neumann|r[oø]de\W?(?:nt|vid|m)\w*|akg|
    shure|schoeps|rycote|dpa|behringer|focusrite|motu|apogee|m-?audio|fostex|marantz|olympus|nagra|mixpre|
    sound\ devices|sm-?5[78]|u-?87|mkh\W?\d*|me-?6[67]|ls-?1\d|pcm[\s-]?[md]\d+|r-?0?9hr|dr-?\d{2}\w*|audio-?technica|
    audacity|ableton|cubase|pro\W?tools|garage\W?band|adobe\ audition|cool\ ?edit|sound\W?forge|fl\ studio|wavelab|
    logic\ (?:pro|\d)|built-?in\ mic\w*|internal\ mics?|handy\ recorder|hand-?held\ recorder|
    (?:voice|digital|field)\ recorder"""
# Devices that are sound sources too: they count as equipment only after "recorded with".
_DEVICES = r"iphone|ipad|android|smart\W?phone|laptop|microphones?|mics?|webmic|pre-?amps?|condenser|minidisc|reaper"
_BRAND = re.compile(rf"\b(?:{_BRANDS})\b", re.I | re.X)
_EQUIPMENT = re.compile(rf"\b(?:{_BRANDS}|{_DEVICES})\b", re.I | re.X)
# "recorded with a ...": cut from here to the end of the sentence where a piece of equipment follows closely.
_MADE_WITH = re.compile(
    r"""[\s,;(]{0,3}(?:\b(?:is|was|were|has\ been|have\ been|it|i)\s){0,3}\b(?:recorded|captured|edited|processed|
    mastered|normali[sz]ed|taken|made|created|converted|exported|mixed|produced|sampled|decoded)\s(?:\w+\s){0,6}?
    (?:with|using|on|in|via|through|from|to|at)\b""",
    re.I | re.X,
)
_NEAR = 50  # characters
_BOILERPLATE = re.compile(
    r"""licen[sc]e|creative\ commons|\bcc[\s-](?:0|by|zero)|\bcc0\b|attribution|royalty|public\ domain|copyright|©|
    free\ (?:to|for)\ (?:use|all|download)|feel\ free|credit(?:s|ed)?\ (?:me|to|is|not|if|would)|
    please\ (?:\w+\ )?(?:credit|rate|comment|let|mention|tell|leave|give|send|check|visit|e?-?mail|do\ not|don)|
    commercial(?:ly)?\ (?:use|project)|permission|donat(?:e|ion)|paypal|patreon|subscribe|follow\ me|
    my\ (?:web\ ?site|channel|youtube|soundcloud|facebook|other\ sounds|profile|blog|page)|let\ me\ know|
    thank(?:s|\ you)|hope\ (?:you|this|it)|check\ (?:out|my)|more\ (?:sounds|recordings|samples|at)\b|
    ^\W*part\ of\ (?:a|the|my)\ (?:\w+\ )?pack|visit\ my|
    for\ more\b.*\bsee\b|^\W*enjoy\W*$|have\ fun\W*$|use\ (?:it|this|them)\ (?:for|in|as|however|freely)|
    if\ you\ (?:use|like|want|need)""",
    re.I | re.X,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s|(?<=[a-z][.!?])(?=[A-Z][a-z])|[\r\n]+|\s[•|*]+\s")
_EMPTY_BRACKETS = re.compile(r"\(\W{0,20}\)|\[\W{0,20}\]|\{\W{0,20}\}")
_CAMEL = re.compile(r"(?<=[a-z]{2})(?=[A-Z][a-z])|(?<=[A-Za-z]{3})(?=\d)")  # DoorClose4: three words
_GLUE = re.compile(r"_+|(?<=\w)[-.~+]+(?=\w)")  # what file names put in place of a space
_WORD = re.compile(r"[^\W\d_]+")
_SPACES = re.compile(r"\s+")
_BLANKS = re.compile(r"[^\S\r\n]+")
_BEFORE_STOP = re.compile(r"\s+(?=[.,;!?)]+(?:\s|$))")
_EMOTICON = re.compile(r"(?<!\w)[:;=]-?[()DPp](?!\w)")
_CONTROL = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060\ufeff]")
_TRAILING = " \t.,;:-–—_/|+~*=>"


def freesound_text(title: str, tags: str | Sequence[str], description: str = "") -> str:
    """Title, tags (comma list or sequence) and description of a Freesound clip -> one text; "" if none is usable.

    Order: title, then the tags that add a word, then the description; at most `MAX_WORDS` words. Removed: file
    extensions, underscores, names that recorders and cameras give, dates and serial numbers, HTML, links, notes on
    licence and equipment. Text in any script is kept.
    """
    title, description = _clean_title(title), _clean_description(description)
    # Many uploaders repeat the title, or write one word of it, as description.
    if _words(description) <= _words(title):
        description = ""
    return _bounded(_join([title, ", ".join(_clean_tags(tags, title)), description]))


def fsd50k_caption(
    labels: Sequence[str], title: str, tags: str | Sequence[str], description: str = "", rng: Generator | None = None
) -> str:
    """Labels (leaf-most, FSD50K spelling) and metadata -> a sentence or two; `rng` draws one of several phrasings.

    Without `rng` always the first phrasing: labels, then title and tags, then the description. "" if none is usable.
    """
    names = [label.replace("_", " ").strip().lower() for label in labels]
    title, details = _clean_title(title), _clean_description(description)
    kept = _clean_tags(tags, title + " " + " ".join(names))
    sound = _enumerate(names)
    aside = ", ".join(filter(None, [title, *kept]))
    if not sound:
        return _bounded(_join([aside, details]))
    phrasings = [
        [f"The sound of {sound}", aside, details],
        [f"A recording of {sound}", details, ", ".join(kept)],
        [details or title, f"This is the sound of {sound}"],
        [title, f"{sound[0].upper()}{sound[1:]} can be heard", ", ".join(kept)],
        [f"{sound[0].upper()}{sound[1:]}" + (f", {', '.join(kept[:4])}" if kept else "")],
    ]
    return _bounded(_join(phrasings[0 if rng is None else int(rng.integers(len(phrasings)))]))


_NOTES = ("C", "C sharp ", "D", "D sharp ", "E", "F", "F sharp ", "G", "G sharp ", "A", "A sharp ", "B")
# NSynth's five velocities (25, 50, 75, 100, 127), upper bounds.
_FORCE = ((37, "very softly"), (62, "softly"), (87, "at medium strength"), (112, "loudly"), (127, "very loudly"))
_ADJECTIVES = {word: word for word in "bright dark multiphonic percussive tempo-synced".split()}
_ADJECTIVES["distortion"] = "distorted"
_FEATURES = {"fast_decay": "a fast decay", "long_release": "a long release"}
_FEATURES |= {"nonlinear_env": "an uneven envelope", "reverb": "reverb"}


def pitch_name(pitch: int) -> str:
    """MIDI pitch 0..127 -> name with octave; 60 is C4, 69 is A4 (440 Hz)."""
    octave, note = divmod(int(pitch), 12)
    return f"{_NOTES[note]}{octave - 1}"


def nsynth_caption(record: Mapping, rng: Generator | None = None) -> str:
    """One note of NSynth's ``examples.json`` -> a sentence; `rng` draws one of several phrasings.

    Uses ``instrument_family_str, instrument_source_str, pitch`` (MIDI), ``velocity`` (1..127) and ``qualities_str``.
    Raises ValueError that names a missing field.
    """
    try:
        family = record["instrument_family_str"].replace("_", " ")
        source, pitch = record["instrument_source_str"], pitch_name(record["pitch"])
        velocity, qualities = int(record["velocity"]), list(record["qualities_str"])
    except KeyError as error:
        raise ValueError(f"NSynth record {record.get('note_str', '?')!r} has no field {error}") from error
    force = next(name for bound, name in _FORCE if velocity <= bound)
    adjectives = [_ADJECTIVES[quality] for quality in qualities if quality in _ADJECTIVES]
    features = _enumerate([_FEATURES[quality] for quality in qualities if quality in _FEATURES])
    described = " ".join([*adjectives, source, family])
    article = "An" if described[0] in "aeiou" else "A"
    with_features = f" with {features}" if features else ""
    phrasings = [
        f"{article} {described} note, {pitch}, played {force}{with_features}.",
        f"A single note {pitch} played {force} on {'an' if source[0] in 'aeiou' else 'a'} {source} {family}"
        + (f", {', '.join(adjectives)}" if adjectives else "")
        + (f"; it has {features}." if features else "."),
        f"{described[0].upper()}{described[1:]}, one note, {pitch}, {force}{with_features}.",
        f"The sound of {'an' if described[0] in 'aeiou' else 'a'} {described} playing {pitch} {force}{with_features}.",
    ]
    return phrasings[0 if rng is None else int(rng.integers(len(phrasings)))]


def add_text(table: pd.DataFrame, rng: Generator | None = None) -> pd.DataFrame:
    """A copy of the clips table with the column `text`, built by each row's `source`; "" is missing.

    `rng` draws the phrasings of FSD50K and NSynth captions; Freesound texts have one form only."""
    columns = ["source", "title", "tags", "description"]
    extra = [table[name] if name in table else [None] * len(table) for name in ("labels", "record")]
    rows = zip(*(table[name] for name in columns), *extra, strict=True)
    texts = []
    for source, title, tags, description, labels, record in bar(rows, total=len(table), description="texts"):
        if source == "nsynth":
            texts.append(nsynth_caption(record, rng))
        elif source == "fsd50k":
            texts.append(fsd50k_caption(labels, title, tags, description, rng))
        else:
            texts.append(freesound_text(title, tags, description))
    result = table.copy()
    result["text"] = pd.Series(texts, index=table.index, dtype=object)
    return result


def _without_markup(field) -> str:
    """Any field -> text without HTML, links and control characters, in Unicode's composed form."""
    if not isinstance(field, str):  # None and NaN are how tables write "missing"
        return ""
    text = field[:_RAW_CHARACTERS]
    if "&" in text:
        text = html.unescape(html.unescape(text))  # twice: "&amp;gt;" occurs
    if "<" in text or "[" in text:
        text = _TAG.sub(" ", text)
    if "." in text or "://" in text:
        text = _LINK.sub(" ", text)
    return _BLANKS.sub(" ", _CONTROL.sub("", unicodedata.normalize("NFC", text)))


def _clean_title(title) -> str:
    title = _EXTENSION.sub("", title) if isinstance(title, str) else ""
    text = _UUID.sub(" ", _without_markup(title))
    text = _DATE.sub(" ", text.replace("_", " "))
    text = _SERIAL.sub(" ", _RATE.sub(" ", _RECORDER.sub(" ", text)))
    text = _GLUE.sub(" ", _CAMEL.sub(" ", text))
    words = _WORD.findall(text.lower())
    if all(word in _NAMELESS for word in words):
        return ""
    text = _SPACES.sub(" ", _EMPTY_BRACKETS.sub(" ", text))
    return text.lstrip(_TRAILING + ")]").rstrip(_TRAILING + "([")


def _clean_tags(tags, text: str) -> list[str]:
    """Tags that add a word to `text`, in their order."""
    if not isinstance(tags, str):
        tags = ",".join(tags) if isinstance(tags, (list, tuple)) else ""
    known, kept = _words(text), []
    for tag in _without_markup(tags).split(","):
        tag = _SPACES.sub(" ", _GLUE.sub(" ", tag)).strip(_TRAILING)
        words = _words(tag)
        if words - known and not _BRAND.search(tag):
            kept.append(tag)
            known |= words
    return kept


def _clean_description(description) -> str:
    sentences = []
    for sentence in _SENTENCE.split(_without_markup(description)):
        sentence = _EMOTICON.sub(" ", _RATE.sub(" ", sentence.replace("_", " ")))
        if _BOILERPLATE.search(sentence):
            continue
        rest = _without_equipment(sentence)
        count, brands = len(_WORD.findall(rest)), len(_BRAND.findall(rest))
        # Dropped: the rest of "The sound was recorded with ...", and lists of equipment.
        if (rest != sentence and count < 3) or count < 8 * brands:
            continue
        rest = _BEFORE_STOP.sub("", _SPACES.sub(" ", _EMPTY_BRACKETS.sub(" ", rest)))
        rest = rest.lstrip(_TRAILING).rstrip(" ,;:-–—_|+~*=<>")
        if _WORD.search(rest):
            sentences.append(rest)
    return _join(sentences)


def _without_equipment(sentence: str) -> str:
    for clause in _MADE_WITH.finditer(sentence):
        if _EQUIPMENT.search(sentence, clause.end(), clause.end() + _NEAR):
            return sentence[: clause.start()]
    return sentence


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _enumerate(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _join(parts: Sequence[str]) -> str:
    parts = [part for part in parts if part]
    return " ".join(part if part[-1] in ".!?…" or part is parts[-1] else part + "." for part in parts)


def _bounded(text: str) -> str:
    return " ".join(text.split()[:MAX_WORDS])[:MAX_CHARACTERS].strip()
