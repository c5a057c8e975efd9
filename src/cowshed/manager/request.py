"""A new instance as it is asked for: words become values, and what is wrong in them is refused before anything is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowshed.config import user
from cowshed.errors import InvalidRequest, PermissionDenied
from cowshed.manager.nics import check_model, subnets
from cowshed.manager.volumes import NewVolume
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif, VifType
from cowshed.units import MiB, format_size, parse_size

_LEAST_MEMORY = 16  # MiB
_LARGEST = 16 * MiB  # of a file that becomes part of the config drive, as there

_KEY_TYPES = ("ssh-", "ecdsa-", "sk-")


@dataclass(frozen=True, slots=True)
class NewInstance:
    """All that is asked for but the image, which is brought in later.

    ``properties`` are for this instance, over those of its image; a rebuild keeps them. ``volumes`` are the entries of
    the contract's block device mapping, and ``root_volume`` is the id of the one it boots from ("": from an image).
    """

    instance: Instance
    vifs: tuple[Vif, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    password: str | None = None
    volumes: Sequence[Mapping[str, Any]] = ()
    root_volume: str = ""

    def with_properties(self, more: Mapping[str, str]) -> NewInstance:
        return dataclasses.replace(self, properties={**self.properties, **more})

    def renamed(self, name: str) -> NewInstance:
        """Its host name too, where that is its name."""
        now = self.instance
        hostname = name if now.hostname == now.name else now.hostname
        instance = dataclasses.replace(now, name=name, display_name=name, hostname=hostname)
        return dataclasses.replace(self, instance=instance)


def check_boot(
    image: str,
    root_volume: str | NewVolume | None,
    disk: str | int | None,
    *,
    kernel: str | None,
    initrd: str | None,
    cmdline: str,
) -> None:
    """:raises InvalidRequest: not exactly one thing to boot from, or a part of a kernel's boot without the kernel"""
    if not image and root_volume is None:
        raise InvalidRequest(reason="there is nothing to boot from", hint="name an image, or give --root-volume")
    if image and root_volume is not None:
        raise InvalidRequest(
            reason=f"it would boot from the root volume, and the image {image} would not be used",
            hint="leave one of them out; --property says what an image would",
        )
    if disk and root_volume is not None:
        raise InvalidRequest(
            reason="it boots from a volume, so that there is no root disk to be given a size",
            hint="leave --disk out; a volume is grown on its storage",
        )
    if (initrd or cmdline) and not kernel:
        raise InvalidRequest(reason="an initrd or a command line needs a kernel", hint="give --kernel too")


def flavor(
    cpus: int,
    memory: str | int,
    *,
    root: str | int | None,
    ephemeral: str | int,
    swap: str | int,
    extra_specs: Mapping[str, str] | None,
) -> Flavor:
    """Sizes are bytes, or words such as ``512M``. :raises InvalidRequest:"""
    return Flavor(
        vcpus=checked_cpus(cpus),
        memory=checked_memory(memory),
        root=parse_size(root) if root else 0,
        ephemeral=parse_size(ephemeral),
        swap=parse_size(swap),
        extra_specs=dict(extra_specs or {}),
    )


def checked_cpus(cpus: int) -> int:
    """:raises InvalidRequest: there are none"""
    if cpus < 1:
        raise InvalidRequest(reason=f"{cpus} CPUs run nothing", hint="ask for at least 1")
    return cpus


def checked_memory(memory: str | int) -> int:
    """Bytes, as many whole MiB as there are. :raises InvalidRequest: no system runs in so little"""
    size = parse_size(memory) // MiB
    if size < _LEAST_MEMORY:
        hint = f"at least {_LEAST_MEMORY}M"
        forgotten = str(memory).isdigit()
        raise InvalidRequest(
            reason=f"{memory} of memory runs nothing",
            hint=f"write a unit, for example 512M; {hint}" if forgotten else f"ask for {hint}",
        )
    return size * MiB


def vifs(
    instance: str,
    networks: Sequence[str],
    publish: Sequence[str],
    groups: Sequence[str],
    ips: Sequence[str],
    *,
    default: str,
) -> tuple[Vif, ...]:
    """:param instance: its UUID :param default: the network where none is named :raises InvalidRequest:"""
    from cowshed.network import parse

    found = parse.vifs(networks, publish, instance=instance, default=default)
    for vif in found:
        check_model(vif.model)
    real = [vif for vif in found if vif.type != VifType.NONE]
    if groups and not real:
        raise InvalidRequest(
            reason=f"there is no interface that the group {groups[0]} would filter",
            hint="leave --group out, or give another network than none",
        )
    if len(ips) > len(real):
        raise InvalidRequest(reason="there are more IP addresses than networks", hint="one address for each --network")
    each = [*ips, *[""] * (len(found) - len(ips))]
    return tuple(
        dataclasses.replace(vif, groups=tuple(groups), subnets=subnets(ip)) for vif, ip in zip(found, each, strict=True)
    )


def block_devices(
    root_volume: str | NewVolume | None, volumes: Sequence[str | NewVolume]
) -> tuple[str, list[dict[str, Any]]]:
    """The id of the root volume ("": none), and the entries of the contract's block device mapping, that one first."""
    entries = [_volume(one).block_device() for one in volumes]
    if root_volume is None:
        return "", entries
    first = _volume(root_volume).block_device(root=True)
    return str(first["connection_info"]["serial"]), [first, *entries]


def _volume(volume: str | NewVolume) -> NewVolume:
    return volume if isinstance(volume, NewVolume) else NewVolume(volume)


def public_keys(keys: str | Path | Sequence[str | Path] | None) -> str:
    """A line each, of texts or of paths of files. :raises InvalidRequest: one is none, or a private one"""
    several = [keys] if isinstance(keys, (str, Path)) else keys or ()
    return "\n".join(_public_key(key) for key in several)


def _public_key(key: str | Path) -> str:
    content = str(key)
    if not content.startswith(_KEY_TYPES):
        content = _read(user.path(content), "ssh key")
    if "PRIVATE KEY" in content:
        raise InvalidRequest(reason=f"{key} is a private key", hint="give the public one, which ends in .pub")
    if not content.strip().startswith(_KEY_TYPES):
        raise InvalidRequest(reason=f"{key} is not an ssh public key")
    return content.strip()


def text(source: str | Path | None, what: str) -> str | None:
    """As it is (it has line breaks or begins with #), or from the file of that path.

    :param what: its name in errors
    :raises InvalidRequest: :raises PermissionDenied:
    """
    if source is None:
        return None
    if isinstance(source, str) and ("\n" in source or source.startswith("#")):
        return source
    return _read(user.path(source), what)


def _read(path: Path, what: str) -> str:
    try:
        with path.open() as file:  # may be a pipe or a device: it need not end
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise InvalidRequest(reason=f"the file of the {what}, {path}, does not exist") from None
    except PermissionError:
        raise PermissionDenied(action="read", path=path) from None
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidRequest(reason=f"the file of the {what}, {path}, cannot be read as text: {error}") from error
    if len(content) > _LARGEST:
        raise InvalidRequest(reason=f"the file of the {what}, {path}, is larger than {format_size(_LARGEST)}")
    return content
