"""How a suite expects an error, without a test framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cowshed.errors import CowshedError


class Caught:
    """``error`` is what was raised, once the block is over."""

    error: BaseException


@contextmanager
def refuses(*kinds: type[BaseException]) -> Iterator[Caught]:
    """The block must raise one of ``kinds``, with a sentence a person can read."""
    caught = Caught()
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield caught
    except kinds as error:
        if not str(error):
            raise AssertionError(f"{type(error).__name__} says nothing") from error
        caught.error = error
        return
    except NotImplementedError:
        raise  # what is not supported is no broken promise; the suite may count it
    except CowshedError as error:
        raise AssertionError(f"expected {names}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {names}, nothing was raised")
