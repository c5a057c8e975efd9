"""Do two hosts share the directory of an instance? Three calls that probe it."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance


class SharedStorage:
    """Do two hosts share the directory of an instance? Three calls that probe it."""

    @unfulfilled
    def check_instance_shared_storage_local(self, context: Any, instance: Instance) -> Any:
        """On the asking host: leave a file in the instance's directory and describe it.

        :returns: ``{"filename": path}``; None when nothing lies in files that could be shared
        """
        refuse(self, "check_instance_shared_storage_local")

    @unfulfilled
    def check_instance_shared_storage_remote(self, context: Any, data: Any) -> bool:
        """On the other host: is the described file there?"""
        refuse(self, "check_instance_shared_storage_remote")

    @unfulfilled
    def check_instance_shared_storage_cleanup(self, context: Any, data: Any) -> None:
        """On the asking host: remove the file; gone already, or no description, is success."""
        refuse(self, "check_instance_shared_storage_cleanup")
