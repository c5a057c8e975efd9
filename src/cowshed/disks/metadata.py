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
from cowshed.model.vif import Subnet, Vif, VifType

LARGEST = 16 << 20  # bytes of user data
_HOST = re.compile(r"[^a-z0-9-]+")
_DATES = ("latest", "2018-08-27", "2015-10-15")
_TELLING = re.compile(r"openstack/[^/]+/meta_data\.json|meta-data")
_MIME = ("Content-Type:", "MIME-Version:", "From ")

Files = Sequence[tuple[str, bytes | str]]


def build(
    instance: Instance,
    image: Image,
    vifs: Sequence[Vif],
    *,
    injected_files: Files = (),
    admin_password: str | None = None,
    datasource: str = "nocloud",
) -> tuple[Mapping[str, bytes], str]:
    """The files and the volume label.

    :param injected_files: (path in the guest, content)
    :param datasource: ``nocloud`` or ``configdrive``
    :raises InvalidRequest: an unknown data source; user or vendor data that is no text or larger than 16 MiB;
        a relative path; a network address that is none
    """
    for name, text in (("user data", instance.user_data), ("vendor data", instance.vendor_data)):
        _check_text(name, text or "")
    for path, _ in injected_files:
        if not path.startswith("/"):
            raise InvalidRequest(reason=f"{path!r} is not an absolute path in the guest")
    builders: dict[str, tuple[Callable[..., dict[str, bytes]], str]] = {
        "nocloud": (_nocloud, "cidata"),
        "configdrive": (_config_drive, "config-2"),
    }
    if datasource not in builders:
        raise InvalidRequest(reason=f"data source {datasource!r} is unknown", hint=f"known: {', '.join(builders)}")
    builder, label = builders[datasource]
    return builder(instance, vifs, injected_files, admin_password), label


