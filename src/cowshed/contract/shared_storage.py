"""Do two hosts share the directory of an instance? Three calls that probe it."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance


class SharedStorage:
    """Do two hosts share the directory of an instance? Three calls that probe it."""

    @unfulfilled
    def check_instance_shared_storage_local(self, context: Any, instance: Instance) -> Any:
        """On the asking host: leave a file and describe it; None when there is nothing to share."""
        refuse(self, "check_instance_shared_storage_local")

    @unfulfilled
    def check_instance_shared_storage_remote(self, context: Any, data: Any) -> bool:
        """On the other host: is the file there?"""
        refuse(self, "check_instance_shared_storage_remote")

    @unfulfilled
    def check_instance_shared_storage_cleanup(self, context: Any, data: Any) -> None:
        """Remove the file; gone already is success."""
        refuse(self, "check_instance_shared_storage_cleanup")
