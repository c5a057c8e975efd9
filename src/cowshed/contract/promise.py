"""How a call that is not fulfilled says so, and how the table of what is real finds out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from cowshed.errors import UnsupportedOperation

Method = TypeVar("Method", bound=Callable[..., Any])

_MARK = "__cowshed_unfulfilled__"


def unfulfilled(method: Method) -> Method:
    """Marks a method of the contract whose body only raises UnsupportedOperation."""
    setattr(method, _MARK, True)
    return method


def is_fulfilled(kind: type, name: str) -> bool:
    """Does ``kind`` do something in ``name`` other than saying that it cannot?"""
    return not getattr(getattr(kind, name), _MARK, False)


def refuse(
    driver: object, operation: str, reason: str = "this driver does not fulfil that call", hint: str | None = None
) -> NoReturn:
    """:raises UnsupportedOperation: always, before any side effect"""
    raise UnsupportedOperation(subject=type(driver).__name__, operation=operation, reason=reason, hint=hint)
