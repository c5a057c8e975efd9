"""The image's properties and the flavor's extra specs, read as what they mean.

Names are Nova's. A flavor's word (``hw:boot_menu``) is the operator's and goes before the image's
(``hw_boot_menu``). A value that is none of the known words is an error that names them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cowshed.errors import InvalidRequest
from cowshed.model.image import Image
from cowshed.model.instance import Instance

_TRUE = ("1", "true", "yes", "on", "t", "y")
_FALSE = ("0", "false", "no", "off", "f", "n", "")


@dataclass(frozen=True, slots=True)
class Properties:
    """Look-ups; each returns its default where nothing was said."""

    image: Mapping[str, str] = field(default_factory=dict)
    flavor: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Image, instance: Instance | None = None) -> Properties:
        return cls(image.properties, instance.flavor.extra_specs if instance else {})

    def text(self, name: str, default: str = "") -> str:
        """``hw_x`` of the image, or ``hw:x`` of the flavor where it says one."""
        found = self._find(name)[1]
        return default if found is None else str(found)

    def word(self, name: str, default: str, known: Collection[str]) -> str:
        """:raises InvalidRequest: not one of ``known``"""
        key, found = self._find(name)
        if found is None:
            return default
        if str(found) not in known:
            raise InvalidRequest(reason=f"{key}: {found!r} is not known", hint=f"known: {', '.join(known)}")
        return str(found)

    def flag(self, name: str) -> bool | None:
        """:raises InvalidRequest: neither true nor false"""
        key, found = self._find(name)
        if found is None:
            return None
        text = str(found).strip().lower()
        if text not in _TRUE + _FALSE:
            raise InvalidRequest(reason=f"{key}: {found!r} is not true or false")
        return text in _TRUE

    def number(self, name: str, *, least: int = 0, most: int | None = None) -> int | None:
        """:raises InvalidRequest: not a whole number, or out of range"""
        key, found = self._find(name)
        if found is None:
            return None
        try:
            number = int(str(found))
        except ValueError:
            raise InvalidRequest(reason=f"{key}: {found!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"between {least} and {most}"
            raise InvalidRequest(reason=f"{key}: {number} is not {bounds}")
        return number

    def _find(self, name: str) -> tuple[str, str | None]:
        key = name if ":" in name else name.replace("_", ":", 1)
        return (key, self.flavor[key]) if key in self.flavor else (name, self.image.get(name))
