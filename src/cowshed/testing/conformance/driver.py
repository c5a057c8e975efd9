"""What every compute driver promises (contract/compute.py), as far as it fulfils it."""

from __future__ import annotations

import inspect
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.contract.promise import is_fulfilled
from cowshed.errors import DiskTooSmall, InstanceNotFound, InvalidState, NameTaken, UnsupportedOperation
from cowshed.model.event import Event, LifecycleEvent, Transition
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState, RebootType
from cowshed.testing.conformance.expect import refuses
from cowshed.units import MiB

_PATIENCE = 20.0  # seconds for an event


class DriverConformance:
    """Set before each test:

    * ``driver``: the driver, after ``init_host``, with no instances;
    * ``image``: a bootable image that the driver's image service has.

    Call :meth:`clean` after each test.
    """

    driver: ComputeDriver
    image: Image
    memory = 128 * MiB
    _made: list[Instance]

    def instance(self, **fields: Any) -> Instance:
        """A new one, not spawned yet."""
        identity = str(uuid.uuid4())
        flavor = fields.pop("flavor", Flavor(vcpus=1, memory=self.memory))
        made = Instance(
            uuid=identity, name=f"conform-{identity[:8]}", flavor=flavor, image_ref=self.image.id, host="here", **fields
        )
        self._made = [*getattr(self, "_made", []), made]
        return made

    def spawned(self, **fields: Any) -> Instance:
        instance = self.instance(**fields)
        self.driver.spawn(None, instance, self.image, [], None, network_info=[])
        return instance

    def clean(self) -> None:
        for instance in getattr(self, "_made", []):
            self.driver.destroy(None, instance, [])

    # --- come and go ----------------------------------------------------------------------------

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

    def test_an_instance_is_never_taken_over(self) -> None:
        instance = self.spawned()
        with refuses(NameTaken):
            self.driver.spawn(None, instance, self.image, [], None)
        self._is(instance, PowerState.RUNNING)
        assert self.driver.instance_on_disk(instance)

    def test_what_cannot_be_spawned_leaves_nothing(self) -> None:
        before = sorted(self.driver.list_instance_uuids())
        instance = self.instance(flavor=Flavor(memory=self.memory, root=512))
        with refuses(DiskTooSmall):
            self.driver.spawn(None, instance, self.image, [], None)
        assert sorted(self.driver.list_instance_uuids()) == before
        assert not self.driver.instance_on_disk(instance)

    def test_destroying_may_be_repeated(self) -> None:
        instance = self.spawned()
        self.driver.destroy(None, instance, [])
        assert not self.driver.instance_exists(instance)
        assert not self.driver.instance_on_disk(instance)
        self.driver.destroy(None, instance, [])
        self.driver.cleanup(None, instance, [])
        assert self.driver.delete_instance_files(instance)

    def test_disks_may_outlive_the_instance(self) -> None:
        instance = self.spawned()
        self.driver.destroy(None, instance, [], destroy_disks=False)
        assert not self.driver.instance_exists(instance)
        assert self.driver.instance_on_disk(instance)
        self.driver.cleanup(None, instance, [])
        assert not self.driver.instance_on_disk(instance)

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
            lambda: self.driver.get_vnc_console(None, instance),
        ]
        for call in calls:
            with refuses(InstanceNotFound):
                call()
        assert not self.driver.instance_exists(instance)
        assert not self.driver.instance_on_disk(instance)
        assert self.driver.block_stats(instance, "vda") is None
        self.driver.power_off(instance, timeout=1)  # gone while it was asked is off

    # --- power ----------------------------------------------------------------------------------

    def test_off_and_on_may_be_repeated(self) -> None:
        instance = self.spawned()
        for _ in range(2):
            self.driver.power_off(instance)
            self._is(instance, PowerState.SHUTDOWN)
        for _ in range(2):
            self.driver.power_on(None, instance, [])
            self._is(instance, PowerState.RUNNING)

    def test_pause_and_unpause_may_be_repeated(self) -> None:
        instance = self.spawned()
        self.driver.unpause(instance)
        for _ in range(2):
            self.driver.pause(instance)
            self._is(instance, PowerState.PAUSED)
        for _ in range(2):
            self.driver.unpause(instance)
            self._is(instance, PowerState.RUNNING)

    def test_what_is_off_is_not_paused_suspended_or_diagnosed(self) -> None:
        instance = self.spawned()
        self.driver.power_off(instance)
        calls: list[Callable[[], object]] = [
            lambda: self.driver.pause(instance),
            lambda: self.driver.unpause(instance),
            lambda: self.driver.suspend(None, instance),
            lambda: self.driver.resume(None, instance, []),
            lambda: self.driver.trigger_crash_dump(instance),
            lambda: self.driver.get_diagnostics(instance),
        ]
        for call in calls:
            with refuses(InvalidState):
                call()
        self._is(instance, PowerState.SHUTDOWN)

    def test_suspend_and_resume(self) -> None:
        instance = self.spawned()
        self.driver.resume(None, instance, [])  # running already
        for _ in range(2):
            self.driver.suspend(None, instance)
            self._is(instance, PowerState.SHUTDOWN)
        self.driver.resume(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    def test_powering_a_suspended_instance_on_restores_it(self) -> None:
        instance = self.spawned()
        self.driver.suspend(None, instance)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    def test_powering_a_suspended_instance_off_forgets_its_memory(self) -> None:
        instance = self.spawned()
        self.driver.suspend(None, instance)
        self.driver.power_off(instance)
        with refuses(InvalidState):
            self.driver.resume(None, instance, [])

    def test_a_hard_reboot_starts_whatever_state_it_finds(self) -> None:
        instance = self.spawned()
        prepares: list[Callable[[Instance], object]] = [lambda _: None, self.driver.pause, self.driver.power_off]
        for prepare in prepares:
            prepare(instance)
            self.driver.reboot(None, instance, [], RebootType.HARD)
            self._is(instance, PowerState.RUNNING)

    def test_after_the_host_booted_what_was_off_runs(self) -> None:
        instance = self.spawned()
        self.driver.resume_state_on_host_boot(None, instance, [])
        self._is(instance, PowerState.RUNNING)
        self.driver.power_off(instance)
        self.driver.resume_state_on_host_boot(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    # --- look -----------------------------------------------------------------------------------

    def test_a_running_instance_can_be_looked_at(self) -> None:
        instance = self.spawned()
        assert isinstance(self.driver.get_console_output(None, instance), bytes)
        assert "memory" in self.driver.get_diagnostics(instance)
        assert self.driver.get_instance_diagnostics(instance)["state"] == "running"
        assert self.driver.get_per_instance_usage()[instance.uuid]["memory_mb"] == self.memory // MiB
        assert self.driver.block_stats(instance, "no-such-disk") in (None, [0, 0, 0, 0, 0])
        try:
            console = self.driver.get_vnc_console(None, instance)
        except UnsupportedOperation:
            return
        assert console.host
        assert int(console.port) > 0

    def test_its_disks_are_described(self) -> None:
        disks = json.loads(self.driver.get_instance_disk_info(self.spawned()))
        assert disks
        for disk in disks:
            assert disk.keys() >= {"type", "path", "virt_disk_size", "backing_file", "disk_size"}
            assert disk["over_committed_disk_size"] >= 0
        assert max(disk["virt_disk_size"] for disk in disks) >= self.image.virtual_size

    def test_devices_get_names(self) -> None:
        instance = self.instance()
        assert self.driver.default_root_device_name(instance, self.image, {}).startswith("/dev/")
        devices: list[dict[str, Any]] = [{"device_name": None}, {"device_name": "/dev/vdc"}, {"device_name": None}]
        self.driver.default_device_names_for_instance(instance, "/dev/vda", devices[:1], [], devices[1:])
        assert [device["device_name"] for device in devices] == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]
        assert self.driver.get_device_name_for_instance(instance, devices, {}) not in {
            device["device_name"] for device in devices
        }

    def test_the_host_describes_itself(self) -> None:
        (node,) = self.driver.get_available_nodes()
        assert self.driver.node_is_available(node)
        assert not self.driver.node_is_available(node + "-not")
        resources = self.driver.get_available_resource(node)
        assert isinstance(resources["hypervisor_version"], int)
        assert resources["hypervisor_hostname"] == node
        assert resources["vcpus"] > 0
        assert resources["memory_mb"] > 0
        json.loads(resources["cpu_info"])
        assert self.driver.get_host_cpu_stats().keys() == {"kernel", "idle", "user", "iowait", "frequency"}
        assert "load average" in self.driver.get_host_uptime()
        assert self.driver.get_host_ip_addr()

    def test_used_resources_are_counted(self) -> None:
        (node,) = self.driver.get_available_nodes()
        before = self.driver.get_available_resource(node)
        instance = self.spawned()
        during = self.driver.get_available_resource(node)
        assert during["vcpus_used"] == before["vcpus_used"] + 1
        self.driver.destroy(None, instance, [])
        assert self.driver.get_available_resource(node)["vcpus_used"] == before["vcpus_used"]

    # --- events ---------------------------------------------------------------------------------

    def test_starting_and_stopping_is_told(self) -> None:
        heard: list[Event] = []
        arrived = threading.Condition()

        def listen(event: Event) -> None:
            with arrived:
                heard.append(event)
                arrived.notify_all()

        self.driver.register_event_listener(listen)
        try:
            instance = self.spawned()
            self.driver.power_off(instance)

            def transitions() -> list[Transition]:
                mine = (one for one in heard if isinstance(one, LifecycleEvent) and one.uuid == instance.uuid)
                return [one.transition for one in mine if one.transition in (Transition.STARTED, Transition.STOPPED)]

            with arrived:
                assert arrived.wait_for(lambda: len(transitions()) >= 2, _PATIENCE), heard
            assert transitions()[:2] == [Transition.STARTED, Transition.STOPPED]
        finally:
            self.driver.register_event_listener(None)

    def test_events_reach_the_last_listener_in_order(self) -> None:
        first: list[Event] = []
        second: list[Event] = []
        self.driver.register_event_listener(first.append)
        self.driver.register_event_listener(second.append)
        events = [LifecycleEvent("a", Transition.STARTED), LifecycleEvent("b", Transition.STOPPED)]
        for event in events:
            self.driver.emit_event(event)
        self.driver.register_event_listener(None)
        self.driver.emit_event(events[0])
        assert [event for event in second if event in events] == events
        assert not [event for event in first if event in events]

    def test_a_failing_listener_harms_nobody(self) -> None:
        def fail(event: Event) -> None:
            raise RuntimeError("the listener's own fault")

        self.driver.register_event_listener(fail)
        self.driver.emit_event(LifecycleEvent("a", Transition.STARTED))
        self.driver.register_event_listener(None)
        with refuses(ValueError):
            self.driver.emit_event({"not": "an event"})  # type: ignore[arg-type]

    # --- what it cannot do ----------------------------------------------------------------------

    def test_what_is_not_fulfilled_says_so(self) -> None:
        for name in (name for capability in CAPABILITIES for name in vars(capability) if not name.startswith("_")):
            if is_fulfilled(type(self.driver), name):
                continue
            method = getattr(self.driver, name)
            wanted = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ]
            with refuses(NotImplementedError) as caught:
                method(**{parameter.name: None for parameter in wanted})
            assert isinstance(caught.error, UnsupportedOperation)
            assert name in str(caught.error)

    def _is(self, instance: Instance, state: PowerState) -> None:
        found = self.driver.get_info(instance).state
        assert found == state, f"{instance.name} is {found.name}, not {state.name}"
