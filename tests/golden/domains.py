"""The domains whose XML is kept in ``domain/``: one case for each thing that can differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from cowshed.config import GuestSection
from cowshed.domain.assemble import ConsolePlan, KernelBoot, assemble
from cowshed.domain.domain import Domain
from cowshed.model.disk import (
    AttachedDisk,
    Bus,
    CacheMode,
    Device,
    DiskFormat,
    DiskSource,
    DiskType,
    Encryption,
    EncryptionFormat,
    IoTune,
    NetworkHost,
)
from cowshed.model.flavor import Flavor
from cowshed.model.host import Firmware, HostCapabilities, VirtType
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.share import OpenedShare, Share, ShareProtocol
from cowshed.model.vif import PluggedVif, PortForward, Protocol, Subnet, Vif, VifType
from cowshed.units import GiB, MiB

FILES: Final = Path(__file__).parent / "domain"
UUID: Final = "4d7d3a4c-6f0e-4f43-9a5e-0a1d6c3b2f10"
HERE: Final = Path("/var/lib/cowshed/instances") / UUID
CACHE: Final = Path("/var/lib/cowshed/cache")
OVMF: Final = Path("/usr/share/OVMF")

FIRMWARES: Final = (
    Firmware(OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"),
    Firmware(OVMF / "OVMF_CODE_4M.ms.fd", OVMF / "OVMF_VARS_4M.ms.fd", secure_boot=True, enrolled=True),
)
TCG: Final = HostCapabilities(
    libvirt=(9, 0, 0),
    qemu=(7, 2, 0),
    machines={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "pc-q35-7.2": "pc-q35-7.2"},
    firmwares=FIRMWARES,
    cpu_modes=("maximum", "host-model", "custom"),
    graphics=("vnc", "spice"),
    video_models=("vga", "cirrus", "qxl", "virtio", "none", "bochs"),
    rng_models=("virtio", "virtio-transitional"),
    tpm_versions=("1.2", "2.0"),
    session=True,
    max_vcpus=288,
)
KVM: Final = HostCapabilities(
    virt_type=VirtType.KVM,
    libvirt=(9, 2, 0),
    qemu=(8, 0, 0),
    machines=TCG.machines,
    firmwares=FIRMWARES,
    cpu_modes=("host-passthrough", "maximum", "host-model", "custom"),
    graphics=("vnc", "spice"),
    video_models=TCG.video_models,
    rng_models=TCG.rng_models,
    tpm_versions=TCG.tpm_versions,
    passt=True,
    max_vcpus=288,
)

BASE: Final = DiskSource(DiskType.FILE, DiskFormat.RAW, CACHE / "6b2f1c")
ROOT: Final = DiskSource(DiskType.FILE, DiskFormat.QCOW2, HERE / "disk", backing=BASE)
CONFIG: Final = DiskSource(DiskType.FILE, DiskFormat.ISO, HERE / "disk.config")
VIF: Final = Vif("8f1d", "52:54:00:6f:0e:01")


def build(
    disks: list[AttachedDisk],
    properties: dict[str, str] | None = None,
    *,
    vifs: list[PluggedVif] | None = None,
    host: HostCapabilities = TCG,
    guest: GuestSection | None = None,
    flavor: Flavor | None = None,
    kernel: KernelBoot | None = None,
    consoles: ConsolePlan | None = None,
    shares: Sequence[OpenedShare] = (),
    **instance: Any,
) -> Domain:
    return assemble(
        Instance(uuid=UUID, name="web", flavor=flavor or Flavor(memory=1 * GiB), **instance),
        Image(id="0c7e8a52", name="debian", properties=properties or {}),
        disks=disks,
        vifs=[PluggedVif(VIF, backend="slirp")] if vifs is None else vifs,
        host=host,
        guest=guest or GuestSection(),
        consoles=consoles or ConsolePlan(HERE / "console.log"),
        directory=HERE,
        kernel=kernel,
        shares=shares,
    )


def root(target: str = "vda", bus: Bus = Bus.VIRTIO) -> AttachedDisk:
    return AttachedDisk(ROOT, target, bus, boot_order=2, alias="ua-disk", discard="unmap")


def every_limit() -> IoTune:
    """All of libvirt's limits that may stand together: reading and writing apart."""
    values: dict[str, Any] = {
        one.name: 1000 + number for number, one in enumerate(fields(IoTune)) if not one.name.startswith("total")
    }
    return IoTune(**values | {"group_name": "web"})


def virtio() -> Domain:
    forwards = (PortForward(2222, 22), PortForward(5353, 53, Protocol.UDP, "0.0.0.0"))
    vif = Vif("8f1d", "52:54:00:6f:0e:01", forwards=forwards)
    config = AttachedDisk(CONFIG, "vdb", readonly=True)
    return build([root(), config], vifs=[PluggedVif(vif, backend="slirp")])


