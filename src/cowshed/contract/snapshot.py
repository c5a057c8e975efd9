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
        """The root disk, of a running or stopped instance, into an image record that exists already.

        :param image_id: the record
        :param update_task_state: called with ``task_state=image_pending_upload``, then with ``image_uploading`` and
            ``expected_state=image_pending_upload``
        :raises InstanceNotFound: :raises ImageNotFound: the record was deleted meanwhile; nothing is left behind
        """
        refuse(self, "snapshot")

    def post_interrupted_snapshot_cleanup(self, context: Any, instance: Instance) -> None:
        """At start-up: clear away what a snapshot left that was interrupted."""
        return

    @unfulfilled
    def quiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        """Freeze the guest's file systems through its agent, so that a snapshot is consistent.

        :raises UnsupportedOperation: the image has no agent (``hw_qemu_guest_agent``)
        :raises DeadlineExceeded: the agent does not answer
        :raises InvalidState: it does not run, or is frozen already
        :raises HypervisorError: the guest cannot; it is thawed
        """
        refuse(self, "quiesce")

    @unfulfilled
    def unquiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        """Thaw the guest's file systems; thawing what is not frozen is success. Errors as for :meth:`quiesce`."""
        refuse(self, "unquiesce")
