"""Promises of instances that come and go."""

from __future__ import annotations

from collections.abc import Callable

from cowshed.errors import DiskTooSmall, InstanceNotFound, InvalidState, NameTaken
from cowshed.model.flavor import Flavor
from cowshed.model.instance import PowerState, RebootType
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses


class LifePromises(DriverSuite):
    @promise(
        "spawn",
        "get_info",
        "instance_exists",
        "list_instances",
        "list_instance_uuids",
        "get_num_instances",
        "instance_on_disk",
    )
    def test_a_spawned_instance_runs_and_is_known(self) -> None:
        instance = self.spawned()
        self._is(instance, PowerState.RUNNING)
        info = self.driver.get_info(instance)
        assert info.num_cpu == 1
        assert info.max_mem_kb == self.memory // 1024
        assert self.driver.instance_exists(instance)
        assert instance.name in self.driver.list_instances()
        assert instance.uuid in self.driver.list_instance_uuids()
        assert self.driver.get_num_instances() == len(self.driver.list_instances())
        assert self.driver.instance_on_disk(instance)

    @promise("spawn")
    def test_an_instance_is_never_taken_over(self) -> None:
        instance = self.lasting()
        with refuses(NameTaken):
            self.driver.spawn(None, instance, self.image, [], None)
        self._is(instance, PowerState.RUNNING)
        assert self.driver.instance_on_disk(instance)

    @promise("spawn")
    def test_what_cannot_be_spawned_leaves_nothing(self) -> None:
        before = sorted(self.driver.list_instance_uuids())
        instance = self.instance(flavor=Flavor(memory=self.memory, root=1))  # bytes; any image has more
        with refuses(DiskTooSmall):
            self.driver.spawn(None, instance, self.image, [], None)
        assert sorted(self.driver.list_instance_uuids()) == before
        assert not self.driver.instance_on_disk(instance)

    @promise("destroy", "cleanup", "delete_instance_files")
    def test_destroying_may_be_repeated(self) -> None:
        instance = self.spawned()
        self.driver.destroy(None, instance, [])
        assert not self.driver.instance_exists(instance)
        assert not self.driver.instance_on_disk(instance)
        self.driver.destroy(None, instance, [])
        self.driver.cleanup(None, instance, [])
        assert self.driver.delete_instance_files(instance)

    @promise("destroy", "cleanup", "instance_on_disk")
    def test_disks_may_outlive_the_instance(self) -> None:
        instance = self.spawned()
        self.driver.destroy(None, instance, [], destroy_disks=False)
        assert not self.driver.instance_exists(instance)
        assert self.driver.instance_on_disk(instance)
        self.driver.cleanup(None, instance, [])
        assert not self.driver.instance_on_disk(instance)

    @promise(
        "get_info",
        "power_off",
        "pause",
        "unpause",
        "suspend",
        "resume",
        "reboot",
        "get_diagnostics",
        "get_instance_disk_info",
        "get_vnc_console",
        "get_console_output",
        "block_stats",
    )
    def test_an_unknown_instance_is_said_to_be_unknown(self) -> None:
        instance = self.instance()
        calls: list[Callable[[], object]] = [
            lambda: self.driver.get_info(instance),
            lambda: self.driver.power_off(instance),
            lambda: self.driver.pause(instance),
            lambda: self.driver.unpause(instance),
            lambda: self.driver.suspend(None, instance),
            lambda: self.driver.resume(None, instance, []),
            lambda: self.driver.reboot(None, instance, [], RebootType.HARD),
            lambda: self.driver.get_diagnostics(instance),
            lambda: self.driver.get_instance_disk_info(instance),
            lambda: self.driver.get_instance_diagnostics(instance),
            lambda: self.driver.get_vnc_console(None, instance),
            lambda: self.driver.get_console_output(None, instance),
            lambda: self.driver.power_on(None, instance, []),
            lambda: self.driver.resume_state_on_host_boot(None, instance, []),
            lambda: self.driver.trigger_crash_dump(instance),
            lambda: self.driver.set_bootable(instance, False),
            lambda: self.driver.restore(instance),
            lambda: self.driver.set_admin_password(instance, "secret"),
            lambda: self.driver.rescue(None, instance, [], self.image, "secret"),
        ]
        for call in calls:
            with refuses(InstanceNotFound):
                call()
        assert not self.driver.instance_exists(instance)
        assert not self.driver.instance_on_disk(instance)
        assert self.driver.block_stats(instance, "vda") is None
        self.driver.power_off(instance, timeout=1)  # gone while it was asked is off

    @promise("destroy", "cleanup", "delete_instance_files", "soft_delete", "unplug_vifs", "unfilter_instance")
    def test_what_was_never_there_is_gone_already(self) -> None:
        instance = self.unknown()
        for _ in range(2):
            self.driver.destroy(None, instance, [])
            self.driver.cleanup(None, instance, [])
            assert self.driver.delete_instance_files(instance)
            self.driver.soft_delete(instance)
            self.driver.unplug_vifs(instance, [])
        assert not self.driver.instance_exists(instance)

    @promise("soft_delete", "restore")
    def test_a_softly_deleted_instance_rests_until_it_is_restored(self) -> None:
        instance = self.lasting()
        self.driver.restore(instance)  # nothing to do
        self._is(instance, PowerState.RUNNING)
        for _ in range(2):
            self.driver.soft_delete(instance)
            self._is(instance, PowerState.SHUTDOWN)
        with refuses(InvalidState):
            self.driver.power_on(None, instance, [])
        assert self.driver.instance_on_disk(instance)
        for _ in range(2):
            self.driver.restore(instance)
            self._is(instance, PowerState.RUNNING)

    @promise("set_bootable")
    def test_what_must_not_start_does_not(self) -> None:
        instance = self.lasting()
        self.driver.set_bootable(instance, False)
        self._is(instance, PowerState.RUNNING)
        self.driver.power_off(instance)
        assert self.driver.instance_exists(instance)
        assert instance.name in self.driver.list_instances()
        assert instance.uuid in self.driver.list_instance_uuids()
        starts: list[Callable[[], object]] = [
            lambda: self.driver.power_on(None, instance, []),
            lambda: self.driver.reboot(None, instance, [], RebootType.HARD),
            lambda: self.driver.resume_state_on_host_boot(None, instance, []),
        ]
        for start in starts:
            with refuses(InvalidState):
                start()
            self._is(instance, PowerState.SHUTDOWN)
        for _ in range(2):
            self.driver.set_bootable(instance, True)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)