def ide() -> Domain:
    cdrom = AttachedDisk(CONFIG, "hdb", Bus.IDE, Device.CDROM)
    vif = Vif("8f1d", "52:54:00:6f:0e:01", forwards=(PortForward(8080, 80),))
    return build(
        [root("hda", Bus.IDE), cdrom],
        {"hw_machine_type": "pc", "hw_disk_bus": "ide", "hw_vif_model": "e1000"},
        vifs=[PluggedVif(vif, backend="slirp"), PluggedVif(Vif("9a", "52:54:00:6f:0e:02"), backend="slirp")],
    )


def sata_uefi() -> Domain:
    iso = AttachedDisk(
        DiskSource(DiskType.FILE, DiskFormat.ISO, HERE / "disk.cdrom"), "sdb", Bus.SATA, Device.CDROM, boot_order=1
    )
    return build([root("sda", Bus.SATA), iso], {"hw_firmware_type": "uefi", "hw_boot_menu": "true"})


def secure_boot() -> Domain:
    return build([root()], {"os_secure_boot": "required", "hw_tpm_version": "2.0"})


def scsi() -> Domain:
    block = AttachedDisk(
        DiskSource(DiskType.BLOCK, DiskFormat.RAW, Path("/dev/vg/web")),
        "sdb",
        Bus.SCSI,
        cache=CacheMode.NONE,
        io="native",
        detect_zeroes="unmap",
        serial="4d7d3a4c-6f0e",
        iotune=every_limit(),
    )
    shared = AttachedDisk(
        DiskSource(
            DiskType.NETWORK,
            DiskFormat.RAW,
            protocol="rbd",
            name="vms/web_disk",
            hosts=(NetworkHost("192.0.2.1", 6789), NetworkHost("[2001:db8::1]", 6789)),
            auth_user="cowshed",
            secret_uuid="0d1c9f0e-6a3b-4c57-8f57-2f6f5f0c1d2e",
        ),
        "sdc",
        Bus.SCSI,
        shareable=True,
        unit=40,
    )
    return build([root("sda", Bus.SCSI), block, shared], {"hw_disk_bus": "scsi"})


def volumes() -> Domain:
    """Storage that QEMU reaches by itself."""
    iscsi = AttachedDisk(
        DiskSource(
            DiskType.NETWORK,
            DiskFormat.RAW,
            protocol="iscsi",
            name="iqn.2025-01.com.example:store/1",
            hosts=(NetworkHost("192.0.2.2", 3260),),
            auth_user="chap",
            secret_uuid="0d1c9f0e-6a3b-4c57-8f57-2f6f5f0c1d2e",
            initiator="iqn.2025-01.org.cowshed:here",
        ),
        "vdb",
        serial="1f8d3f5a-9f4c-4f7e-8c42-1a9a0a3c7b11",
        alias="ua-1f8d3f5a-9f4c-4f7e-8c42-1a9a0a3c7b11",
        logical_block_size=512,
        physical_block_size=4096,
    )
    hosts = (NetworkHost(socket=Path("/run/store/nbd.sock")),)
    nbd = AttachedDisk(DiskSource(DiskType.NETWORK, DiskFormat.RAW, protocol="nbd", name="disk", hosts=hosts), "vdc")
    return build([root(), iscsi, nbd])


def shares() -> Domain:
    """A directory that libvirt serves, and one that somebody serves at a socket."""
    data = Share("3f0c", "data", "/srv/data")
    home = Share("9b1e", "home", "nfs.example.org:/home", ShareProtocol.NFS, read_only=True)
    return build(
        [root()],
        shares=[
            OpenedShare(data, directory=Path("/srv/data")),
            OpenedShare(home, socket=Path("/run/user/1000/cowshed/share-0a1d6c3b2f104d7d")),
        ],
    )


def encrypted() -> Domain:
    """What QEMU decrypts: an overlay of a plain base, a container in a file, one in a cluster."""
    keys = [f"0d1c9f0e-6a3b-4c57-8f57-2f6f5f0c1d{number:02x}" for number in range(4)]
    overlay = replace(root().source, encryption=Encryption(EncryptionFormat.LUKS, keys[0]))
    swap = DiskSource(
        DiskType.FILE, DiskFormat.RAW, HERE / "disk.swap", encryption=Encryption(EncryptionFormat.LUKS, keys[1])
    )
    far = DiskSource(
        DiskType.NETWORK,
        DiskFormat.RAW,
        protocol="rbd",
        name="vms/web_disk.local",
        hosts=(NetworkHost("192.0.2.1", 6789),),
        auth_user="cowshed",
        secret_uuid=keys[3],
        encryption=Encryption(EncryptionFormat.LUKS, keys[2]),
    )
    return build([replace(root(), source=overlay), AttachedDisk(swap, "vdb"), AttachedDisk(far, "vdc")], encrypt=True)


def kernel() -> Domain:
    return build(
        [root()],
        kernel=KernelBoot(HERE / "kernel", HERE / "ramdisk"),
        vifs=[],
        consoles=ConsolePlan(HERE / "console.log", vnc=False),
    )


