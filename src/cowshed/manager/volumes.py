"""Volumes of a host's instances, as the library and the command show them; one change of an instance at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cowshed.errors import Conflict, NotFound
from cowshed.manager import listing
from cowshed.manager.records import Record
from cowshed.model.volume import AttachedVolume
from cowshed.units import format_size, parse_size

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances

_SHORTEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class Options:
    """How a volume shall be shown to the guest.

    ``device`` is a name such as ``vdb`` ("" = the next free one), ``bus`` "" = as the image says.
    ``limits`` are QEMU's words (``total_iops_sec``, ``read_bytes_sec``, ...). ``key_id`` names the key
    of a LUKS volume. Block sizes in bytes, 0: QEMU's.
    """

    device: str = ""
    bus: str = ""
    type: str = ""
    read_only: bool = False
    shared: bool = False
    discard: bool = False
    cache: str = ""
    logical_block_size: int = 0
    physical_block_size: int = 0
    limits: Mapping[str, str] | None = None
    key_id: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume as it is asked for: where it is, how it is opened, how it shall be shown.

    ``spec`` is ``nbd://host/export``, ``iscsi://...``, ``rbd:pool/image``, ``/dev/...``, or a file; ``format`` of a
    file raw or qcow2; ``user`` and ``password`` for CHAP or Ceph; ``volume_id`` its identity, and the serial number
    in the guest ("": made from where it is).
    """

    spec: str
    format: str = ""
    user: str = ""
    password: str = ""
    volume_id: str = ""
    options: Options = Options()

    def connection_info(self) -> dict[str, Any]:
        """:raises InvalidRequest: :raises NotFound: there is no such file :raises UnsupportedOperation:"""
        from cowshed.volumes import spec

        options = self.options
        info = spec.parse(
            self.spec,
            format=self.format,
            user=self.user,
            password=self.password,
            volume_id=self.volume_id,
            access_mode="ro" if options.read_only else "",
            multiattach=options.shared,
            discard=options.discard,
            cache=options.cache,
            logical_block_size=options.logical_block_size or "",
            physical_block_size=options.physical_block_size or "",
            qos_specs=_checked(options.limits),
            encrypted=bool(options.key_id),
        )
        return {**info, "tag": options.tag} if options.tag else info

    def encryption(self) -> dict[str, str] | None:
        key = self.options.key_id
        return {"provider": "luks", "encryption_key_id": key} if key else None

    def block_device(self, *, root: bool = False) -> dict[str, Any]:
        """An entry of the contract's block device info. :param root: the instance boots from it"""
        options = self.options
        return {
            "mount_device": f"/dev/{options.device.removeprefix('/dev/')}" if options.device else "",
            "connection_info": self.connection_info(),
            "disk_bus": options.bus or None,
            "device_type": options.type or None,
            "boot_index": 0 if root else None,
            "encryption": self.encryption(),
            "tag": options.tag,
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """A volume and its ``size`` in bytes: what the running guest sees, or its file or device has; else what was last seen of
    it, which is not ``current``. None where it was never seen.
    """

    volume: AttachedVolume
    size: int | None
    current: bool = True


class Volumes:
    """Attach, detach, list and extend. ``ref`` is an instance: name, UUID, or the beginning of one.

    ``volume`` is the volume's id (or 8 letters of its beginning), or its device name in the guest.
    """

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    def list(self, ref: str = "") -> list[tuple[Record, Seen]]:
        """Of one instance, or of all: then one whose volumes cannot be told is logged and left out."""
        return listing.of_each(self._instances.records, ref, "volumes", self._seen)

    def _seen(self, record: Record) -> Sequence[Seen]:
        volumes = self._driver.volumes(record.instance)
        sizes = self._driver.volume_sizes(record.instance) if volumes else {}
        return [Seen(one, sizes.get(one.id, one.size or None), one.id in sizes) for one in volumes]

    def attach(
        self,
        ref: str,
        spec: str,
        *,
        format: str = "",
        user: str = "",
        password: str = "",
        volume_id: str = "",
        options: Options = Options(),
    ) -> Seen:
        """Show a volume to an instance, running or not.

        The parameters are those of :class:`NewVolume`.

        :raises NotFound: :raises NameTaken: :raises Conflict: :raises InvalidRequest: :raises UnsupportedOperation:
        """
        wanted = NewVolume(spec, format, user, password, volume_id, options)
        info, key = wanted.connection_info(), wanted.encryption()
        with self._instances.holding(ref, "given a volume") as record:
            self._driver.attach_volume(
                None, info, record.instance, options.device, options.bus or None, options.type or None, key
            )
            found = next(one for one in self._seen(record) if one.volume.id == info["serial"])
            self._note(record, "volume attached", f"{found.volume.id} as {found.volume.target}")
        return found

    def detach(self, ref: str, volume: str, *, timeout: float | None = None) -> AttachedVolume:
        """Take it from the instance, running or not.

        :param timeout: seconds the guest has to let go of it; None: as configured
        :raises DeadlineExceeded: the guest does not let go; it stays attached :raises NotFound:
        :raises Conflict: it boots from it
        """
        with self._instances.holding(ref, "rid of a volume") as record:
            found = self._find(record, volume)
            if found.is_root:
                raise Conflict(
                    reason=f"{record.name} boots from volume {found.id}, which cannot be taken from it",
                    hint=f"cowshed rm {record.name} removes the instance and keeps its volumes",
                )
            self._driver.remove_volume(record.instance, found.id, timeout=timeout)
            self._note(record, "volume detached", f"{found.id}, which was {found.target}")
        return found

    def extend(self, ref: str, volume: str, size: str | int) -> Seen:
        """Show the guest that a volume has grown; a file is grown here, all else its storage has grown already.

        :param size: bytes, or words such as ``20G``
        """
        with self._instances.holding(ref, "given a larger volume") as record:
            found = self._find(record, volume)
            self._driver.extend_volume(None, found.connection_info, record.instance, parse_size(size))
            self._note(record, "volume extended", f"{found.id} to {format_size(parse_size(size))}")
            return next(one for one in self._seen(record) if one.volume.id == found.id)

    def _find(self, record: Record, ref: str) -> AttachedVolume:
        volumes = self._driver.volumes(record.instance)
        name = ref.removeprefix("/dev/")
        exact = [one for one in volumes if ref == one.id or name == one.target]
        close = [one for one in volumes if len(ref) >= _SHORTEST_PREFIX and one.id.startswith(ref)]
        found = exact or close
        if not found:
            known = ", ".join(f"{one.target} ({one.id})" for one in volumes) or "it has none"
            raise NotFound(kind="volume", name=f"{ref} of {record.name}", hint=known)
        if len(found) > 1:
            raise Conflict(reason=f"several volumes are meant by {ref}: {', '.join(one.id for one in found)}")
        return found[0]

    def _note(self, record: Record, event: str, detail: str) -> None:
        self._instances.records.update(record, event, detail)


def _checked(limits: Mapping[str, str] | None) -> dict[str, str]:
    """:raises InvalidRequest: a word that is none"""
    from cowshed.domain import qos

    qos.iotune({f"{qos.PREFIX}{name}": value for name, value in (limits or {}).items()})
    return dict(limits or {})
