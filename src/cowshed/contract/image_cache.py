"""The cache of bases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ImageCache:
    """The cache of bases."""

    def manage_image_cache(self, context: Any, all_instances: Sequence[Any]) -> None:
        """Remove bases that nobody needs; called from time to time.

        :param all_instances: those of all hosts that share the storage
        """
        return
