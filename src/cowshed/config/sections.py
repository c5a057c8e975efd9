"""What can be configured: each section with its defaults, and a sentence for each key. Rooms receive their section alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from cowshed.config import user
from cowshed.errors import ConfigError
from cowshed.units import MiB, TiB

PATH = "path"  # the "unit" of an option that names a file or a directory: an absolute path


def _option(default: Any, help: str, *, unit: str = "", choices: tuple[str, ...] = ()) -> Any:
    metadata = {"help": help, "unit": unit, "choices": choices}
    if isinstance(default, (list, dict)):
        raise TypeError("use a tuple")
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class HostSection:
    """``[host]``: which libvirt, and where what is ours is kept."""

    uri: str = _option(
        "",
        "libvirt URI; empty: LIBVIRT_DEFAULT_URI, then qemu:///system for root where its socket is there, else qemu:///session",
    )
    virt_type: str = _option("auto", "auto probes KVM and falls back to TCG", choices=("auto", "kvm", "qemu"))
    emulator: str = _option("", "path of the QEMU system emulator; empty: what libvirt names")
    state: str = _option(
        "", "directory of all state; empty: /var/lib/cowshed for root, else $XDG_DATA_HOME/cowshed", unit=PATH
    )
    kvm_probe_timeout: float = _option(4.0, "how long a test guest may take to show that KVM runs guests", unit="s")
    address: str = _option("", "management address of this host; empty: found from the routes")
    reserved_memory: int = _option(512 * MiB, "memory kept for the host", unit="B")
    reserved_disk: int = _option(0, "disk space kept for the host", unit="B")
    power_actions: bool = _option(False, "allow host_power_action to shut down or reboot this host")
    shutdown_command: tuple[str, ...] = _option(("systemctl", "poweroff"), "how this host is shut down")
    reboot_command: tuple[str, ...] = _option(("systemctl", "reboot"), "how this host is rebooted")
    startup_command: tuple[str, ...] = _option(
        (), "how a host that is down is woken (by another one); empty: not at all"
    )


@dataclass(frozen=True, slots=True)
class ImagesSection:
    """``[images]``: where images are kept, and what may enter."""

    service: str = _option("directory", "where images are kept: here, or in Glance", choices=("directory", "glance"))
    formats: tuple[str, ...] = _option(("raw", "qcow2", "iso"), "formats that may enter the store")
    max_virtual_size: int = _option(16 * TiB, "largest size an image may claim", unit="B")
    max_unpacked: int = _option(1 * TiB, "largest size a compressed download may unpack to", unit="B")
    connect_timeout: float = _option(10.0, "for each connection to a server", unit="s")
    read_timeout: float = _option(30.0, "longest silence in the middle of a download", unit="s")
    retries: int = _option(3, "how often a broken download is resumed")
    private_addresses: bool = _option(True, "allow downloads from loopback and private addresses")


@dataclass(frozen=True, slots=True)
class GlanceSection:
    """``[glance]``: the image service of an OpenStack cloud, where images are kept in one."""

    cloud: str = _option("", "name of the cloud in clouds.yaml; empty: the keys below, else OS_CLOUD or OS_* variables")
    auth_url: str = _option("", "of Keystone, where no clouds.yaml is used")
    username: str = _option("", "who cowshed is to Keystone")
    password_file: str = _option("", "file whose first line is the password; empty: OS_PASSWORD")
    project: str = _option("", "project whose images are used")
    user_domain: str = _option("Default", "domain of the user")
    project_domain: str = _option("Default", "domain of the project")
    region: str = _option("", "region of the image service; empty: the only one")
    interface: str = _option("public", "which address of the catalogue", choices=("public", "internal", "admin"))
    ca_file: str = _option("", "authorities of the servers' certificates; empty: the system's")
    endpoints: tuple[str, ...] = _option((), "addresses of image servers, tried in turn; empty: the catalogue's")
    store: str = _option("", "store new images go to; empty: the image service's default")
    retries: int = _option(3, "how often a request or a broken transfer is tried again")
    connect_timeout: float = _option(10.0, "for each connection", unit="s")
    read_timeout: float = _option(60.0, "longest silence of a server", unit="s")
    task_timeout: float = _option(3600.0, "how long the image service may work on its own (copies, checks)", unit="s")
    poll_interval: float = _option(1.0, "between questions how far such work is", unit="s")
    signatures: str = _option(
        "off",
        "which images must have a valid signature: none, those that carry one, all",
        choices=("off", "present", "required"),
    )
    certificates: str = _option("", "directory of trusted certificates, <img_signature_certificate_uuid>.pem")


@dataclass(frozen=True, slots=True)
class CacheSection:
    """``[cache]``: the bases that disks are made from."""

    keep_format: bool = _option(False, "keep qcow2 images as qcow2 bases instead of converting them to raw")
    max_size: int = _option(0, "bytes all bases together may hold; 0: no limit", unit="B")
    max_age: float = _option(7 * 86400.0, "how long an unused base is kept", unit="s")
    lock_timeout: float = _option(3600.0, "how long to wait for somebody else's fetch of the same image", unit="s")


@dataclass(frozen=True, slots=True)
class DisksSection:
    """``[disks]``: which backend new disks get, and what they are like."""

    backend: str = _option(
        "qcow2",
        "where new disks live unless an instance says otherwise",
        choices=("qcow2", "raw", "lvm", "rbd", "ploop"),
    )
    preallocation: str = _option("off", "for new disks", choices=("off", "metadata", "falloc", "full"))
    cluster_size: int = _option(64 * 1024, "of new qcow2 disks", unit="B")
    ploop_format: str = _option(
        "raw",
        "data file of new ploop disks: all of the disk as it is, or only the clusters in use",
        choices=("raw", "expanded"),
    )
    cache: str = _option(
        "default", "QEMU's cache mode", choices=("default", "none", "writethrough", "writeback", "directsync", "unsafe")
    )
    io: str = _option("", "QEMU's I/O mode; empty: QEMU decides", choices=("", "native", "threads", "io_uring"))
    discard: str = _option("unmap", "what a guest's discard does", choices=("ignore", "unmap"))
    detect_zeroes: str = _option(
        "", "what QEMU does with written zeroes; empty: its default", choices=("", "off", "on", "unmap")
    )
    iothreads: int = _option(0, "I/O threads of an instance, shared by its disks; 0: QEMU's main loop does the I/O")
    bus: str = _option("virtio", "unless the image says otherwise", choices=("virtio", "scsi", "sata", "ide"))
    ephemeral_filesystem: str = _option("ext4", "of ephemeral disks", choices=("ext2", "ext3", "ext4", "xfs", "vfat"))
    encrypt: bool = _option(False, "encrypt the disks of every new instance, not only of those that ask for it")
    keys: str = _option(
        "file",
        "where the keys of new encrypted disks go: files in the state directory, or persistent secrets of libvirt",
        choices=("file", "libvirt"),
    )
    luks_iterations: int = _option(
        10000, "how often the key of a LUKS disk is stretched; it is 384 random bits: more makes it no safer"
    )


@dataclass(frozen=True, slots=True)
class LvmSection:
    """``[lvm]``: the volume group of the lvm backend."""

    volume_group: str = _option("", "volume group of the lvm backend; empty: there is no such backend")
    thin_pool: str = _option("", "thin pool in the volume group; empty: every volume has all its space from the start")
    clear: str = _option(
        "zero", "what happens to the bytes of a removed volume", choices=("none", "discard", "zero", "shred")
    )
    clear_size: int = _option(0, "how much of a removed volume is cleared; 0: all of it", unit="B")
    encryption: str = _option("luks2", "dm-crypt's format of encrypted volumes", choices=("luks2", "plain"))


@dataclass(frozen=True, slots=True)
class RbdSection:
    """``[rbd]``: the Ceph pool of the rbd backend, and who we are to it."""

    pool: str = _option("", "Ceph pool of the rbd backend; empty: there is no such backend")
    namespace: str = _option("", "namespace in the pool, for which guests need libvirt 11.6; empty: the default one")
    user: str = _option("", "Ceph client without the leading client.; empty: Ceph's default (admin)")
    ceph_conf: str = _option("", "Ceph's configuration file; empty: Ceph's default (/etc/ceph/ceph.conf)", unit=PATH)
    keyring: str = _option("", "file with the client's key; empty: as Ceph's configuration says", unit=PATH)
    secret_uuid: str = _option("", "libvirt secret with the client's key; empty: cowshed defines one from the keyring")
    connect_timeout: float = _option(5.0, "how long connecting to the cluster may take", unit="s")
    operation_timeout: float = _option(60.0, "how long one operation of the cluster may hang", unit="s")


# Backends that are there only where an option says so: name -> (section, key).
@dataclass(frozen=True, slots=True)
class VolumesSection:
    """``[volumes]``: how volumes of others are connected."""

    iscsi: str = _option(
        "qemu", "who logs in to iSCSI targets: QEMU itself, or the host through os-brick", choices=("qemu", "os-brick")
    )
    initiator: str = _option("", "this host's iSCSI name; empty: open-iscsi's, else one made of the machine's id")
    address: str = _option("", "this host's address towards storage; empty: that of the default route")
    root_helper: str = _option("", "words before os-brick's commands that need root, such as sudo; empty: we are root")
    detach_timeout: float = _option(20.0, "how long a guest may take to let go of a device, each time", unit="s")
    detach_attempts: int = _option(
        8, "how often a guest has that time; the first time it is asked again after 2 s, 4 s, ..."
    )


@dataclass(frozen=True, slots=True)
class NetworkSection:
    """``[network]``: what an instance is connected to when it does not say."""

    default: str = _option("user", "network of an instance that names none: user, none, network:NAME or bridge:NAME")
    model: str = _option("virtio", "network card unless the image says otherwise")
    user_backend: str = _option("auto", "of the user network", choices=("auto", "passt", "slirp"))
    connect_timeout: float = _option(
        300.0, "how long whoever connects an interface may take, the guest standing still; 0: no wait", unit="s"
    )
    connect_required: bool = _option(True, "without it the guest is not started; else it starts with a warning")


@dataclass(frozen=True, slots=True)
class ConsoleSection:
    """``[console]``: how an instance is looked at from outside."""

    vnc: bool = _option(True, "give instances a VNC console")
    spice: bool = _option(False, "give instances a SPICE console")
    serial_tcp: bool = _option(False, "serve the first serial port on a TCP port instead of a pty of the host")
    listen: str = _option("127.0.0.1", "address VNC, SPICE and serial ports listen on")
    log_size: int = _option(1 * MiB, "how much of the serial log is shown by default", unit="B")


@dataclass(frozen=True, slots=True)
class GuestSection:
    """``[guest]``: what a guest is given and told."""

    datasource: str = _option("nocloud", "how cloud-init gets its data", choices=("nocloud", "configdrive"))
    config_drive: bool = _option(True, "give every instance a config drive")
    cpu_mode: str = _option("", "libvirt's CPU mode; empty: host-model under KVM, maximum under TCG")
    machine: str = _option("q35", "machine type unless the image says otherwise")
    firmware: str = _option("bios", "unless the image says otherwise", choices=("bios", "uefi"))
    agent: bool = _option(True, "give instances a channel for the QEMU guest agent")
    rng: bool = _option(True, "give instances a random number generator")
    tpm_directory: str = _option("", "where libvirt keeps what TPMs remember; empty: where it does so by itself")


@dataclass(frozen=True, slots=True)
class InstancesSection:
    """``[instances]``: what becomes of instances over time."""

    reclaim_interval: float = _option(
        0.0,
        "how long a softly deleted instance is kept before it is removed for good; 0: until it is removed by hand",
        unit="s",
    )


@dataclass(frozen=True, slots=True)
class PowerSection:
    """``[power]``: how guests are started and stopped."""

    shutdown_timeout: float = _option(60.0, "how long a guest may take to power off when asked", unit="s")
    soft_reboot_timeout: float = _option(120.0, "how long a guest may take to reboot when asked", unit="s")
    start_timeout: float = _option(60.0, "how long QEMU may take to start", unit="s")


@dataclass(frozen=True, slots=True)
class MigrationSection:
    """``[migration]``: how instances move to another host."""

    uri: str = _option(
        "qemu+ssh://%s/system", "libvirt of another host, as this host's libvirt reaches it; %s: its name"
    )
    address: str = _option("", "where this host's QEMU takes guests in; empty: its host name")
    downtime: int = _option(500, "how long a guest may stand still at the end, in milliseconds")
    completion: float = _option(800.0, "how long a migration may take, for each GiB of memory and disks; 0: no limit")
    stall: float = _option(150.0, "how long a migration may get no further; 0: no limit", unit="s")
    bandwidth: int = _option(0, "bytes a second that a migration may send; 0: no limit", unit="B")
    at_timeout: str = _option(
        "abort",
        "what happens to a migration that takes too long: none, the guest pauses until it is over, or it goes on over there",
        choices=("abort", "pause", "post-copy"),
    )
    post_copy: bool = _option(False, "a guest may go on over there before all its memory is; a broken cable kills it")
    auto_converge: bool = _option(False, "slow a guest down that changes its memory faster than it can be sent")
    translated: str = _option(
        "pause",
        "what a guest without KVM does while it is copied by a QEMU before 9.0, which loses what such a guest writes meanwhile: it pauses, or goes on all the same",
        choices=("pause", "live"),
    )
    tls: bool = _option(False, "send guests and disks through TLS, with the certificates of libvirt and QEMU")
    certificates: str = _option("", "directory of QEMU's certificates for that; empty: as libvirt's qemu.conf says")
    parallel: int = _option(0, "connections for the memory of one guest; 0: one, the usual way")
    unsafe: bool = _option(False, "trust a shared directory that libvirt does not know to be coherent between hosts")
    command: tuple[str, ...] = _option(
        ("ssh", "%s", "cowshed"), "how cowshed is run on another host; %s: its name, and words are added at the end"
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All sections. ``sources`` maps ``section.key`` to the file or variable it came from."""

    host: HostSection = field(default_factory=HostSection)
    images: ImagesSection = field(default_factory=ImagesSection)
    glance: GlanceSection = field(default_factory=GlanceSection)
    cache: CacheSection = field(default_factory=CacheSection)
    disks: DisksSection = field(default_factory=DisksSection)
    lvm: LvmSection = field(default_factory=LvmSection)
    rbd: RbdSection = field(default_factory=RbdSection)
    volumes: VolumesSection = field(default_factory=VolumesSection)
    network: NetworkSection = field(default_factory=NetworkSection)
    console: ConsoleSection = field(default_factory=ConsoleSection)
    guest: GuestSection = field(default_factory=GuestSection)
    instances: InstancesSection = field(default_factory=InstancesSection)
    power: PowerSection = field(default_factory=PowerSection)
    migration: MigrationSection = field(default_factory=MigrationSection)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The directory of all state. :raises ConfigError: none is configured, and this user has no home"""
        return Path(self.host.state) if self.host.state else _default_state()


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/cowshed")
    home = user.home()
    data = os.environ.get("XDG_DATA_HOME") or (home and home / ".local/share")
    if not data:
        raise ConfigError(
            source="[host] state",
            reason=f"it is not set, and user {user.name()} has no home directory where the state could be",
            hint="set COWSHED_HOST_STATE to an absolute path, or HOME",
        )
    return Path(data) / "cowshed"


def sections() -> dict[str, type[Any]]:
    """Section name to its class, in the order of the documentation."""
    hints = get_type_hints(Config)
    return {f.name: hints[f.name] for f in fields(Config) if is_dataclass(hints[f.name])}
