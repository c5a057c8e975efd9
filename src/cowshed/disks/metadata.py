"""What cloud-init reads: pure functions from an instance to the files of its config drive.

NoCloud (volume label ``cidata``) and config drive version 2 (``config-2``), as cloud-init's
documentation of the two data sources describes them.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cowshed.errors import InvalidRequest
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif, VifType

LARGEST = 16 << 20  # bytes of user data
_HOST = re.compile(r"[^a-zA-Z0-9-]+")
_DATES = ("latest", "2018-08-27", "2015-10-15")


def build(
    instance: Instance,
    image: Image,
    vifs: Sequence[Vif],
    *,
    injected_files: Sequence[tuple[str, bytes | str]] = (),
    admin_password: str | None = None,
    datasource: str = "nocloud",
) -> tuple[Mapping[str, bytes], str]:
    """The files and the volume label.

    :param datasource: ``nocloud`` or ``configdrive``
    :raises InvalidRequest: an unknown data source, or user data that is too large
    """
    for name, text in (("user data", instance.user_data), ("vendor data", instance.vendor_data)):
        if text and len(text.encode()) > LARGEST:
            raise InvalidRequest(reason=f"{name} is larger than 16 MiB")
    builders: dict[str, tuple[Callable[..., dict[str, bytes]], str]] = {
        "nocloud": (_nocloud, "cidata"),
        "configdrive": (_config_drive, "config-2"),
    }
    if datasource not in builders:
        raise InvalidRequest(reason=f"data source {datasource!r} is unknown", hint=f"known: {', '.join(builders)}")
    builder, label = builders[datasource]
    return builder(instance, vifs, injected_files, admin_password), label


def hostname(instance: Instance) -> str:
    """A valid host name (RFC 1123) from the instance's."""
    name = _HOST.sub("-", instance.hostname or instance.display_name or instance.name).strip("-")
    return name[:63].rstrip("-") or "instance"


def keys(instance: Instance) -> list[str]:
    return [line.strip() for line in instance.key_data.splitlines() if line.strip() and not line.startswith("#")]


# --- NoCloud --------------------------------------------------------------------------------------


def _nocloud(
    instance: Instance,
    vifs: Sequence[Vif],
    injected: Sequence[tuple[str, bytes | str]],
    password: str | None,
) -> dict[str, bytes]:
    meta: dict[str, Any] = {
        "instance-id": instance.uuid,
        "local-hostname": hostname(instance),
        "hostname": hostname(instance),
    }
    if instance.key_data:
        meta["public-keys"] = keys(instance)
    files = {
        "meta-data": _json(meta),
        "user-data": (instance.user_data or "#cloud-config\n{}\n").encode(),
        "network-config": _json(_netplan(vifs)),
    }
    vendor = _vendor_data(instance, injected, password)
    if vendor:
        files["vendor-data"] = vendor
    return files


def _vendor_data(instance: Instance, injected: Sequence[tuple[str, bytes | str]], password: str | None) -> bytes:
    """The user's vendor data, or what NoCloud has no file for: password and injected files."""
    if instance.vendor_data:
        return instance.vendor_data.encode()
    config: dict[str, Any] = {}
    if password:
        config["password"] = password
        config["chpasswd"] = {"expire": False}
        config["ssh_pwauth"] = True
    if injected:
        config["write_files"] = [
            {"path": path, "encoding": "b64", "content": base64.b64encode(_bytes(content)).decode()}
            for path, content in injected
        ]
    return b"#cloud-config\n" + _json(config) if config else b""


def _netplan(vifs: Sequence[Vif]) -> dict[str, Any]:
    """Network config version 2; interfaces are known by their MAC address."""
    return {"version": 2, "ethernets": {f"id{number}": _ethernet(vif) for number, vif in enumerate(_real(vifs))}}


def _real(vifs: Sequence[Vif]) -> list[Vif]:
    return [vif for vif in vifs if vif.type != VifType.NONE]


