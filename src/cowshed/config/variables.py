"""The environment variables that configure: ``COWSHED_<SECTION>_<KEY>``.

Not everything that begins with ``COWSHED_`` is ours: scripts have variables of their own, and Kubernetes makes some for every
service (``COWSHED_SERVICE_HOST``, where one is called cowshed). So a name is an error where it begins like a section, or is nearly the
whole name of an option, which nobody calls a variable of his own; a name that only resembles ours is told of, and all others are left alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from cowshed.config.sections import sections
from cowshed.errors import ConfigError

SOURCE: Final = "environment"
_PREFIX: Final = "COWSHED_"
_OTHERS: Final = ("COWSHED_CONFIG", "COWSHED_DEBUG", "COWSHED_PATH")  # ours, and no options
_MISSPELT: Final = 0.8  # difflib's measure: one or two letters of a usual option's name
_SIMILAR: Final = 0.75  # of a section's name alone, which is short


def read(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Section to key to value of every variable that begins like a section; whether the key is known is checked like a file's.

    :raises ConfigError: a variable is nearly one of ours
    """
    found: dict[str, dict[str, str]] = {}
    for name in sections():
        prefix = f"{_PREFIX}{name}_".upper()
        for variable, value in environ.items():
            if variable.startswith(prefix):
                found.setdefault(name, {})[variable.removeprefix(prefix).lower()] = value
    for variable in _strangers(environ):
        if near := difflib.get_close_matches(_word(variable), map(_word, _options()), n=1, cutoff=_MISSPELT):
            raise ConfigError(
                source=SOURCE, reason=f"{variable} is no option", hint=f"did you mean {_PREFIX}{near[0]}?"
            )
    return found


def doubtful(environ: Mapping[str, str]) -> list[str]:
    """A sentence on each variable that somebody may take for one of ours, and may have for himself."""
    return [
        f"{variable} is no option, and changes nothing; did you mean {near}?"
        for variable in _strangers(environ)
        if (near := _meant(variable))
    ]


def _meant(variable: str) -> str:
    """What it resembles: an option that it names without the section, a section, or another one of ours. Empty: nothing."""
    word = _word(variable)
    if option := next((option for option, key in _options().items() if key.upper() == word), ""):
        return option
    section, line, _ = word.partition("_")
    cutoff = _SIMILAR if line else 1.0  # a word alone is too short to be more than the same
    if near := difflib.get_close_matches(section.lower(), sections(), n=1, cutoff=cutoff):
        return f"one of [{near[0]}], {_PREFIX}{near[0].upper()}_<KEY>"
    near = difflib.get_close_matches(word, map(_word, _OTHERS), n=1, cutoff=_MISSPELT)
    return f"{_PREFIX}{near[0]}" if near else ""


def _strangers(environ: Mapping[str, str]) -> list[str]:
    """What begins with our name, and not like a section of ours."""
    known = tuple(f"{_PREFIX}{name}_".upper() for name in sections())
    return sorted(
        name for name in environ if name.startswith(_PREFIX) and not name.startswith(known) and name not in _OTHERS
    )


def _options() -> dict[str, str]:
    """The variable of every option, and its key."""
    return {
        f"{_PREFIX}{name}_{option.name}".upper(): option.name
        for name, kind in sections().items()
        for option in fields(kind)
    }


def _word(variable: str) -> str:
    """In the capitals that ours are written in."""
    return variable.removeprefix(_PREFIX).upper()
