"""What the domain knows of the instance it was made for: enough to make its record again.

No secrets: user data, passwords and keys are not here, because every user of libvirt can read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from cowshed.domain import namespace
from cowshed.domain.element import Element, size, value
from cowshed.errors import DataCorrupt, InvalidRequest
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import PluggedVif, PortForward, Protocol, Subnet, Vif, VifType


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata(Element):
    """``network``, ``extra_specs`` and ``properties`` are JSON."""

    NAMESPACE: ClassVar[str] = namespace.INSTANCE
    TAG: ClassVar[str] = "instance"

    name: str | None = value("name")
    display_name: str | None = value("display_name")
    hostname: str | None = value("hostname")
    project: str | None = value("owner/@project")
    user: str | None = value("owner/@user")
    backend: str | None = value("backend")
    encrypt: bool | None = value("encrypt")
    os_type: str | None = value("os_type")
    image: str | None = value("image/@id")
    image_name: str | None = value("image/@name")
    properties: str | None = value("image")
    flavor: str | None = value("flavor/@name")
    vcpus: int | None = value("flavor/vcpus")
    memory: int | None = size("flavor/memory")
    root: int | None = size("flavor/root")
    ephemeral: int | None = size("flavor/ephemeral")
    swap: int | None = size("flavor/swap")
    extra_specs: str | None = value("flavor/extra_specs")
    tags: str | None = value("metadata")
    network: str | None = value("network")

    def instance(self, uuid: str) -> Instance:
        """The instance as far as it is written here.

        :raises DataCorrupt: the JSON in it is damaged
        """
        flavor = Flavor(
            name=self.flavor or "custom",
            vcpus=self.vcpus or 1,
            memory=self.memory or 0,
            root=self.root or 0,
            ephemeral=self.ephemeral or 0,
            swap=self.swap or 0,
            extra_specs=_mapping(self.extra_specs),
        )
        return Instance(
            uuid=uuid,
            name=self.name or "",
            flavor=flavor,
            image_ref=self.image or "",
            display_name=self.display_name or "",
            hostname=self.hostname or "",
            project_id=self.project or "",
            user_id=self.user or "",
            backend=self.backend or "",
            encrypt=bool(self.encrypt),
            os_type=self.os_type or "linux",
            metadata=_mapping(self.tags),
        )

    def image_properties(self) -> dict[str, str]:
        """:raises DataCorrupt:"""
        return _mapping(self.properties)

    def vifs(self) -> tuple[Vif, ...]:
        """:raises DataCorrupt:"""
        found = _json(self.network, list)
        try:
            return tuple(_vif(one) for one in found)
        except (KeyError, TypeError, ValueError) as error:
            raise DataCorrupt(path="the network in a domain's metadata", reason=str(error)) from error


def metadata(instance: Instance, image: Image, vifs: Sequence[PluggedVif]) -> Metadata:
    flavor = instance.flavor
    return Metadata(
        name=instance.name,
        display_name=instance.display_name or None,
        hostname=instance.hostname or None,
        project=instance.project_id or None,
        user=instance.user_id or None,
        backend=instance.backend or None,
        encrypt=instance.encrypt or None,
        os_type=instance.os_type,
        image=instance.image_ref or image.id,
        image_name=image.name or None,
        properties=_text(dict(image.properties)),
        flavor=flavor.name,
        vcpus=flavor.vcpus,
        memory=flavor.memory,
        root=flavor.root,
        ephemeral=flavor.ephemeral,
        swap=flavor.swap,
        extra_specs=_text(dict(flavor.extra_specs)),
        tags=_text(dict(instance.metadata)),
        network=_network([one.vif for one in vifs]),
    )


def with_vifs(found: Metadata, vifs: Sequence[Vif]) -> Metadata:
    """The element with other interfaces."""
    return replace(found, network=_network(vifs))


def changed(found: Metadata, diff: Mapping[str, Sequence[str]]) -> tuple[Metadata, dict[str, str]]:
    """The element with the user's metadata changed, and that metadata as it is then.

    :param diff: key to ``["+", value]`` or ``["-"]``
    :raises InvalidRequest: :raises DataCorrupt: the JSON in it is damaged
    """
    tags = _mapping(found.tags)
    for key, change in diff.items():
        match list(change):
            case ["+", item]:
                tags[key] = str(item)
            case ["-"]:
                tags.pop(key, None)
            case _:
                raise InvalidRequest(reason=f"{change!r} is no change of {key}", hint='["+", value] or ["-"]')
    return replace(found, tags=_text(tags)), tags


def _text(item: Any) -> str | None:
    return json.dumps(item, sort_keys=True) if item else None


def _network(vifs: Sequence[Vif]) -> str | None:
    return _text([_plain(one) for one in vifs])


def _plain(vif: Vif) -> dict[str, Any]:
    record = asdict(vif) | {"details": dict(vif.details)}
    del record["active"]  # of the moment in which it is started, not of the domain
    return record


def _vif(record: dict[str, Any]) -> Vif:
    return Vif(
        **record
        | {
            "type": VifType(record["type"]),
            "forwards": tuple(
                PortForward(**one | {"protocol": Protocol(one["protocol"])}) for one in record["forwards"]
            ),
            "subnets": tuple(
                Subnet(**one | {"dns": tuple(one["dns"]), "routes": tuple((net, via) for net, via in one["routes"])})
                for one in record["subnets"]
            ),
            "groups": tuple(record.get("groups", ())),
        }
    )


def _mapping(text: str | None) -> dict[str, str]:
    return {str(name): str(item) for name, item in _json(text, dict).items()}


def _json(text: str | None, kind: type[Any]) -> Any:
    if text is None:
        return kind()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataCorrupt(path="a domain's metadata", reason=str(error)) from error
    if not isinstance(found, kind):
        raise DataCorrupt(path="a domain's metadata", reason=f"{kind.__name__} expected, not {text!r}")
    return found
