"""Images made of instances, and quiet file systems for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Snapshot:
    """Images made of instances, and quiet file systems for them."""

    @unfulfilled
    def snapshot(self, context: Any, instance: Instance, image_id: str, update_task_state: Callable[..., None]) -> None:
        """The root disk into an image record that exists already.

        :param update_task_state: called with ``image_pending_upload``, then with ``image_uploading`` and
            ``expected_state=image_pending_upload``
        """
        refuse(self, "snapshot")

    def post_interrupted_snapshot_cleanup(self, context: Any, instance: Instance) -> None:
        """Clear away what a snapshot left that was interrupted."""
        return

    @unfulfilled
    def quiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        """Freeze the guest's file systems through its agent."""
        refuse(self, "quiesce")

    @unfulfilled
    def unquiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        """Thaw them; thawing what is not frozen is success."""
        refuse(self, "unquiesce")
