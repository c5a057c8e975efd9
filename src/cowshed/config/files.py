"""The files that configure, the variables over them, and what is wrong in either."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from cowshed.config import user, variables
from cowshed.config.sections import PATH, Config, sections
from cowshed.errors import ConfigError, InvalidRequest, PermissionDenied
from cowshed.units import parse_duration, parse_size

BACKEND_KEYS = {"lvm": ("lvm", "volume_group"), "rbd": ("rbd", "pool")}


def default_files(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that are read, in order; ``COWSHED_CONFIG`` names one instead of the usual places.

    None for a user without a home, where ``XDG_CONFIG_HOME`` names no place either.

    :raises ConfigError: their directory is a link that leads nowhere
    """
    if chosen := environ.get("COWSHED_CONFIG"):
        return [Path(chosen)]
    if os.geteuid() == 0:
        folder = Path("/etc/cowshed")
    else:
        home = user.home()
        place = environ.get("XDG_CONFIG_HOME") or (home and home / ".config")
        if not place:
            return []
        folder = Path(place) / "cowshed"
    _refuse_dangling(folder / "conf.d", folder / "conf.d")
    return [folder / "config.toml", *sorted((folder / "conf.d").glob("*.toml"))]


def load(files: list[Path] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration from ``files`` (default: the usual places) and the environment.

    :raises ConfigError: a file cannot be read, or a key or value is wrong
    """
    config = Config()
    if (chosen := environ.get("COWSHED_CONFIG")) and files is None and not Path(chosen).exists():
        _check_way(Path(chosen))
        raise ConfigError(source=chosen, reason="COWSHED_CONFIG names it, but it is not there")
    for path in default_files(environ) if files is None else files:
        config = _merge(config, _read(path), str(path))
    return _merge(config, variables.read(environ), variables.SOURCE)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        _check_way(path)
        return {}
    except PermissionError as error:
        raise PermissionDenied(action="read", path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError(source=path, reason="it is not text in UTF-8") from error
    except OSError as error:
        raise ConfigError(source=path, reason=f"it cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source=path, reason=str(error)) from error


def _check_way(path: Path) -> None:
    """:raises ConfigError: ``path`` is not there because a link on the way to it leads nowhere"""
    for one in (path, *path.parents):
        _refuse_dangling(one, path)


def _refuse_dangling(link: Path, source: Path) -> None:
    """Somebody meant to configure something: that is not the same as no file.

    :raises ConfigError: ``link`` leads nowhere
    """
    with suppress(PermissionError):  # what it names may be there
        if link.is_symlink() and not link.exists():
            name = "it" if link == source else str(link)
            raise ConfigError(
                source=source,
                reason=f"{name} is a link to {link.readlink()}, which is not there",
                hint="make what it names, or remove the link",
            )


def _merge(config: Config, data: Mapping[str, Any], source: str) -> Config:
    known = sections()
    sources = dict(config.sources)
    for name, values in data.items():
        if name not in known:
            raise _unknown("section", name, known, source)
        if not isinstance(values, Mapping):
            raise ConfigError(source=source, reason=f"{name} must be a section: [{name}]")
        hints = get_type_hints(known[name])
        options = {f.name: f for f in fields(known[name])}
        changes = {}
        for key, value in values.items():
            if key not in options:
                raise _unknown("key", key, options, source, f"[{name}] ")
            changes[key] = _convert(value, hints[key], options[key].metadata, f"[{name}] {key}", source)
            sources[f"{name}.{key}"] = source
        config = replace(config, **{name: replace(getattr(config, name), **changes)})
    return replace(config, sources=sources)


def _unknown(kind: str, name: str, known: Mapping[str, Any], source: str, where: str = "") -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return ConfigError(source=source, reason=f"{where}unknown {kind} {name}", hint=hint)


def _convert(value: Any, kind: Any, metadata: Mapping[str, Any], where: str, source: str) -> Any:
    try:
        converted = _typed(value, kind, metadata["unit"])
    except (InvalidRequest, ValueError, TypeError) as error:
        raise ConfigError(source=source, reason=f"{where}: {error}") from error
    choices = metadata["choices"]
    if choices and converted not in choices:
        raise ConfigError(source=source, reason=f"{where}: {converted!r} is not one of {', '.join(map(repr, choices))}")
    return converted


def _typed(value: Any, kind: Any, unit: str) -> Any:
    if isinstance(value, bool) and kind is not bool:
        raise TypeError(f"{value!r} is not a value of this kind")
    if unit == "B":
        return parse_size(value)
    if unit == "s":
        return parse_duration(value)
    if unit == PATH and isinstance(value, str) and value and not os.path.isabs(value):
        raise ValueError(f"{value!r} is not an absolute path")
    if kind is bool:
        return _boolean(value)
    if get_origin(kind) is tuple:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        return tuple(get_args(kind)[0](item) for item in items)
    if kind is str and not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return kind(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise TypeError(f"{value!r} is not true or false")


def check_backend(name: str, there: Collection[str]) -> None:
    """Is the disk backend ``name`` one of those that are ``there``?

    :raises ConfigError: there is such a kind, but it is not configured
    :raises InvalidRequest: there is no such kind
    """
    if name in there:
        return
    if name in BACKEND_KEYS:
        section, key = BACKEND_KEYS[name]
        files = [str(path) for path in default_files()[:1]]
        raise ConfigError(
            source=f"[{section}] {key}",
            reason=f"it is not set, so that there is no disk backend {name} here",
            hint="set " + ", or ".join([*(f"it in {path}" for path in files), f"COWSHED_{section}_{key}".upper()]),
        )
    raise InvalidRequest(reason=f"there is no disk backend {name!r}", hint=f"known: {', '.join(there)}")
