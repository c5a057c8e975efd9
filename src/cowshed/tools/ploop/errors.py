"""One error for everything that is wrong with a ploop image."""

from __future__ import annotations


class PloopError(ValueError):
    """It is not a ploop image that we accept; the message is the reason."""
