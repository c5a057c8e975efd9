"""Host: the library's door to one host."""

from __future__ import annotations

import dataclasses
import os
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cowshed import config as configuration
from cowshed import log
from cowshed.config import user
from cowshed.errors import CowshedError, InstanceNotFound, InvalidRequest, InvalidState, NameTaken
from cowshed.manager import names, request
from cowshed.manager.deleted import Deleted
from cowshed.manager.disks import Disks
from cowshed.manager.images import Images
from cowshed.manager.instances import Instances
from cowshed.manager.machine import Machine, check_condition, may_have_address, may_reach_ssh
from cowshed.manager.migrations import Migrations
from cowshed.manager.nics import Nics
from cowshed.manager.records import Entry, Record
from cowshed.manager.request import NewInstance
from cowshed.manager.shares import Shares, parse
from cowshed.manager.volumes import NewVolume, Volumes
from cowshed.model.host import Finding
from cowshed.model.image import Image
from cowshed.model.instance import Instance, InstanceState
from cowshed.model.vif import Vif

if TYPE_CHECKING:
    import queue

    from cowshed.contract.storage import Backend
    from cowshed.driver import LibvirtDriver
    from cowshed.model.event import LifecycleEvent

_log = log.logger(__name__)


class Host:
    """Instances and images of this host. Use it as a context manager::

    with cowshed.Host.connect() as host:
        vm = host.run("debian", name="web")
    """

    def __init__(self, config: configuration.Config, driver: LibvirtDriver) -> None:
        self.config = config
        self.driver = driver
        self.instances = Instances(driver, config.state)
        self.images = Images(driver, self.instances)
        self.disks = Disks(driver, self.instances)
        self.deleted = Deleted(driver, self.instances)
        self.volumes = Volumes(driver, self.instances)
        self.shares = Shares(driver, self.instances)
        self.groups = self.instances.groups
        self.nics = Nics(driver, self.instances)
        self.migrations = Migrations(driver, self.instances)
        self._watching: list[queue.SimpleQueue[LifecycleEvent]] = []

    @classmethod
    def connect(
        cls,
        uri: str | None = None,
        *,
        config: configuration.Config | None = None,
        driver: LibvirtDriver | None = None,
    ) -> Host:
        """Cheap: libvirt is reached by the first call that needs it.

        :param uri: of libvirt; None: as configured
        :raises ConfigError:
        """
        from cowshed.driver import LibvirtDriver

        if config is None:
            config = configuration.load()
            for doubt in configuration.doubtful(os.environ):
                _log.warning("%s", doubt)
        if uri:
            config = dataclasses.replace(config, host=dataclasses.replace(config.host, uri=uri))
        return cls(config, driver or LibvirtDriver(config=config))

    def close(self) -> None:
        self.driver.cleanup_host("")
        self.instances.records.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- instances ----------------------------------------------------------------------------

    def run(
        self,
        image: str | Path = "",
        *,
        name: str | None = None,
        cpus: int = 1,
        memory: str | int = "1G",
        disk: str | int | None = None,
        ephemeral_disk: str | int = 0,
        swap: str | int = 0,
        ssh_key: str | Path | Sequence[str | Path] | None = None,
        user_data: str | Path | None = None,
        vendor_data: str | Path | None = None,
        hostname: str = "",
        networks: Sequence[str] = (),
        publish: Sequence[str] = (),
        groups: Sequence[str] = (),
        ips: Sequence[str] = (),
        root_volume: str | NewVolume | None = None,
        volumes: Sequence[str | NewVolume] = (),
        backend: str = "",
        disk_backends: Mapping[str, str] | None = None,
        shares: Sequence[str] = (),
        kernel: str | None = None,
        initrd: str | None = None,
        cmdline: str = "",
        properties: Mapping[str, str] | None = None,
        extra_specs: Mapping[str, str] | None = None,
        datasource: str = "",
        password: str | None = None,
        encrypt: bool = False,
        ephemeral: bool = False,
    ) -> Machine:
        """A new instance, running.

        :param image: name or id of an image, or the path or URL of one (a Path is never a name); empty: it boots from
            ``root_volume``
        :param memory: and the other sizes: bytes, or words such as ``512M``
        :param disk: the root disk's size; None: the image's
        :param ssh_key: public keys: their text, or paths of their files
        :param user_data: cloud-init's, as text (it has line breaks or begins with #) or the path of a file
        :param networks: each with ``,mac=``, ``,model=`` or ``,tag=`` behind it: ``user``, ``none``, ``bridge:NAME``, ``tap:NAME``, ``macvtap:DEVICE``, ``ovs:BRIDGE``, or the NAME of a
            libvirt network; empty: as configured
        :param publish: port forwards such as ``2222:22``
        :param groups: security groups of every interface; empty: packets are not filtered
        :param ips: addresses of its interfaces, in the order of ``networks``, such as ``10.0.0.5/24``; the others use DHCP
        :param root_volume: instead of a root disk of its own; nothing of it is changed here, and it stays when the instance goes
        :param volumes: attached from the start
        :param backend: where its disks live; empty: as configured
        :param disk_backends: where single ones do: ``{"swap": "raw"}``; root, swap, ephemeral, cdrom
        :param shares: directories of this host that it mounts: ``/srv/data``, ``/srv/data:TAG``, ``/srv/data:TAG:ro``
        :param kernel: boot this image (a kernel) directly, with ``initrd`` and ``cmdline``
        :param properties: of the image, for this instance: ``hw_disk_bus``, ``hw_firmware_type``, ...
        :param encrypt: each disk with a key of its own, on this host
        :param ephemeral: removed at the end of the ``with`` block
        :raises ImageNotFound: :raises NameTaken: :raises InvalidRequest: and what the driver's spawn raises
        """
        if isinstance(image, Path):
            image = str(user.path(image).absolute())
        request.check_boot(image, root_volume, disk, kernel=kernel, initrd=initrd, cmdline=cmdline)
        flavor = request.flavor(cpus, memory, root=disk, ephemeral=ephemeral_disk, swap=swap, extra_specs=extra_specs)
        root, devices = request.block_devices(root_volume, volumes)
        identity = str(uuids.uuid4())
        invented = name is None
        name = self._free_name(name)
        vifs = self._vifs(networks, publish, identity, groups, ips)
        instance = Instance(
            uuid=identity,
            name=name,
            flavor=flavor,
            display_name=name,
            hostname=names.check_host(hostname) if hostname else name,
            key_data=request.public_keys(ssh_key),
            user_data=request.text(user_data, "user data"),
            vendor_data=request.text(vendor_data, "vendor data"),
            backend=backend,
            disk_backends=dict(disk_backends or {}),
            encrypt=encrypt,
            system_metadata=_without_empty(datasource=datasource, root_volume=root),
        )
        self._check_backends([backend or self.config.disks.backend, *instance.disk_backends.values()])
        if shares:
            self.driver.give_shares(None, instance, parse(shares))
        chosen = {**(properties or {}), **_without_empty(os_command_line=cmdline)}
        new = NewInstance(instance, vifs, chosen, password, devices, root)
        record = self._create(new, image, kernel, initrd, invented=invented)
        return Machine(self, record, ephemeral=ephemeral)

    def _free_name(self, name: str | None) -> str:
        """One that no instance has when those whose time is over have been reclaimed. :raises NameTaken:

        :param name: None: an invented one
        """
        if name is not None:
            names.check(name)
        self.deleted.reclaim_due()
        if name is None:
            return names.invent(self.instances.records.exists)
        self.instances.check_free(name)
        return name

    def check_wait(self, condition: str, networks: Sequence[str] = (), publish: Sequence[str] = ()) -> None:
        """Before :meth:`run` with these: may what :meth:`Machine.wait` would wait for ever come?

        :raises InvalidRequest: there is no such condition; or no network on which the instance would have an address,
            or by which this host would reach its ssh server
        """
        check_condition(condition)
        if condition not in ("address", "ssh"):
            return
        vifs = self._vifs(networks, publish, str(uuids.uuid4()), (), ())
        if condition == "address" and not may_have_address(vifs):
            raise InvalidRequest(
                reason="an address would be waited for in vain: it would be on no network",
                hint="give --network user, or another network than none",
            )
        if condition == "ssh" and not may_reach_ssh(vifs):
            raise InvalidRequest(
                reason="ssh would be waited for in vain: nothing would lead from this host to its ssh server",
                hint="give -p 2222:22, or a libvirt network or a bridge as --network",
            )

    def _create(
        self, new: NewInstance, image: str, kernel: str | None, initrd: str | None, *, invented: bool
    ) -> Record:
        """:param invented: nobody chose its name, so that it gets another where that was taken meanwhile"""
        try:
            with self._at_hand(image, kernel, initrd) as (found, parts):
                new = new.with_properties(parts)
                while True:
                    try:
                        return self.instances.create(new, found)
                    except NameTaken:
                        if not (invented and self.instances.records.exists(new.instance.name)):
                            raise
                    new = new.renamed(names.invent(self.instances.records.exists))
        except KeyboardInterrupt:
            self._drop(new.instance.uuid)  # it may have come a moment after all was done
            raise

    @contextmanager
    def _at_hand(self, image: str, kernel: str | None, initrd: str | None) -> Iterator[tuple[Image, dict[str, str]]]:
        """The image (one without an id where there is none), and the properties that name the kernel and its ramdisk.

        What is not in the store is brought in, and goes again when the block fails.
        """
        with ExitStack() as stack:
            parts = {
                key: stack.enter_context(self.images.at_hand(ref)).id
                for key, ref in (("kernel_id", kernel), ("ramdisk_id", initrd))
                if ref
            }
            yield stack.enter_context(self.images.at_hand(image)) if image else Image(id=""), parts

    def _drop(self, identity: str) -> None:
        """What cannot be removed now stays recorded, and is removed by the next run."""
        try:
            self.instances.remove(identity)
        except InstanceNotFound:
            return
        except CowshedError as error:
            _log.warning("%s", error)

    def _vifs(
        self,
        networks: Sequence[str],
        publish: Sequence[str],
        identity: str,
        groups: Sequence[str],
        ips: Sequence[str],
    ) -> tuple[Vif, ...]:
        for name in groups:
            self.groups.find(name)
        return request.vifs(identity, networks, publish, groups, ips, default=self.config.network.default)

    def _check_backends(self, names: Sequence[str]) -> None:
        """:raises ConfigError: :raises InvalidRequest: there is no such backend here"""
        for name in names:
            configuration.check_backend(name, self.driver.backends)

    def machines(self) -> list[Machine]:
        """Softly deleted ones are in ``deleted``."""
        return [Machine(self, record) for record in self.instances.all()]

    def machine(self, ref: str) -> Machine:
        """By name, UUID, or the beginning of a UUID. :raises InstanceNotFound:"""
        return Machine(self, self.instances.find(ref))

    # --- host ---------------------------------------------------------------------------------

    def backends(self) -> Mapping[str, Backend]:
        return self.driver.backends

    def facts(self) -> dict[str, Any]:
        """What this host has and has left, with the contract's names, and whether it takes new instances."""
        driver = self.driver
        name = driver.get_available_nodes()[0]
        found = driver.get_available_resource(name)
        kept = ("vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "local_gb", "local_gb_used")
        return {
            "name": name,
            "address": driver.get_host_ip_addr(),
            "uptime": driver.get_host_uptime(),
            "instances": driver.get_num_instances(),
            "disabled": driver.host_disabled(),
            "aggregates": driver.aggregates(),
            **{key: found[key] for key in kept},
        }

    def drain(self, *, to: str = "", end: bool = False) -> str:
        """Begin a maintenance (``on_maintenance``), or end it (``off_maintenance``).

        :param to: the host that running instances are moved to, live, one after the other; "": none may run, unless
            the driver's ``placement`` says where they go
        :raises HostUnsuitable: guests run that cannot be moved; those that were moved before stay there
        """
        if to and not end:
            for record in self.instances.all():
                if record.state == InstanceState.RUNNING:
                    self.migrations.live(record.uuid, to)
        return self.driver.host_maintenance_mode(self.driver.get_available_nodes()[0], not end)

    def usage(self, refs: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What running instances use, by name; bytes, and ``cpu_time`` in ns. Asks libvirt once.

        :param refs: names or UUIDs; empty: all
        :raises InstanceNotFound: :raises InvalidState: one that was named does not run
        """
        named = {self.instances.records.find(ref).uuid for ref in refs}
        records = {record.uuid: record for record in self.instances.records.all()}
        used = self.driver.usage()
        for uuid in named - used.keys():
            raise InvalidState(name=records[uuid].name, state="not running", action="measured")
        wanted = named or used.keys() & records.keys()
        rows = [{"name": records[uuid].name, "uuid": uuid, **used[uuid], "cpu_percent": None} for uuid in wanted]
        return sorted(rows, key=lambda row: str(row["name"]))

    def doctor(self) -> list[Finding]:
        return self.driver.doctor()

    def events(self, ref: str = "", *, limit: int = 100) -> list[Entry]:
        """The latest things that cowshed did to instances, oldest first.

        :param ref: of those with this name or UUID, which may have gone; empty: of all
        :raises InstanceNotFound: nothing is known of such a one
        """
        found = self.instances.records.events(ref, limit=limit)
        if ref and not found:
            self.instances.records.find(ref)
        return found

    def watch(self) -> Iterator[Entry]:
        """What happens to instances from now on, whoever causes it, as libvirt tells; it does not end.

        Everybody who watches through this host hears of all. It takes the driver's event listener.
        """
        import queue

        heard: queue.SimpleQueue[LifecycleEvent] = queue.SimpleQueue()
        self._watching.append(heard)
        try:
            self.driver.register_event_listener(self._heard)
        except BaseException:
            self._watching.remove(heard)
            raise
        return self._watched(heard)

    def _heard(self, event: Any) -> None:
        for one in list(self._watching):
            one.put(event)

    def _watched(self, heard: queue.SimpleQueue[LifecycleEvent]) -> Iterator[Entry]:
        try:
            while True:
                event = heard.get()
                uuid = event.get_instance_uuid()
                named = {record.uuid: record.name for record in self.instances.records.all()}
                if uuid in named:
                    yield Entry(event.timestamp, uuid, named[uuid], event.get_name().lower(), event.detail)
        finally:
            self._watching.remove(heard)


def _without_empty(**words: str) -> dict[str, str]:
    return {name: word for name, word in words.items() if word}
