"""Power: on, off, reboot, pause, suspend. Each call returns when the new state is visible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.model.instance import Instance


class Power:
    """Power: on, off, reboot, pause, suspend. Each call returns when the new state is visible."""

    @unfulfilled
    def power_on(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        """To RUNNING; a running instance is left alone. What the host lost is made again.

        :raises InstanceNotFound: :raises PortInUse: :raises NetworkNotFound:
        """
        refuse(self, "power_on")

    @unfulfilled
    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        """To SHUTDOWN; one that is off already is success.

        :param timeout: seconds the guest gets to shut down when asked; 0: hard at once
        :param retry_interval: seconds after which it is asked again
        :raises InstanceNotFound: (not while asking: gone is off)
        """
        refuse(self, "power_off")

    @unfulfilled
    def reboot(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDevices = None,
        bad_volumes_callback: Callable[[list[str]], None] | None = None,
    ) -> None:
        """Restart; ends RUNNING.

        :param reboot_type: ``SOFT`` asks the guest and falls back to ``HARD``, which also starts a stopped or paused one
        :param bad_volumes_callback: receives the device names of volumes that have vanished
        """
        refuse(self, "reboot")

    @unfulfilled
    def pause(self, instance: Instance) -> None:
        """Stop the vCPUs, keep the memory. Paused already is success.

        :raises InvalidState: it is not running
        """
        refuse(self, "pause")

    @unfulfilled
    def unpause(self, instance: Instance) -> None:
        """Let the vCPUs run again. Running already is success.

        :raises InvalidState: it is neither
        """
        refuse(self, "unpause")

    @unfulfilled
    def suspend(self, context: Any, instance: Instance) -> None:
        """Memory to the host's disk; uses no CPU and no memory afterwards (:meth:`get_info` says SHUTDOWN).

        Suspended already is success.

        :raises InstanceNotFound: :raises InvalidState: it is off :raises NoSpace: for the memory
        """
        refuse(self, "suspend")

    @unfulfilled
    def resume(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        """Back from :meth:`suspend`. Running already is success.

        :raises InvalidState: there is nothing to resume from
        """
        refuse(self, "resume")

    @unfulfilled
    def resume_state_on_host_boot(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        """After the host came up: start again what was running. Needs no authority to fetch images.

        What runs, is paused or suspended is left as it is.
        """
        refuse(self, "resume_state_on_host_boot")

    @unfulfilled
    def poll_rebooting_instances(self, timeout: float, instances: Sequence[Instance]) -> None:
        """Look after instances whose reboot takes longer than ``timeout`` seconds; starts what is down."""
        refuse(self, "poll_rebooting_instances")

    @unfulfilled
    def trigger_crash_dump(self, instance: Instance) -> None:
        """Make the guest dump itself (a non-maskable interrupt).

        :raises InvalidState: it is not running
        """
        refuse(self, "trigger_crash_dump")
