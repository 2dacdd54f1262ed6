"""Grids of parameters: from `name=value,value` or a file to the configurations of runs."""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from haf_utils.config import FinetuneConfig, Recipe, resolve

__all__ = ["grid", "read_grid", "unique"]

_FIELDS = [field.name for field in dataclasses.fields(FinetuneConfig)]


def grid(base: FinetuneConfig, parameters: Mapping[str, Sequence] | Sequence[Mapping[str, Sequence]]) -> list[Recipe]:
    """All combinations of the values of `parameters`, each laid over `base`; of several mappings one after the other.

    Every combination is checked, and returned with its None replaced and its name filled in; what occurs twice is
    returned once. Raises ValueError or TypeError that names the parameter, and what it may be.
    """
    configs = []
    for each in [parameters] if isinstance(parameters, Mapping) else parameters:
        if not isinstance(each, Mapping):
            raise TypeError(f"a grid maps parameters to lists of values, {each!r} does not")
        for name, values in each.items():
            if name not in _FIELDS:
                close = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.5)
                advice = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(_FIELDS)}"
                raise ValueError(f"{name!r} is no parameter of a run: {advice}")
            if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
                raise TypeError(f"{name}={values!r} must be a list of one value or more")
        for values in itertools.product(*each.values()):
            configs.append(dataclasses.replace(base, **dict(zip(each, values, strict=True))))
    return unique(configs)


def unique(configs: Sequence[FinetuneConfig]) -> list[Recipe]:
    """`configs` resolved, without repetitions; ValueError where two different ones have the same name."""
    found: dict[str, Recipe] = {}
    for config in map(resolve, configs):
        if found.setdefault(config.name, config) != config:
            raise ValueError(f"two different runs would be called {config.name!r}: give one of them a `name`")
    return list(found.values())


def read_grid(arguments: Sequence[str]) -> list[dict[str, list]]:
    """Grids from the command line: YAML or JSON files, and `name=value,value` arguments that extend each of them.
    Raises ValueError that names the argument, or the file."""
    grids: list[dict] = []
    extension = {}
    for argument in arguments:
        name, separator, values = argument.partition("=")
        try:
            if separator:
                extension[name] = [yaml.safe_load(value) for value in values.split(",")]
                continue
            content = yaml.safe_load(Path(argument).read_text("utf-8"))  # YAML reads JSON too
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{argument!r} is neither name=value,value nor a readable YAML file: {error}") from error
        for each in content if isinstance(content, list) else [content]:
            if not isinstance(each, dict):
                raise ValueError(f"{argument}: a grid maps parameters to lists of values, {each!r} does not")
            grids.append({name: v if isinstance(v, list) else [v] for name, v in each.items()})
    return [each | extension for each in grids or [{}]]