def _ethernet(vif: Vif) -> dict[str, Any]:
    entry: dict[str, Any] = {"match": {"macaddress": vif.address}}
    if vif.mtu:
        entry["mtu"] = vif.mtu
    static = [subnet for subnet in vif.subnets if subnet.address]
    if not static:
        entry["dhcp4"] = True
        return entry
    entry["addresses"] = [f"{subnet.address}/{_prefix(subnet.cidr)}" for subnet in static]
    entry["nameservers"] = {"addresses": [server for subnet in static for server in subnet.dns]}
    entry["routes"] = [
        *({"to": "::/0" if ":" in one.gateway else "0.0.0.0/0", "via": one.gateway} for one in static if one.gateway),
        *({"to": to, "via": via} for subnet in static for to, via in subnet.routes),
    ]
    return entry


def _prefix(cidr: str) -> int:
    return ipaddress.ip_network(cidr, strict=False).prefixlen


# --- config drive ---------------------------------------------------------------------------------


def _config_drive(
    instance: Instance,
    vifs: Sequence[Vif],
    injected: Sequence[tuple[str, bytes | str]],
    password: str | None,
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    meta = _meta_data(instance, injected, password)
    for date in _DATES:
        folder = f"openstack/{date}"
        files[f"{folder}/meta_data.json"] = _json(meta)
        files[f"{folder}/network_data.json"] = _json(_network_data(vifs))
        files[f"{folder}/vendor_data.json"] = _json(
            {"cloud-init": instance.vendor_data} if instance.vendor_data else {}
        )
        files[f"{folder}/vendor_data2.json"] = _json({})
        if instance.user_data:
            files[f"{folder}/user_data"] = instance.user_data.encode()
    for number, (_, content) in enumerate(injected):
        files[f"openstack/content/{number:04}"] = _bytes(content)
    files["ec2/latest/meta-data.json"] = _json(
        {"instance-id": instance.uuid, "hostname": hostname(instance), "local-hostname": hostname(instance)}
    )
    if instance.user_data:
        files["ec2/latest/user-data"] = instance.user_data.encode()
    return files


def _meta_data(instance: Instance, injected: Sequence[tuple[str, bytes | str]], password: str | None) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "uuid": instance.uuid,
        "name": instance.display_name or instance.name,
        "hostname": hostname(instance),
        "launch_index": 0,
        "availability_zone": "cowshed",
        "project_id": instance.project_id or "cowshed",
        "meta": dict(instance.metadata),
    }
    if instance.key_data:
        named = [(instance.key_name or f"key{number}", key) for number, key in enumerate(keys(instance))]
        meta["public_keys"] = dict(named)
        meta["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in named]
    if password:
        meta["admin_pass"] = password
    if injected:
        meta["files"] = [
            {"path": path, "content_path": f"/content/{number:04}"} for number, (path, _) in enumerate(injected)
        ]
    return meta


def _network_data(vifs: Sequence[Vif]) -> dict[str, Any]:
    links, networks, services = [], [], []
    for number, vif in enumerate(_real(vifs)):
        link = f"link{number}"
        links.append({"id": link, "vif_id": vif.id, "type": "phy", "ethernet_mac_address": vif.address, "mtu": vif.mtu})
        static = [subnet for subnet in vif.subnets if subnet.address]
        for index, subnet in enumerate(static):
            networks.append(_network(f"network{number}-{index}", link, subnet))
            services.extend({"type": "dns", "address": server} for server in subnet.dns)
        if not static:
            networks.append({"id": f"network{number}", "link": link, "network_id": vif.id, "type": "ipv4_dhcp"})
    return {"links": links, "networks": networks, "services": services}


def _network(identity: str, link: str, subnet: Any) -> dict[str, Any]:
    net = ipaddress.ip_network(subnet.cidr, strict=False)
    routes = [{"network": to.partition("/")[0], "netmask": _mask(to), "gateway": via} for to, via in subnet.routes]
    if subnet.gateway:
        everything = "::" if net.version == 6 else "0.0.0.0"  # noqa: S104 - a route, not a listener
        routes.insert(0, {"network": everything, "netmask": everything, "gateway": subnet.gateway})
    return {
        "id": identity,
        "link": link,
        "network_id": identity,
        "type": f"ipv{net.version}",
        "ip_address": subnet.address,
        "netmask": str(net.netmask),
        "routes": routes,
    }


def _mask(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr, strict=False).netmask)


def _json(item: Any) -> bytes:
    return (json.dumps(item, indent=1) + "\n").encode()


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content