def with_devices(files: Mapping[str, bytes], devices: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """``files`` of either data source, which say of these devices and of no others."""
    return {
        name: _json({**json.loads(content), "devices": list(devices)}) if _TELLING.fullmatch(name) else content
        for name, content in files.items()
    }


def _check_text(name: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(reason=f"the {name} is not text") from None
    if "\0" in text:
        raise InvalidRequest(reason=f"the {name} is not text")
    if size > LARGEST:
        raise InvalidRequest(reason=f"the {name} is larger than 16 MiB")


def hostname(instance: Instance) -> str:
    """A valid host name (RFC 1123) from the instance's; a domain is kept only where one was asked for."""
    asked = instance.hostname if instance.hostname != instance.display_name else ""
    labels = [_label(label) for label in asked.split(".")]
    if all(labels) and len(".".join(labels)) <= 253:
        return ".".join(labels)
    return _label(asked or instance.hostname or instance.display_name or instance.name) or "instance"


def _label(text: str) -> str:
    return _HOST.sub("-", text.lower()).strip("-")[:63].rstrip("-")


def keys(instance: Instance) -> list[str]:
    """The public keys, one a line; comments and empty lines are left out."""
    lines = (line.strip() for line in instance.key_data.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


# --- NoCloud --------------------------------------------------------------------------------------


def _nocloud(instance: Instance, vifs: Sequence[Vif], injected: Files, password: str | None) -> dict[str, bytes]:
    meta: dict[str, Any] = {
        "instance-id": instance.uuid,
        "local-hostname": hostname(instance),
        "hostname": hostname(instance),
    }
    if public := keys(instance):
        meta["public-keys"] = public
    files = {
        "meta-data": _json(meta),
        "user-data": (instance.user_data or "#cloud-config\n{}\n").encode(),
        "network-config": _json(_netplan(vifs)),
    }
    vendor = _vendor_data(instance.vendor_data or "", injected, password)
    if vendor:
        files["vendor-data"] = vendor
    return files


def _vendor_data(given: str, injected: Files, password: str | None) -> bytes:
    """The user's vendor data and what NoCloud has no file for, password and injected files; both, where both are."""
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
    ours = "#cloud-config\n" + _json(config).decode()
    if not config:
        return given.encode()
    return _archive(ours, given) if given else ours.encode()


def _archive(config: str, given: str) -> bytes:
    """Both as one MIME archive. cloud-init tells the kind of a plain part by how it begins."""
    # Not at the top: few need it, and it takes longer to load than a disk to make.
    from email import message_from_string
    from email.mime.multipart import MIMEMultipart
    from email.mime.text import MIMEText

    archive = MIMEMultipart()
    archive.set_boundary("=-cowshed-vendor-data-=")  # the same bytes for the same input
    archive.attach(MIMEText(config, "cloud-config", "utf-8"))
    archive.attach(message_from_string(given) if given.startswith(_MIME) else MIMEText(given, "plain", "utf-8"))
    return archive.as_bytes()


def _netplan(vifs: Sequence[Vif]) -> dict[str, Any]:
    """Network config version 2; interfaces are known by their MAC address."""
    return {"version": 2, "ethernets": {f"id{number}": _ethernet(vif) for number, vif in enumerate(_real(vifs))}}


def _real(vifs: Sequence[Vif]) -> list[Vif]:
    return [vif for vif in vifs if vif.type != VifType.NONE]


def _ethernet(vif: Vif) -> dict[str, Any]:
    entry: dict[str, Any] = {"match": {"macaddress": vif.address}}
    if vif.mtu:
        entry["mtu"] = vif.mtu
    entry.update({f"dhcp{version}": True for version in _dhcp_versions(vif)})
    static = _static(vif)
    if not static:
        return entry
    entry["addresses"] = [f"{subnet.address}/{_net(subnet).prefixlen}" for subnet in static]
    if servers := [server for subnet in static for server in subnet.dns]:
        entry["nameservers"] = {"addresses": servers}
    for one in static:
        # As a route, cloud-init 22.4 (Debian 12) gives ::/0 the prefix 64 where there is no netplan.
        if ":" in one.gateway:
            entry.setdefault("gateway6", one.gateway)
    routes = [
        *({"to": "0.0.0.0/0", "via": one.gateway} for one in static if one.gateway and ":" not in one.gateway),
        *({"to": to, "via": via} for subnet in static for to, via in subnet.routes),
    ]
    if routes:
        entry["routes"] = routes
    return entry


def _static(vif: Vif) -> list[Subnet]:
    return [subnet for subnet in vif.subnets if subnet.address]


def _dhcp_versions(vif: Vif) -> list[int]:
    """IP versions that come by DHCP: those of subnets without an address, and 4 where nothing is said."""
    if not vif.subnets:
        return [4]
    return sorted({_net(subnet).version for subnet in vif.subnets if not subnet.address})


def _net(subnet: Subnet) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if subnet.address:
            ipaddress.ip_address(subnet.address)
        return ipaddress.ip_network(subnet.cidr, strict=False)
    except ValueError as error:
        raise InvalidRequest(reason=f"subnet {subnet.cidr} with address {subnet.address!r}: {error}") from error


# --- config drive ---------------------------------------------------------------------------------


def _config_drive(instance: Instance, vifs: Sequence[Vif], injected: Files, password: str | None) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    meta = _meta_data(instance, injected, password)
    for date in _DATES:
        folder = f"openstack/{date}"
        files[f"{folder}/meta_data.json"] = _json(meta)
        files[f"{folder}/network_data.json"] = _json(network_data(vifs))
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


def _meta_data(instance: Instance, injected: Files, password: str | None) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "uuid": instance.uuid,
        "name": instance.display_name or instance.name,
        "hostname": hostname(instance),
        "launch_index": 0,
        "availability_zone": "cowshed",
        "project_id": instance.project_id or "cowshed",
        "meta": dict(instance.metadata),
        "devices": [],  # see with_devices
    }
    if public := keys(instance):
        named = list(zip(_key_names(instance.key_name or "key", len(public)), public, strict=True))
        meta["public_keys"] = dict(named)
        meta["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in named]
    if password:
        meta["admin_pass"] = password
    if injected:
        meta["files"] = [
            {"path": path, "content_path": f"/content/{number:04}"} for number, (path, _) in enumerate(injected)
        ]
    return meta


def _key_names(name: str, count: int) -> list[str]:
    """One each: keys of one name would replace each other."""
    return [name, *(f"{name}-{number}" for number in range(2, count + 1))]


def network_data(vifs: Sequence[Vif]) -> dict[str, Any]:
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    for number, vif in enumerate(_real(vifs)):
        link = f"link{number}"
        links.append({"id": link, "vif_id": vif.id, "type": "phy", "ethernet_mac_address": vif.address, "mtu": vif.mtu})
        for index, subnet in enumerate(_static(vif)):
            networks.append(_network(f"network{number}-{index}", link, subnet))
            services.extend({"type": "dns", "address": server} for server in subnet.dns)
        for version in _dhcp_versions(vif):
            identity = f"network{number}-dhcp{version}"
            networks.append({"id": identity, "link": link, "network_id": vif.id, "type": f"ipv{version}_dhcp"})
    return {"links": links, "networks": networks, "services": services}


def _network(identity: str, link: str, subnet: Subnet) -> dict[str, Any]:
    net = _net(subnet)
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
    return str(_net(Subnet(cidr)).netmask)


# --- bytes ----------------------------------------------------------------------------------------


def _json(item: Any) -> bytes:
    """Also valid YAML, which has no surrogate pairs: text stays as it is."""
    return (json.dumps(item, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content
