"""What cloud-init finds on the config drive: both data sources, every field, and what is refused."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from email import message_from_bytes
from typing import Any

import pytest
import yaml

from cowshed.disks import metadata
from cowshed.errors import InvalidRequest
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import Subnet, Vif, VifType

UUID = "5b1ff0ac-6a2c-4d5c-9d5a-0f4f2d1d5f11"
KEYS = "ssh-ed25519 AAAA one\n# a comment\n\nssh-rsa BBBB two\r\n"
DHCP = Vif("v0", "52:54:00:00:00:01")
STATIC = Vif(
    "v1",
    "52:54:00:00:00:02",
    mtu=9000,
    subnets=(
        Subnet("10.1.0.0/24", "10.1.0.5", "10.1.0.1", ("1.1.1.1",), (("192.168.0.0/16", "10.1.0.9"),)),
        Subnet("fd00::/64", "fd00::5", "fd00::1", ("fd00::53",)),
    ),
)


def instance(**fields: Any) -> Instance:
    given: dict[str, Any] = {"uuid": UUID, "name": "web", "display_name": "web", "hostname": "web"}
    return Instance(flavor=Flavor(), **{**given, **fields})


def build(made: Instance | None = None, vifs: tuple[Vif, ...] = (DHCP,), **options: Any) -> dict[str, bytes]:
    files, _ = metadata.build(made or instance(), Image(id="i"), vifs, **options)
    return dict(files)


def drive(made: Instance | None = None, vifs: tuple[Vif, ...] = (DHCP,), **options: Any) -> dict[str, bytes]:
    return build(made, vifs, datasource="configdrive", **options)


# --- NoCloud --------------------------------------------------------------------------------------


def test_nocloud_has_its_label_and_the_files_it_must_have() -> None:
    files, label = metadata.build(instance(), Image(id="i"), [DHCP])
    assert label == "cidata"
    assert set(files) == {"meta-data", "user-data", "network-config"}


def test_the_instance_is_known_by_its_uuid() -> None:
    meta = yaml.safe_load(build(instance(key_data=KEYS))["meta-data"])
    assert meta == {
        "instance-id": UUID,
        "local-hostname": "web",
        "hostname": "web",
        "public-keys": ["ssh-ed25519 AAAA one", "ssh-rsa BBBB two"],
    }


def test_without_keys_there_is_no_word_of_keys() -> None:
    assert "public-keys" not in yaml.safe_load(build(instance(key_data="# nothing\n"))["meta-data"])


def test_user_data_is_passed_on_byte_for_byte() -> None:
    text = "#!/bin/sh\r\necho 'hä 🐄'\n"
    assert build(instance(user_data=text))["user-data"] == text.encode()


def test_without_user_data_nothing_is_configured() -> None:
    data = build()["user-data"]
    assert data.startswith(b"#cloud-config\n")
    assert yaml.safe_load(data) == {}


def test_vendor_data_is_passed_on() -> None:
    assert build(instance(vendor_data="#!/bin/sh\n"))["vendor-data"] == b"#!/bin/sh\n"


def test_password_and_files_become_vendor_data() -> None:
    files = build(admin_password="gehei🐄m", injected_files=[("/etc/a", "text"), ("/etc/b", b"\0\xff")])
    config = yaml.safe_load(files["vendor-data"])
    assert config["password"] == "gehei🐄m"
    assert config["chpasswd"] == {"expire": False}
    written = {one["path"]: base64.b64decode(one["content"]) for one in config["write_files"]}
    assert written == {"/etc/a": b"text", "/etc/b": b"\0\xff"}


@pytest.mark.parametrize(
    ("given", "kind", "content"),
    [
        ("#!/bin/sh\necho hä\n", "text/plain", "#!/bin/sh\necho hä\n"),
        (
            (
                'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\n'
                "Content-Type: text/x-shellscript\n\n#!/bin/sh\n--b--\n"
            ),
            "text/x-shellscript",
            "#!/bin/sh",
        ),
    ],
)
def test_neither_password_nor_vendor_data_is_lost_when_both_are_given(given: str, kind: str, content: str) -> None:
    data = build(instance(vendor_data=given), admin_password="secret")["vendor-data"]
    parts = [part for part in message_from_bytes(data).walk() if not part.is_multipart()]
    assert [part.get_content_type() for part in parts] == ["text/cloud-config", kind]
    assert b'"password": "secret"' in parts[0].get_payload(decode=True)
    assert parts[1].get_payload(decode=True).decode() == content
    assert data == build(instance(vendor_data=given), admin_password="secret")["vendor-data"]


# --- the network of NoCloud -----------------------------------------------------------------------


def network(*vifs: Vif) -> dict[str, Any]:
    found = yaml.safe_load(build(vifs=vifs)["network-config"])
    assert found["version"] == 2
    ethernets: dict[str, Any] = found["ethernets"]
    return ethernets


def test_an_interface_uses_dhcp_and_is_known_by_its_address() -> None:
    assert network(DHCP) == {"id0": {"match": {"macaddress": DHCP.address}, "dhcp4": True}}


def test_static_addresses_are_told() -> None:
    assert network(STATIC)["id0"] == {
        "match": {"macaddress": STATIC.address},
        "mtu": 9000,
        "addresses": ["10.1.0.5/24", "fd00::5/64"],
        "nameservers": {"addresses": ["1.1.1.1", "fd00::53"]},
        "gateway6": "fd00::1",
        "routes": [{"to": "0.0.0.0/0", "via": "10.1.0.1"}, {"to": "192.168.0.0/16", "via": "10.1.0.9"}],
    }


def test_a_subnet_without_an_address_is_dhcp_of_its_version() -> None:
    both = Vif("v", "52:54:00:00:00:03", subnets=(Subnet("10.0.0.0/8", "10.0.0.7"), Subnet("fd00::/64")))
    assert network(both)["id0"] == {
        "match": {"macaddress": both.address},
        "dhcp6": True,
        "addresses": ["10.0.0.7/8"],
    }


def test_no_interface_is_no_interface() -> None:
    assert network(Vif("v", "52:54:00:00:00:04", VifType.NONE), DHCP).keys() == {"id0"}
    assert network() == {}


# --- config drive ---------------------------------------------------------------------------------


def test_a_config_drive_has_every_file_in_every_folder() -> None:
    files, label = metadata.build(instance(user_data="#!/bin/sh\n"), Image(id="i"), [DHCP], datasource="configdrive")
    assert label == "config-2"
    names = {"meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json"}
    folders = {name.rsplit("/", 1)[0] for name in files if name.startswith("openstack/")}
    assert "openstack/latest" in folders
    for folder in folders:
        assert re.fullmatch(r"openstack/(latest|\d{4}-\d\d-\d\d)", folder)
        assert {name.rsplit("/", 1)[1] for name in files if name.startswith(folder + "/")} == names
    assert {"ec2/latest/meta-data.json", "ec2/latest/user-data"} <= set(files)


def test_the_metadata_of_a_config_drive() -> None:
    made = instance(key_data=KEYS, key_name="laptop", metadata={"role": "front"}, project_id="p")
    meta = json.loads(drive(made, admin_password="secret")["openstack/latest/meta_data.json"])
    assert (meta["uuid"], meta["name"], meta["hostname"], meta["project_id"]) == (UUID, "web", "web", "p")
    assert meta["meta"] == {"role": "front"}
    assert meta["admin_pass"] == "secret"


def test_devices_are_told_where_each_data_source_has_a_place_for_them() -> None:
    devices = [{"type": "nic", "bus": "pci", "address": "0000:01:00.0", "mac": DHCP.address, "tags": ["front"]}]
    before = drive(instance(user_data="#!/bin/sh\n"))
    after = metadata.with_devices(before, devices)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in before if name.endswith("meta_data.json")}
    meta = json.loads(after["openstack/latest/meta_data.json"])
    assert meta == {**json.loads(before["openstack/latest/meta_data.json"]), "devices": devices}
    assert json.loads(before["openstack/latest/meta_data.json"])["devices"] == []
    assert json.loads(metadata.with_devices(build(), devices)["meta-data"])["devices"] == devices
    assert metadata.with_devices(after, []) == before


def test_no_key_replaces_another() -> None:
    meta = json.loads(drive(instance(key_data=KEYS, key_name="laptop"))["openstack/latest/meta_data.json"])
    assert meta["public_keys"] == {"laptop": "ssh-ed25519 AAAA one", "laptop-2": "ssh-rsa BBBB two"}
    assert [key["data"] for key in meta["keys"]] == list(meta["public_keys"].values())


def test_injected_files_lie_where_the_metadata_says() -> None:
    files = drive(injected_files=[("/etc/a", "text"), ("/etc/b", b"\0\xff")])
    entries = json.loads(files["openstack/latest/meta_data.json"])["files"]
    assert {one["path"]: files["openstack" + one["content_path"]] for one in entries} == {
        "/etc/a": b"text",
        "/etc/b": b"\0\xff",
    }


def test_vendor_data_of_a_config_drive_is_cloud_inits() -> None:
    files = drive(instance(vendor_data="#!/bin/sh\n"))
    assert json.loads(files["openstack/latest/vendor_data.json"]) == {"cloud-init": "#!/bin/sh\n"}
    assert json.loads(drive()["openstack/latest/vendor_data.json"]) == {}


def test_the_network_of_a_config_drive() -> None:
    data = json.loads(drive(vifs=(DHCP, STATIC))["openstack/latest/network_data.json"])
    assert [(link["type"], link["ethernet_mac_address"], link["mtu"]) for link in data["links"]] == [
        ("phy", DHCP.address, None),
        ("phy", STATIC.address, 9000),
    ]
    assert [network["type"] for network in data["networks"]] == ["ipv4_dhcp", "ipv4", "ipv6"]
    assert {network["link"] for network in data["networks"]} <= {link["id"] for link in data["links"]}
    assert data["networks"][1]["netmask"] == "255.255.255.0"
    assert data["networks"][1]["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
        {"network": "192.168.0.0", "netmask": "255.255.0.0", "gateway": "10.1.0.9"},
    ]
    assert data["networks"][2]["netmask"] == "ffff:ffff:ffff:ffff::"
    assert data["services"] == [{"type": "dns", "address": "1.1.1.1"}, {"type": "dns", "address": "fd00::53"}]


# --- host names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("display", "asked", "expected"),
    [
        ("web", "web", "web"),
        ("Web Server #1", "", "web-server-1"),
        ("web.example.org", "", "web-example-org"),
        ("web", "www.example.org", "www.example.org"),
        ("web", "-bad_.example..org", "bad-example-org"),
        ("äöü", "", "instance"),
        ("-" * 5, "", "instance"),
        ("x" * 62 + "-y", "", "x" * 62),
        ("web", ".".join(["a" * 60] * 5), "a" * 60 + "-aa"),
    ],
)
def test_host_names_are_valid(display: str, asked: str, expected: str) -> None:
    found = metadata.hostname(instance(display_name=display, hostname=asked))
    assert found == expected
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in found.split("."))
    assert len(found) <= 253


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["user_data", "vendor_data"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (metadata.LARGEST + 1), "larger than 16 MiB"),
        ("ä" * (metadata.LARGEST // 2 + 1), "larger than 16 MiB"),
        ("a\0b", "not text"),
        ("\udcff", "not text"),
    ],
    ids=["large", "large in bytes", "NUL", "not UTF-8"],
)
def test_user_data_that_cannot_be_is_refused(field: str, text: str, reason: str) -> None:
    for source in ("nocloud", "configdrive"):
        with pytest.raises(InvalidRequest, match=reason) as caught:
            build(instance(**{field: text}), datasource=source)
        assert field.replace("_", " ") in str(caught.value)


def test_the_largest_user_data_is_accepted() -> None:
    assert len(build(instance(user_data="x" * metadata.LARGEST))["user-data"]) == metadata.LARGEST


def test_an_unknown_data_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest) as caught:
        build(datasource="ec2")
    assert "nocloud" in str(caught.value.hint)


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="absolute"):
        build(injected_files=[("etc/a", "x")])


@pytest.mark.parametrize("subnet", [Subnet("10.0.0.0/33", "10.0.0.1"), Subnet("10.0.0.0/8", "ten"), Subnet("here")])
@pytest.mark.parametrize("source", ["nocloud", "configdrive"])
def test_a_network_address_that_is_none_is_refused(subnet: Subnet, source: str) -> None:
    with pytest.raises(InvalidRequest):
        build(vifs=(replace(DHCP, subnets=(subnet,)),), datasource=source)
