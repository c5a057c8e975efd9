"""What an instance becomes: choices made from image, flavor and host, and what is refused at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import GuestSection
from cowshed.domain import read
from cowshed.domain.assemble import ConsolePlan, KernelBoot, check
from cowshed.errors import CowshedError, HostUnsuitable, InvalidRequest, UnsupportedOperation
from cowshed.model.disk import AttachedDisk, Bus, CacheMode, Device, DiskFormat, DiskSource, DiskType
from cowshed.model.flavor import Flavor
from cowshed.model.host import HostCapabilities
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import PluggedVif, PortForward, Vif, VifType
from tests.golden.domains import BASE, CASES, CONFIG, FIRMWARES, KVM, ROOT, TCG, build, root


def user(*forwards: PortForward, **changes: Any) -> PluggedVif:
    return PluggedVif(Vif("1", "52:54:00:00:00:01", forwards=forwards, **changes), backend="slirp")


# --- processor --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "configured", "mode", "model"),
    [
        (TCG, "", "maximum", None),
        (KVM, "", "host-model", None),
        (KVM, "host-passthrough", "host-passthrough", None),
        (TCG, "qemu64", "custom", "qemu64"),
    ],
)
def test_cpu_mode(host: HostCapabilities, configured: str, mode: str, model: str | None) -> None:
    cpu = build([root()], host=host, guest=GuestSection(cpu_mode=configured)).cpu
    assert cpu is not None
    assert (cpu.mode, cpu.model) == (mode, model)


@pytest.mark.parametrize(
    ("vcpus", "properties", "specs", "expected"),
    [
        (4, {}, {}, (4, 1, 1)),
        (4, {"os_type": "windows"}, {}, (1, 4, 1)),
        (8, {"hw_cpu_cores": "4"}, {}, (2, 4, 1)),
        (8, {"hw_cpu_sockets": "2", "hw_cpu_threads": "2"}, {}, (2, 2, 2)),
        (8, {"hw_cpu_cores": "4"}, {"hw:cpu_cores": "2"}, (4, 2, 1)),
        (8, {"hw_cpu_max_sockets": "2"}, {}, (2, 4, 1)),
        (6, {"hw_cpu_max_sockets": "4"}, {}, (3, 2, 1)),
    ],
)
def test_topology(
    vcpus: int, properties: dict[str, str], specs: dict[str, str], expected: tuple[int, int, int]
) -> None:
    cpu = build([root()], properties, flavor=Flavor(vcpus=vcpus, extra_specs=specs)).cpu
    assert cpu is not None
    assert (cpu.sockets, cpu.cores, cpu.threads) == expected


# --- firmware and kernel ----------------------------------------------------------------------


def test_secure_boot_when_it_can_be() -> None:
    properties = {"hw_firmware_type": "uefi", "os_secure_boot": "optional"}
    for host, expected in ((TCG, True), (replace(TCG, firmwares=FIRMWARES[:1]), None)):
        domain = build([root()], properties, host=host)
        assert domain.os is not None
        assert domain.os.loader_secure is expected
    pc = build([root()], properties | {"hw_machine_type": "pc"})
    assert pc.os is not None
    assert pc.os.loader_secure is None


def test_the_command_line_of_a_kernel() -> None:
    kernel = KernelBoot(Path("/k"))
    for given, properties, expected in (
        (kernel, {}, "root=/dev/vda ro console=tty0 console=ttyS0"),
        (kernel, {"os_command_line": "quiet"}, "quiet"),
        (replace(kernel, cmdline="debug"), {"os_command_line": "quiet"}, "debug"),
    ):
        domain = build([root()], properties, kernel=given)
        assert domain.os is not None
        assert domain.os.cmdline == expected


# --- disks ------------------------------------------------------------------------------------


def test_no_part_of_a_chain_is_left_to_probing() -> None:
    middle = DiskSource(DiskType.FILE, DiskFormat.QCOW2, Path("/m"), backing=BASE)
    top = DiskSource(DiskType.FILE, DiskFormat.QCOW2, Path("/t"), backing=middle)
    domain = build([AttachedDisk(top, "vda"), AttachedDisk(BASE, "vdb")])
    link, formats = domain.disks[0].backing, []
    while link is not None and link.type is not None:
        formats.append(link.format)
        link = link.backing
    assert formats == ["qcow2", "raw"]
    assert link is not None, "the chain does not end with an empty element"
    assert domain.to_xml().count("<backingStore />") == 2


@pytest.mark.parametrize(
    ("cache", "io", "shareable", "expected"),
    [
        (CacheMode.DEFAULT, "native", False, (None, "threads")),
        (CacheMode.NONE, "native", False, (CacheMode.NONE, "native")),
        (CacheMode.DIRECTSYNC, "native", False, (CacheMode.DIRECTSYNC, "native")),
        (CacheMode.WRITEBACK, "io_uring", False, (CacheMode.WRITEBACK, "io_uring")),
        (CacheMode.WRITEBACK, None, True, (CacheMode.NONE, None)),
    ],
)
def test_cache_and_io_fit_each_other(
    cache: CacheMode, io: str | None, shareable: bool, expected: tuple[CacheMode | None, str | None]
) -> None:
    disk = build([AttachedDisk(ROOT, "vda", cache=cache, io=io, shareable=shareable)]).disks[0]
    assert (disk.cache, disk.io) == expected


def test_scsi_disks_are_all_on_one_controller() -> None:
    domain = build([AttachedDisk(ROOT, f"sd{letter}", Bus.SCSI) for letter in "abcdefghijk"])
    assert {disk.address.controller for disk in domain.disks if disk.address} == {0}
    assert [disk.address.unit for disk in domain.disks if disk.address] == list(range(11))
    assert sum(one.type == "scsi" for one in domain.controllers) == 1


def test_a_cdrom_is_read_only_and_discards_nothing() -> None:
    disk = build([AttachedDisk(CONFIG, "sda", Bus.SATA, Device.CDROM, discard="unmap", detect_zeroes="on")]).disks[0]
    assert (disk.readonly, disk.format, disk.discard, disk.detect_zeroes) == (True, "raw", None, None)


def test_ports_for_what_is_attached_later() -> None:
    def ports(*letters: str) -> int:
        domain = build([AttachedDisk(ROOT, f"vd{letter}") for letter in letters])
        return sum(one.model == "pcie-root-port" for one in domain.controllers)

    assert ports("a", "b", "c") == ports("a") + 2
    assert not any(one.type == "pci" for one in build([root()], {"hw_machine_type": "pc"}).controllers)


# --- network ----------------------------------------------------------------------------------


def test_user_network_without_forwards_is_libvirts_own() -> None:
    domain = build([root()], vifs=[user()])
    assert domain.commandline is None
    assert domain.interfaces[0].type == "user"
    assert domain.interfaces[0].backend is None


def test_forwards_go_to_passt_where_it_is() -> None:
    domain = build([root()], vifs=[replace(user(PortForward(2222, 22)), backend="passt")])
    assert domain.commandline is None
    assert [(one.start, one.to) for one in domain.interfaces[0].forwards] == [(2222, 22)]


def test_each_interface_given_to_qemu_has_a_place_of_its_own() -> None:
    vifs = [
        PluggedVif(Vif(str(n), f"52:54:00:00:00:0{n}", forwards=(PortForward(2000 + n, 22),)), "slirp")
        for n in range(4)
    ]
    for machine, bus in (("q35", "pcie.0"), ("pc", "pci.0")):
        domain = build([root()], {"hw_machine_type": machine}, vifs=vifs)
        assert domain.commandline is not None
        devices = [one.value or "" for one in domain.commandline.arguments if "virtio-net-pci" in (one.value or "")]
        places = {word for text in devices for word in text.split(",") if word.startswith("addr=")}
        assert len(places) == len(devices) == 4
        assert all(f"bus={bus}" in text for text in devices)


@pytest.mark.parametrize("address", ["127.0.0.1,id=x", "localhost", "1.2.3"])
def test_an_address_cannot_smuggle_arguments(address: str) -> None:
    with pytest.raises(InvalidRequest, match="not an IP address"):
        build([root()], vifs=[user(PortForward(2222, 22, host_address=address))])


def test_the_card_is_the_interfaces_the_images_or_the_hosts() -> None:
    properties = {"hw_vif_model": "e1000"}
    models = [
        build([root()], given, vifs=[user(model=asked)]).interfaces[0].model
        for asked, given in (("rtl8139", properties), ("", properties), ("", {}))
    ]
    assert models == ["rtl8139", "e1000", "virtio"]


# --- consoles and the rest --------------------------------------------------------------------


def test_no_screen_needs_no_pointer_and_no_usb() -> None:
    domain = build([root()], consoles=ConsolePlan(Path("/log"), vnc=False))
    assert (domain.graphics, domain.inputs, domain.videos[0].model) == ((), (), "none")
    assert [one.model for one in domain.controllers if one.type == "usb"] == ["none"]


def test_the_first_serial_port_is_logged() -> None:
    domain = build([root()], {"hw_serial_port_count": "2"}, consoles=ConsolePlan(Path("/log"), serial_ports=(10000,)))
    assert [(one.type, one.log) for one in domain.serials] == [("tcp", Path("/log")), ("pty", None)]


@pytest.mark.parametrize(("said", "default", "expected"), [("no", True, 0), ("yes", False, 1), (None, True, 1)])
def test_agent(said: str | None, default: bool, expected: int) -> None:
    properties = {} if said is None else {"hw_qemu_guest_agent": said}
    assert len(build([root()], properties, guest=GuestSection(agent=default)).channels) == expected


def test_random_numbers_are_the_operators_to_give() -> None:
    assert build([root()], guest=GuestSection(rng=False)).rngs == ()
    assert build([root()], {"hw_rng_model": "virtio"}, guest=GuestSection(rng=False)).rngs != ()
    assert build([root()], flavor=Flavor(extra_specs={"hw_rng:allowed": "false"})).rngs == ()


def test_windows_is_given_hyperv_only_under_kvm() -> None:
    for host, expected in ((KVM, True), (TCG, None)):
        domain = build([root()], {"os_type": "windows"}, host=host)
        assert domain.features is not None
        assert domain.features.hyperv_relaxed is expected


def test_words_that_only_describe_are_ignored() -> None:
    harmless = {
        "hw_mem_encryption": "false",
        "hw_cpu_policy": "shared",
        "os_distro": "debian",
        "hw_sound_model": "ac97",
    }
    assert build([root()], harmless) != build([root()])  # they are in the metadata
    assert replace(build([root()], harmless), metadata=None) == replace(build([root()]), metadata=None)


def test_queues_for_guests_that_can_use_them() -> None:
    bridge = PluggedVif(Vif("1", "52:54:00:00:00:01", VifType.BRIDGE, "br0"))
    for vcpus, said, vif, expected in (
        (4, "true", bridge, 4),
        (64, "true", bridge, 8),
        (1, "true", bridge, None),
        (4, "false", bridge, None),
        (4, "true", user(), None),
    ):
        domain = build([root()], {"hw_vif_multiqueue_enabled": said}, vifs=[vif], flavor=Flavor(vcpus=vcpus))
        assert domain.interfaces[0].queues == expected


# --- refused ----------------------------------------------------------------------------------

BAD: list[tuple[type[CowshedError], str, dict[str, Any]]] = [
    (InvalidRequest, "needs at least one CPU", {"flavor": Flavor(vcpus=0)}),
    (HostUnsuitable, "more than the 288", {"flavor": Flavor(vcpus=300)}),
    (InvalidRequest, "memory run nothing", {"flavor": Flavor(memory=0)}),
    (InvalidRequest, "do not make 3 CPUs", {"flavor": Flavor(vcpus=3), "properties": {"hw_cpu_cores": "2"}}),
    (InvalidRequest, "hw_cpu_cores: 'x'", {"properties": {"hw_cpu_cores": "x"}}),
    (InvalidRequest, "hw_cpu_cores: 0 is not at least 1", {"properties": {"hw_cpu_cores": "0"}}),
    (
        InvalidRequest,
        "hw_cpu_max_cores allows 2",
        {"flavor": Flavor(vcpus=4), "properties": {"hw_cpu_max_cores": "2", "hw_cpu_sockets": "1"}},
    ),
    (UnsupportedOperation, "CPU mode host-passthrough", {"guest": GuestSection(cpu_mode="host-passthrough")}),
    (UnsupportedOperation, "pc-q35-99", {"properties": {"hw_machine_type": "pc-q35-99"}}),
    (UnsupportedOperation, "microvm", {"properties": {"hw_machine_type": "microvm"}}),
    (
        HostUnsuitable,
        "no UEFI firmware",
        {"properties": {"hw_firmware_type": "uefi"}, "host": replace(TCG, firmwares=())},
    ),
    (
        HostUnsuitable,
        "with secure boot",
        {"properties": {"os_secure_boot": "required"}, "host": replace(TCG, firmwares=FIRMWARES[:1])},
    ),
    (
        InvalidRequest,
        "contradicts hw_firmware_type",
        {"properties": {"os_secure_boot": "required", "hw_firmware_type": "bios"}},
    ),
    (
        InvalidRequest,
        "needs a q35",
        {"properties": {"os_secure_boot": "required", "hw_machine_type": "pc"}},
    ),
    (InvalidRequest, "'coreboot' is not known", {"properties": {"hw_firmware_type": "coreboot"}}),
    (InvalidRequest, "hw_watchdog_action: 'bark'", {"properties": {"hw_watchdog_action": "bark"}}),
    (
        HostUnsuitable,
        "and its keys",
        {
            "properties": {"os_secure_boot": "required"},
            "host": replace(TCG, firmwares=(replace(FIRMWARES[1], enrolled=False),)),
        },
    ),
    (InvalidRequest, "hw_tpm_version", {"properties": {"hw_tpm_version": "3"}}),
    (InvalidRequest, "hw_tpm_model", {"properties": {"hw_tpm_model": "tpm-spapr"}}),
    (
        HostUnsuitable,
        "swtpm is not installed",
        {"properties": {"hw_tpm_model": "tpm-crb"}, "host": replace(TCG, tpm_versions=())},
    ),
    (
        HostUnsuitable,
        "makes 2.0",
        {"properties": {"hw_tpm_version": "1.2"}, "host": replace(TCG, tpm_versions=("2.0",))},
    ),
    (InvalidRequest, "hw_tpm_model", {"properties": {"hw_tpm_version": "1.2", "hw_tpm_model": "tpm-crb"}}),
    (InvalidRequest, "hw_boot_menu: 'perhaps'", {"properties": {"hw_boot_menu": "perhaps"}}),
    (InvalidRequest, "hw_serial_port_count: 9", {"properties": {"hw_serial_port_count": "9"}}),
    (InvalidRequest, "more than the 0", {"properties": {"hw_video_ram": "16"}}),
    (UnsupportedOperation, "video card", {"properties": {"hw_video_model": "gop"}}),
    (UnsupportedOperation, "random number generator", {"properties": {"hw_rng_model": "egd"}}),
    (
        UnsupportedOperation,
        "offer SPICE",
        {"consoles": ConsolePlan(Path("/log"), spice=True), "host": replace(TCG, graphics=("vnc",))},
    ),
    (InvalidRequest, "disk vda is given twice", {"disks": [root(), root()]}),
    (InvalidRequest, "MAC 52:54:00:00:00:01 is given twice", {"vifs": [user(), user()]}),
    (InvalidRequest, "absolute path", {"disks": [AttachedDisk(replace(ROOT, path=Path("disk")), "vda")]}),
    (InvalidRequest, "absolute path", {"disks": [AttachedDisk(replace(ROOT, path=None), "vda")]}),
    (
        InvalidRequest,
        "a protocol and a name",
        {"disks": [AttachedDisk(DiskSource(DiskType.NETWORK, DiskFormat.RAW), "vda")]},
    ),
    (
        InvalidRequest,
        "not both",
        {
            "disks": [
                AttachedDisk(
                    DiskSource(DiskType.NETWORK, DiskFormat.RAW, protocol="rbd", name="p/i", auth_user="me"), "vda"
                )
            ]
        },
    ),
    (UnsupportedOperation, "limit the CPU time", {"flavor": Flavor(extra_specs={"quota:cpu_quota": "1000"})}),
    (
        InvalidRequest,
        "quota:cpu_quota: 5 is not at least 1000",
        {"flavor": Flavor(extra_specs={"quota:cpu_quota": "5"})},
    ),
    (
        UnsupportedOperation,
        "limit an interface",
        {"flavor": Flavor(extra_specs={"quota:vif_inbound_average": "5"}), "vifs": [user(PortForward(2222, 22))]},
    ),
    (
        InvalidRequest,
        "need quota:vif_inbound_average",
        {"flavor": Flavor(extra_specs={"quota:vif_inbound_peak": "5"})},
    ),
    (
        UnsupportedOperation,
        "it has 30 slots",
        {
            "disks": [AttachedDisk(ROOT, f"vd{letter}") for letter in "abcdefghijklmnopqrstuvwxyz"],
            "properties": {"hw_machine_type": "pc"},
            "vifs": [user(PortForward(2222, 22))],
        },
    ),
    (UnsupportedOperation, "encrypt the memory", {"properties": {"hw_mem_encryption": "true"}}),
    (UnsupportedOperation, "processors of its own", {"flavor": Flavor(extra_specs={"hw:cpu_policy": "dedicated"})}),
    (UnsupportedOperation, "huge pages", {"flavor": Flavor(extra_specs={"hw:mem_page_size": "large"})}),
    (UnsupportedOperation, "PCI device", {"flavor": Flavor(extra_specs={"pci_passthrough:alias": "gpu:1"})}),
    (InvalidRequest, "not name its bridge", {"vifs": [user(type=VifType.BRIDGE)]}),
    (InvalidRequest, "99999 is not a port", {"vifs": [user(PortForward(99999, 22))]}),
    (InvalidRequest, "0 is not a port", {"vifs": [user(PortForward(2222, 0))]}),
    (UnsupportedOperation, "IPv4 addresses only", {"vifs": [user(PortForward(2222, 22, host_address="::1"))]}),
    (InvalidRequest, "not a network card", {"vifs": [user(PortForward(2222, 22), model="virtio,id=x")]}),
    (
        UnsupportedOperation,
        "more than 8 interfaces",
        {
            "vifs": [
                PluggedVif(Vif(str(n), f"52:54:00:00:00:{n:02}", forwards=(PortForward(2000 + n, 22),)), "slirp")
                for n in range(9)
            ]
        },
    ),
]


@pytest.mark.parametrize(("kind", "sentence", "arguments"), BAD, ids=[case[1] for case in BAD])
def test_refused(kind: type[CowshedError], sentence: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(kind, match=sentence):
        build(**{"disks": [root()], **arguments})


# --- read back --------------------------------------------------------------------------------


def test_disks_are_read_as_they_were_attached() -> None:
    for name in ("virtio", "scsi"):
        domain = CASES[name]()
        for element, found in zip(domain.disks, read.disks(domain.to_xml()), strict=True):
            assert (found.target, found.bus, found.serial, found.iotune) == (
                element.target, element.bus, element.serial or "", element.iotune,
            )  # fmt: skip
    assert read.disks(CASES["virtio"]().to_xml())[0].source == ROOT


def test_the_instance_is_recovered() -> None:
    domain = CASES["everything"]()
    found = read.recover(domain.to_xml())
    assert found is not None
    assert (found.instance.name, found.instance.uuid, found.instance.backend) == ("web", domain.uuid, "qcow2")
    assert found.instance.display_name == "Web server <1>"
    assert found.instance.metadata == {"role": "front & back"}
    assert (found.instance.flavor.vcpus, found.instance.flavor.root) == (8, 20 << 30)
    assert found.instance.flavor.extra_specs["hw_rng:rate_bytes"] == "4096"
    assert found.image_properties["hw_watchdog_action"] == "reset"


def test_interfaces_are_recovered_with_their_forwards_and_subnets() -> None:
    domain = CASES["networks"]()
    found = read.recover(domain.to_xml())
    assert found is not None
    types = ["user", "network", "bridge", "network", "none", "tap", "macvtap", "macvtap", "ovs"]
    assert [vif.type for vif in found.vifs] == types
    assert found.vifs[6].groups == ("web",)
    assert found.vifs[0].forwards[1].host_address == "::1"
    assert found.vifs[3].subnets[0].routes == (("198.51.100.0/24", "192.0.2.2"),)
    assert [one.target for one in read.interfaces(domain.to_xml())] == [
        *("", "", "tap8f1d", "", "tap0", "", "", ""),
    ]
    assert [one.up for one in read.interfaces(domain.to_xml())] == [True, True, True, False, True, True, True, True]


def test_no_secret_is_in_the_xml() -> None:
    secrets = {
        "admin_pass": "hunter2",
        "user_data": "#cloud-config\npassword: hunter2",
        "key_data": "ssh-ed25519 hunter2",
    }
    assert "hunter2" not in build([root()], **secrets).to_xml()


def test_a_domain_that_is_not_ours_has_nothing_to_recover() -> None:
    assert read.recover("<domain><name>x</name></domain>") is None


# --- checked before anything is made ----------------------------------------------------------


def checked(**changes: Any) -> None:
    check(
        Instance(uuid="4d7d3a4c-6f0e-4f43-9a5e-0a1d6c3b2f10", name="web", flavor=changes.pop("flavor", Flavor())),
        Image(id="x", properties=changes.pop("properties", {})),
        vifs=changes.pop("vifs", ()),
        host=TCG,
        guest=GuestSection(),
        consoles=ConsolePlan(Path("/log"), **changes),
    )


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        ("more than the 288", {"flavor": Flavor(vcpus=300)}),
        ("unknown limit", {"flavor": Flavor(extra_specs={"quota:disk_speed": "1"})}),
        ("hw_scsi_model", {"properties": {"hw_scsi_model": "token ring"}}),
        ("hw_vif_model", {"properties": {"hw_vif_model": "token ring"}, "vifs": [user().vif]}),
        ("IPv4 addresses only", {"vifs": [user(PortForward(2222, 22, host_address="::1")).vif]}),
        ("XML cannot carry", {"properties": {"hw_machine_type": "q35", "os_command_line": "ok"}, "listen": "\0"}),
    ],
)
def test_what_would_fail_later_fails_at_once(sentence: str, changes: dict[str, Any]) -> None:
    with pytest.raises(CowshedError, match=sentence):
        checked(**changes)


def test_a_good_request_passes() -> None:
    checked(vifs=[user(PortForward(2222, 22)).vif])


# --- TPM --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "specs", "expected"),
    [
        ({}, {}, None),
        ({"hw_tpm_version": "2.0"}, {}, ("2.0", "tpm-crb")),
        ({"hw_tpm_version": "1.2"}, {}, ("1.2", "tpm-tis")),
        ({"hw_tpm_model": "tpm-crb"}, {}, ("2.0", "tpm-crb")),
        ({"hw_tpm_model": "tpm-tis"}, {}, ("2.0", "tpm-tis")),
        ({}, {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-tis"}, ("2.0", "tpm-tis")),
        ({"hw_tpm_version": "1.2"}, {"hw:tpm_version": "2.0"}, ("2.0", "tpm-crb")),
    ],
)
def test_tpm(properties: dict[str, str], specs: dict[str, str], expected: tuple[str, str] | None) -> None:
    tpms = build([root()], properties, flavor=Flavor(memory=1 << 30, extra_specs=specs)).tpms
    assert [(one.version, one.model) for one in tpms] == ([expected] if expected else [])
    assert all(one.backend == "emulator" for one in tpms)
