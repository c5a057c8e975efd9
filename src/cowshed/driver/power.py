"""Power: on, off, reboot, pause, suspend. Each returns when the new state is visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.contract.power import Power as PowerContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    connect,
    filtering,
    launch,
    limits,
    locate,
    marks,
    opening,
    right_time,
    shares,
    standing,
    teardown,
    volumes,
)
from cowshed.errors import CowshedError, InstanceNotFound, InvalidState
from cowshed.model.instance import Ending, Instance, PowerState, RebootType
from cowshed.model.vif import Vif
from cowshed.model.volume import BlockDeviceInfo

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

BlockDevices = BlockDeviceInfo | Mapping[str, Any] | None


class Power(PowerContract):
    rooms: Rooms

    def power_on(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None = None,
        block_device_info: BlockDevices = None,
    ) -> None:
        """To RUNNING. A running guest is left alone; a suspended one is restored, not started cold."""
        vifs = tuple(network_info or ())
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            state = guest.state() if guest else PowerState.SHUTDOWN
            if state == PowerState.RUNNING:
                return
            if guest and state == PowerState.PAUSED:
                return self.unpause(instance)
            if guest and guest.has_saved():
                return self._restore(instance, vifs, block_device_info)
            self._refuse_unknown(instance, guest)
            launch.relaunch(self.rooms, instance, vifs, block_device_info)

    def _refuse_unknown(self, instance: Instance, guest: Guest | None) -> None:
        """Without a domain the definition is made again from what is on disk. :raises InstanceNotFound: neither is there"""
        if guest is None and not self.rooms.directory(instance.uuid).exists():
            raise InstanceNotFound(name=instance.name)

    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        self.switch_off(instance, timeout=timeout, retry_interval=retry_interval)

    def switch_off(self, instance: Instance, *, timeout: float, retry_interval: float) -> Ending | None:
        """:meth:`power_off`, which says how the guest ended; None: it was off (beside the contract)."""
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            if guest is None:
                if timeout:
                    return None
                raise InstanceNotFound(name=instance.name)
            if guest.has_saved():
                guest.discard_saved()
            ending = None if guest.ended() else self._end(guest, timeout, retry_interval)
            shares.close(self.rooms, instance.uuid)
            opening.let_go(self.rooms, instance)
            return ending

    def _end(self, guest: Guest, timeout: float, retry_interval: float) -> Ending:
        if timeout and teardown.shut_down(self.rooms, guest, timeout, retry_interval):
            return Ending.SHUT_DOWN
        teardown.power_off(self.rooms, guest)
        return Ending.CUT_OFF

    def reboot(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None,
        reboot_type: str,
        block_device_info: BlockDevices = None,
        bad_volumes_callback: Callable[[list[str]], None] | None = None,
    ) -> None:
        timeout = self.rooms.config.power.soft_reboot_timeout if reboot_type == RebootType.SOFT else 0
        self._restart(instance, tuple(network_info or ()), timeout, block_device_info, bad_volumes_callback)

    def restart(self, instance: Instance, network_info: Sequence[Vif], *, timeout: float) -> None:
        """A soft reboot that gives the guest ``timeout`` seconds to shut down; 0: hard at once (beside the contract)."""
        self._restart(instance, tuple(network_info), timeout)

    def _restart(
        self,
        instance: Instance,
        vifs: Sequence[Vif],
        timeout: float,
        block_device_info: BlockDevices = None,
        bad_volumes_callback: Callable[[list[str]], None] | None = None,
    ) -> None:
        with log.about(instance.name):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            marks.refuse_marked(self.rooms, instance, "restarted")
            standing.ready(self.rooms, instance)
            shares.check_recorded(self.rooms, instance)
            launch.check_host(self.rooms)
            if timeout and guest.state() == PowerState.RUNNING:
                if teardown.shut_down(self.rooms, guest, timeout, 0):
                    return launch.relaunch(self.rooms, instance, vifs, block_device_info, bad_volumes_callback)
                _log.warning("the guest did not shut down when asked; resetting it")
            if guest.has_saved():
                guest.discard_saved()
            teardown.power_off(self.rooms, guest)
            connect.unplug(self.rooms, vifs)
            launch.relaunch(self.rooms, instance, vifs, block_device_info, bad_volumes_callback)

    def pause(self, instance: Instance) -> None:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        state = guest.state()
        if state == PowerState.PAUSED:
            return
        if state != PowerState.RUNNING:
            raise InvalidState(name=instance.name, state=state.word, action="paused")
        guest.suspend()
        guest.wait(PowerState.PAUSED, timeout=30, what=f"{instance.name} paused")

    def unpause(self, instance: Instance) -> None:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if guest.state() == PowerState.PAUSED:
            marks.refuse_leaving(self.rooms, instance, "unpaused")
        state = guest.state()
        if state == PowerState.RUNNING:
            return
        if state != PowerState.PAUSED:
            raise InvalidState(name=instance.name, state=state.word, action="unpaused")
        guest.resume()
        guest.wait(PowerState.RUNNING, timeout=30, what=f"{instance.name} running")
        with log.about(instance.name):
            right_time.set_right(guest)

    def suspend(self, context: Any, instance: Instance) -> None:
        """Memory to the host's disk; the contract reports SHUTDOWN afterwards."""
        guest = self.rooms.hypervisor.guest(instance.uuid)
        state = guest.state()
        if state in teardown.OFF:
            if guest.has_saved():
                return
            raise InvalidState(name=instance.name, state="stopped", action="suspended")
        with log.about(instance.name):
            shares.refuse_saving(instance, guest)
            self.rooms.progress.phase("save")
            filtering.save(self.rooms, guest)

    def resume(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None,
        block_device_info: BlockDevices = None,
    ) -> None:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if guest.state() == PowerState.RUNNING:
            return
        if not guest.has_saved():
            raise InvalidState(name=instance.name, state="not suspended", action="resumed")
        with log.about(instance.name):
            self._restore(instance, tuple(network_info or ()), block_device_info)

    def _restore(self, instance: Instance, vifs: Sequence[Vif], block_devices: BlockDevices) -> None:
        """From the saved memory; when that fails the memory is kept, so that a retry is possible."""
        from cowshed.undo import Undo

        marks.refuse_marked(self.rooms, instance, "resumed")
        standing.ready(self.rooms, instance)
        connect.check(self.rooms, vifs)
        filtering.check(self.rooms, instance, vifs)
        guest = self.rooms.hypervisor.guest(instance.uuid)
        with Undo() as undo:
            connect.plug(self.rooms, vifs, undo)
            opening.ready(self.rooms, instance)
            image = locate.remembered_image(self.rooms, instance)
            volumes.connect_all(self.rooms, instance, volumes.wanted(self.rooms, instance, image, block_devices), undo)
            self.rooms.progress.phase("restore")
            launch.begin(self.rooms, guest)
            launch.go_on(self.rooms, guest)
            limits.apply(self.rooms, instance, guest)
        right_time.set_right(guest, patience=right_time.CONNECTS)

    def resume_state_on_host_boot(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None,
        block_device_info: BlockDevices = None,
    ) -> None:
        guest = self.rooms.hypervisor.find(instance.uuid)
        if guest and guest.state() in (PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED):
            return
        if guest and guest.has_saved():
            return
        self._refuse_unknown(instance, guest)
        with log.about(instance.name):
            launch.relaunch(self.rooms, instance, tuple(network_info or ()), block_device_info)

    def poll_rebooting_instances(self, timeout: float, instances: Sequence[Instance]) -> None:
        """What runs has come up meanwhile. The rest is started hard, with the interfaces and volumes that the host
        remembers; what fails is logged, and the others get their turn.
        """
        for instance in instances:
            with log.about(instance.name):
                try:
                    self._end_reboot(instance, timeout)
                except CowshedError as error:
                    _log.warning("its reboot could not be ended: %s", error)

    def _end_reboot(self, instance: Instance, timeout: float) -> None:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if guest.state() == PowerState.RUNNING:
            return
        _log.info("its reboot takes longer than %g s; starting it hard", timeout)
        self.reboot(None, instance, locate.remembered_vifs(self.rooms, guest), RebootType.HARD)

    def trigger_crash_dump(self, instance: Instance) -> None:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if guest.state() != PowerState.RUNNING:
            raise InvalidState(name=instance.name, state=guest.state().name.lower(), action="made to dump")
        guest.inject_nmi()
