"""The Broad Sound Taxonomy (BST): five top levels, 23 second-level classes.

Order and codes are those of the BSD10k release (its ``BST_description.csv``), which is *not* alphabetical: the index of
a class in `CLASSES` is its label everywhere in this project. Key data on the code, never on ``class_idx``, whose form
differs between releases (0..22 in v1.0, three digits in v1.2).
"""

from collections.abc import Iterable

import numpy as np

__all__ = ["CLASSES", "CLASS_IDX", "NAMES", "PARENT", "TOP_LEVELS", "TOP_NAMES", "prompts", "to_labels"]

# code -> (three-digit class_idx of BSD10k-v1.2, name)
_CLASSES = {
    "m-sp": (101, "Solo percussion"), "m-si": (102, "Solo instrument"), "m-m": (103, "Multiple instruments"),
    "is-p": (201, "Percussion"), "is-s": (202, "String"), "is-w": (203, "Wind"),
    "is-k": (204, "Piano / Keyboard instruments"), "is-e": (205, "Synths / Electronic"),
    "sp-s": (301, "Solo speech"), "sp-c": (302, "Conversation / Crowd"), "sp-p": (303, "Processed / Synthetic"),
    "fx-o": (401, "Objects / House appliances"), "fx-v": (402, "Vehicles"),
    "fx-m": (403, "Other mechanisms, engines, machines"), "fx-h": (404, "Human sounds and actions"),
    "fx-a": (405, "Animals"), "fx-n": (406, "Natural elements and explosions"),
    "fx-ex": (407, "Experimental"), "fx-el": (408, "Electronic / Design"),
    "ss-n": (501, "Nature"), "ss-i": (502, "Indoors"), "ss-u": (503, "Urban"),
    "ss-s": (504, "Synthetic / Artificial"),
}  # fmt: skip

CLASSES: tuple[str, ...] = tuple(_CLASSES)
NAMES: dict[str, str] = {code: name for code, (_, name) in _CLASSES.items()}
CLASS_IDX: dict[str, int] = {code: index for code, (index, _) in _CLASSES.items()}
TOP_NAMES = {"m": "Music", "is": "Instrument samples", "sp": "Speech", "fx": "Sound effects", "ss": "Soundscapes"}
TOP_LEVELS: tuple[str, ...] = tuple(TOP_NAMES)
PARENT: np.ndarray = np.array([TOP_LEVELS.index(code.split("-")[0]) for code in CLASSES])
PARENT.setflags(write=False)

_LABEL = {code: label for label, code in enumerate(CLASSES)}


def to_labels(values: Iterable) -> np.ndarray:
    """Class codes or labels 0..22, in any sequence -> int64 array (N,).

    Raises ValueError that names the first value outside the taxonomy and its position.
    """
    values = np.asarray(values if hasattr(values, "__len__") else list(values))
    if values.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, got an array of shape {values.shape}")
    if values.dtype.kind in "iu":
        outside = (values < 0) | (values >= len(CLASSES))
        labels = values.astype(np.int64)
    else:
        # -1 marks values that are no code of the taxonomy.
        labels = np.array([_LABEL.get(value, -1) if isinstance(value, str) else -1 for value in values], dtype=np.int64)
        outside = labels < 0
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        expected = f"a code of the Broad Sound Taxonomy such as 'fx-o', or a label from 0 to {len(CLASSES) - 1}"
        raise ValueError(f"{values[row]!r} at position {row} is no class: expected {expected}")
    return labels


def prompts() -> list[str]:
    """One zero-shot prompt a class, in taxonomy order, worded as captions are ("The sound of ...")."""
    return [f"The sound of {NAMES[code].lower()}, {TOP_NAMES[code.split('-')[0]].lower()}." for code in CLASSES]