def networks() -> Domain:
    """Every kind of interface, as on a host with passt."""
    forwards = (PortForward(2222, 22), PortForward(5353, 53, Protocol.UDP, "::1"))
    subnet = Subnet("192.0.2.0/24", "192.0.2.9", "192.0.2.1", ("192.0.2.53",), (("198.51.100.0/24", "192.0.2.2"),))
    return build(
        [root()],
        vifs=[
            PluggedVif(Vif("1", "52:54:00:6f:0e:01", forwards=forwards), backend="passt"),
            PluggedVif(Vif("2", "52:54:00:6f:0e:02", VifType.NETWORK, "default", mtu=1400)),
            PluggedVif(Vif("3", "52:54:00:6f:0e:03", VifType.BRIDGE, "br0", model="e1000e"), target="tap8f1d"),
            PluggedVif(Vif("4", "52:54:00:6f:0e:04", VifType.NETWORK, "lab", subnets=(subnet,)), link_up=False),
            PluggedVif(Vif("5", "52:54:00:6f:0e:05", VifType.NONE)),
            PluggedVif(Vif("6", "52:54:00:6f:0e:06", VifType.TAP, "tap0", mtu=1400)),
            PluggedVif(Vif("7", "52:54:00:6f:0e:07", VifType.MACVTAP, "eth0", groups=("web",))),
            PluggedVif(Vif("8", "52:54:00:6f:0e:08", VifType.MACVTAP, "eth1", details={"macvtap_mode": "vepa"})),
            PluggedVif(Vif("3fa0c5d0-0001-4a4e-9d5c-5a3c0f8f2b09", "52:54:00:6f:0e:09", VifType.OVS, "br-int")),
        ],
        host=KVM,
    )


def windows() -> Domain:
    return build(
        [root("sda", Bus.SATA)],
        {
            "os_type": "windows",
            "hw_disk_bus": "sata",
            "hw_vif_model": "e1000e",
            "hw_pmu": "false",
            "img_hide_hypervisor_id": "true",
            "hw_qemu_guest_agent": "no",
        },
        host=KVM,
        flavor=Flavor(vcpus=4, memory=4 * GiB),
    )


def threads() -> Domain:
    """I/O threads, and every way to drive a disk."""
    source = DiskSource(DiskType.FILE, DiskFormat.RAW, HERE / "disk.local")
    return build(
        [
            replace(root(), iothread=1, cache=CacheMode.DIRECTSYNC, io="native"),
            AttachedDisk(source, "vdb", iothread=2, io="io_uring", discard="ignore", detect_zeroes="on"),
            AttachedDisk(replace(source, path=HERE / "disk.swap"), "sda", Bus.SCSI, iothread=1, io="threads"),
        ]
    )


def limits() -> Domain:
    """What a flavor may limit, on the system's libvirt."""
    specs = {"quota:cpu_shares": "512", "quota:cpu_period": "20000", "quota:cpu_quota": "10000"}
    for way in ("inbound", "outbound"):
        specs |= {f"quota:vif_{way}_average": "1024", f"quota:vif_{way}_peak": "2048", f"quota:vif_{way}_burst": "512"}
    return build(
        [root()],
        {"hw_vif_multiqueue_enabled": "true"},
        vifs=[PluggedVif(Vif("1", "52:54:00:6f:0e:01", VifType.BRIDGE, "br0"))],
        host=replace(TCG, session=False),
        flavor=Flavor(vcpus=2, memory=1 * GiB, extra_specs=specs),
    )


def everything() -> Domain:
    """What the others leave out: each property, each option, each field of the metadata."""
    return build(
        [root()],
        {
            "hw_watchdog_action": "reset",
            "hw_serial_port_count": "3",
            "hw_video_model": "virtio",
            "hw_video_ram": "32",
            "hw_input_bus": "virtio",
            "hw_time_hpet": "true",
            "hw_machine_type": "pc-q35-7.2",
            "hw_cpu_cores": "2",
            "hw_cpu_threads": "2",
        },
        guest=GuestSection(cpu_mode="Skylake-Server"),
        flavor=Flavor(
            vcpus=8,
            memory=2 * GiB,
            root=20 * GiB,
            ephemeral=5 * GiB,
            swap=512 * MiB,
            name="m1.large",
            extra_specs={"hw_rng:rate_bytes": "4096", "hw_rng:rate_period": "500", "hw_video:ram_max_mb": "64"},
        ),
        consoles=ConsolePlan(HERE / "console.log", spice=True, listen="0.0.0.0", serial_ports=(10000,)),
        display_name="Web server <1>",
        hostname="web",
        project_id="shop",
        user_id="anna",
        backend="qcow2",
        metadata={"role": "front & back"},
    )


CASES: Final = {
    case.__name__.replace("_", "-"): case
    for case in (
        virtio,
        ide,
        sata_uefi,
        secure_boot,
        scsi,
        volumes,
        shares,
        encrypted,
        kernel,
        networks,
        windows,
        limits,
        threads,
        everything,
    )
}
