"""The doctor: small checks, each a function from facts to findings that say how to mend things.

What only libvirt knows is handed in as values, so that every check can be asked about any host.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cowshed.host import emulator as emulators
from cowshed.host import facts, interpreter
from cowshed.host.kvm import KvmState
from cowshed.model.host import Finding, Firmware
from cowshed.tools import filesystem, run, virtiofsd
from cowshed.units import GiB, MiB, format_size

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"

QEMU_FLOOR: Final = (7, 2, 0)
LIBVIRT_FLOOR: Final = (9, 0, 0)
_LITTLE: Final = 5 * GiB  # free bytes below which an image or two may not fit
_TOO_LITTLE: Final = 512 * MiB

# Program -> (package, what does not work without it).
FILESYSTEM_TOOLS: Final = {
    "mkfs.ext4": ("e2fsprogs", "ephemeral disks with ext4"),
    "mkfs.xfs": ("xfsprogs", "ephemeral disks with XFS"),
    "mkfs.vfat": ("dosfstools", "ephemeral disks with FAT"),
    "mkswap": ("util-linux", "swap disks"),
}
# Module -> (distribution, what does not work without it).
MODULES: Final = {
    "httpcore": ("httpx", "images from the network"),
    "pycdlib": ("pycdlib", "config drives"),
    "oslo_utils": ("oslo.utils", "the second opinion on raw images"),
    "zstandard": ("zstandard", "zstd images"),
    "isal": ("isal", "fast gzip and qcow2 decompression"),
}
# For a Python that is not the distribution's: there is no built binding, so it is built against the host's library.
_BUILD: Final = "sudo apt install libvirt-dev pkg-config gcc; pip install libvirt-python"


def _install(package: str) -> str:
    return f"sudo apt install {package}"


def _words(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- programs and libraries -------------------------------------------------------------------


def emulator(path: str | None, version: tuple[int, int, int] = (0, 0, 0), *, configured: bool = False) -> list[Finding]:
    """
    :param path: the QEMU system emulator; None: none was found
    :param configured: it is the one that ``[host] emulator`` names
    """
    if configured and path and (reason := emulators.unusable(path)):
        return unusable_emulator(reason)
    if not path or run.find(path) is None:
        return [Finding(ERROR, "QEMU", "QEMU is not installed: no instance can run", _install("qemu-system-x86"))]
    if any(version) and version < QEMU_FLOOR:
        sentence = f"QEMU {_words(version)} is older than {_words(QEMU_FLOOR)}, the oldest that is tested"
        return [Finding(WARNING, "QEMU", sentence, "upgrade QEMU")]
    return [Finding(OK, "QEMU", f"{path}{' ' + _words(version) if any(version) else ''}")]


def unusable_emulator(reason: str) -> list[Finding]:
    """:param reason: why the one that the configuration names is of no use"""
    return [Finding(ERROR, "QEMU", f"[host] emulator: {reason}", emulators.REMEDY)]


def qemu_img() -> list[Finding]:
    path = run.find("qemu-img")
    if path is None:
        sentence = "qemu-img is not installed: some disk operations need it"
        return [Finding(ERROR, "qemu-img", sentence, _install("qemu-utils"))]
    return [Finding(OK, "qemu-img", path)]


def binding() -> list[Finding]:
    """The Python module that speaks to libvirt (looked for, not imported)."""
    if not bound():
        remedy = interpreter.remedy("python3-libvirt", build=_BUILD)
        return [Finding(ERROR, "libvirt binding", "this Python has no module libvirt", remedy)]
    return [Finding(OK, "libvirt binding", "the Python module libvirt is installed")]


def bound() -> bool:
    """Is there a module that speaks to libvirt?"""
    return importlib.util.find_spec("libvirt") is not None


def daemon(uri: str) -> list[Finding]:
    """libvirt's daemon, where it cannot be asked itself: is there one for ``uri``?"""
    here = uri.partition("://")[2].startswith("/")
    if not here or any(run.find(name) for name in ("libvirtd", "virtqemud")):
        return []
    return [Finding(ERROR, "libvirt", "libvirt's daemon (libvirtd) is not installed", _install(_daemon(uri)))]


def _daemon(uri: str) -> str:
    return "libvirt-daemon-system" if uri.partition("?")[0].endswith("/system") else "libvirt-daemon"


def libvirt(uri: str, *, version: tuple[int, int, int] = (0, 0, 0), error: str = "", hint: str = "") -> list[Finding]:
    """:param error: why libvirt at ``uri`` cannot be reached; empty: it can"""
    if error:
        return [Finding(ERROR, "libvirt", error, hint or f"{_install(_daemon(uri))}, and see that its service runs")]
    if any(version) and version < LIBVIRT_FLOOR:
        sentence = f"libvirt {_words(version)} is older than {_words(LIBVIRT_FLOOR)}, the oldest that is tested"
        return [Finding(WARNING, "libvirt", sentence, "upgrade libvirt")]
    return [Finding(OK, "libvirt", f"{uri}{' ' + _words(version) if any(version) else ''}")]


def image_service(url: str, *, error: str = "", hint: str = "") -> list[Finding]:
    """:param error: why Glance at ``url`` cannot be used; empty: it can"""
    if error:
        return [Finding(ERROR, "image service", error, hint or "see the section [glance]")]
    return [Finding(OK, "image service", f"Glance answers at {url}")]


def firmware(firmwares: Sequence[Firmware]) -> list[Finding]:
    if not firmwares:
        sentence = "there is no UEFI firmware: instances can start with BIOS only"
        return [Finding(WARNING, "firmware", sentence, _install("ovmf"))]
    names = ", ".join(sorted({entry.loader.name for entry in firmwares}))
    if not any(entry.enrolled for entry in firmwares):
        sentence = f"UEFI: {names}; none with secure boot and its keys, so no instance can have secure boot"
        return [Finding(WARNING, "firmware", sentence, _install("ovmf"))]
    return [Finding(OK, "firmware", f"UEFI: {names}")]


def tpm(versions: Sequence[str]) -> list[Finding]:
    """:param versions: of TPMs that libvirt and swtpm here make together"""
    if not versions:
        missing = run.find("swtpm") is None or run.find("swtpm_setup") is None
        why = "swtpm is not installed" if missing else "libvirt here knows no emulated TPM"
        remedy = _install("swtpm swtpm-tools") if missing else "upgrade libvirt and QEMU"
        return [Finding(WARNING, "TPM", f"{why}: no instance can have a TPM", remedy)]
    return [Finding(OK, "TPM", f"swtpm: {', '.join(versions)}")]


def filesystem_tools(tools: Mapping[str, tuple[str, str]] = FILESYSTEM_TOOLS) -> list[Finding]:
    findings = [
        Finding(WARNING, "file systems", f"{tool} is not installed: no {what}", _install(package))
        for tool, (package, what) in tools.items()
        if run.find(tool) is None
    ]
    return findings or [Finding(OK, "file systems", "the programs that make file systems are installed")]


def modules(wanted: Mapping[str, tuple[str, str]] = MODULES) -> list[Finding]:
    """Python modules that are needed at some point."""
    findings = [
        Finding(ERROR, "Python modules", f"the Python module {name} is missing: no {what}", f"pip install {project}")
        for name, (project, what) in wanted.items()
        if importlib.util.find_spec(name) is None
    ]
    return findings or [Finding(OK, "Python modules", "all there")]


def shares(*, session: bool) -> list[Finding]:
    """Can guests be given directories of this host?

    :param session: libvirt is one user's, so that cowshed starts virtiofsd by itself
    """
    path = virtiofsd.find()
    if path is None:
        sentence = "virtiofsd is not installed: directories cannot be shared with guests"
        return [Finding(WARNING, "shares", sentence, _install(virtiofsd.PACKAGE))]
    if session and (missing := virtiofsd.unable()):
        return [Finding(WARNING, "shares", f"directories cannot be shared with guests: {missing}", virtiofsd.remedy())]
    return [Finding(OK, "shares", path)]


# --- speed ------------------------------------------------------------------------------------


def kvm(state: KvmState, *, configured: str = "auto") -> list[Finding]:
    """:param configured: the virt type of the configuration"""
    if state.usable:
        return [Finding(OK, "KVM", "guests run under KVM")]
    if configured == "kvm":
        return [Finding(ERROR, "KVM", f"kvm is configured, but {state.reason}", state.remedy)]
    if not state.known:
        return [Finding(WARNING, "KVM", f"whether guests run under KVM is not known: {state.reason}", state.remedy)]
    sentence = f"{state.reason}; instances run under TCG (emulation), many times slower"
    return [Finding(WARNING, "KVM", sentence, state.remedy)]


# --- network ----------------------------------------------------------------------------------


def user_network(*, passt: bool) -> list[Finding]:
    """:param passt: libvirt and QEMU here can use passt"""
    if passt and run.find("passt") is None:
        sentence = "passt is not installed: user networks use slirp, which is slower"
        return [Finding(WARNING, "user network", sentence, _install("passt"))]
    if passt:
        return [Finding(OK, "user network", "passt")]
    return [Finding(OK, "user network", "slirp (this libvirt does not know passt)")]


def default_network(state: str | None, *, session: bool) -> list[Finding]:
    """:param state: of libvirt's network ``default``: active, inactive, or None where there is none"""
    if session:
        return []  # a session has no networks of its own; user networks need nothing
    if state == "active":
        return [Finding(OK, "network default", "it is active")]
    if state == "inactive":
        remedy = "virsh net-start default; virsh net-autostart default"
        return [Finding(WARNING, "network default", "libvirt's network default is not active", remedy)]
    remedy = "virsh net-define /usr/share/libvirt/networks/default.xml; virsh net-start default"
    return [Finding(WARNING, "network default", "libvirt has no network named default", remedy)]


# --- places -----------------------------------------------------------------------------------


def state_directory(path: Path, *, qemu_user: tuple[int, int] | None = None) -> list[Finding]:
    """May we write there, and may QEMU enter?

    :param qemu_user: (uid, gid) that libvirt runs QEMU as; None: the calling user (session mode)
    """
    place = filesystem.nearest(path)
    if filesystem.is_read_only(place):
        sentence = (
            f"the file system of {place} is mounted read-only: instances can be looked at, but not started or changed"
        )
        return [Finding(ERROR, "state directory", sentence, "mount it for writing, or set another [host] state")]
    if not os.access(place, os.W_OK | os.X_OK):
        return [Finding(ERROR, "state directory", f"no permission to write {place}", _opening(place, path))]
    if qemu_user and (closed := _closed_to(path, *qemu_user)):
        sentence = f"QEMU (user {qemu_user[0]}) cannot enter {closed}, so no instance with disks below it can start"
        return [
            Finding(
                ERROR,
                "state directory",
                sentence,
                f"sudo chmod o+x {shlex.quote(str(closed))}, or set another [host] state",
            )
        ]
    return [Finding(OK, "state directory", str(path))]


def _opening(place: Path, path: Path) -> str:
    """What lets this user write to ``path``, of which ``place`` is there."""
    name = shlex.quote(str(path))
    if place != path:
        return f"sudo install -d -o $USER {name}"
    return f"chmod u+rwx {name}" if place.stat().st_uid == os.geteuid() else f"sudo chown -R $USER {name}"


def _closed_to(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory on the way to ``path`` that this user may not enter."""
    if uid == 0:
        return None
    for place in [*reversed(path.parents), path]:
        if not place.exists():
            return None
        facts_of = place.stat()
        owner, group = facts_of.st_uid == uid, facts_of.st_gid == gid
        needed = stat.S_IXUSR if owner else stat.S_IXGRP if group else stat.S_IXOTH
        if not facts_of.st_mode & needed:
            return place
    return None


def free_space(path: Path) -> list[Finding]:
    space = facts.disk(path)
    sentence = f"{format_size(space.free)} of {format_size(space.total)} are free at {path}"
    remedy = "cowshed image prune removes bases that nobody uses"
    if space.free < _TOO_LITTLE:
        return [Finding(ERROR, "disk space", sentence, remedy)]
    if space.free < _LITTLE:
        return [Finding(WARNING, "disk space", sentence, remedy)]
    return [Finding(OK, "disk space", sentence)]


def reflinks(path: Path, *, works: bool) -> list[Finding]:
    """:param works: the file system of ``path`` shares blocks between files"""
    if works:
        return [Finding(OK, "instant raw disks", f"the file system of {path} shares blocks")]
    sentence = "raw disks are copied: this file system cannot share blocks (qcow2 disks are instant everywhere)"
    return [Finding(OK, "instant raw disks", sentence)]


def leftovers(names: Sequence[str], *, what: str = "leftovers of broken operations", remedy: str = "") -> list[Finding]:
    """:param names: things that no record owns"""
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [Finding(WARNING, "leftovers", f"{what}: {shown}", remedy or "the next cowshed command removes them")]


def local(*, state: Path, kvm_state: KvmState, virt_type: str = "auto", emulator_path: str = "") -> list[Finding]:
    """All checks that need no libvirt, in the order a reader wants."""
    return [
        *emulator(emulator_path or run.find("qemu-system-x86_64"), configured=bool(emulator_path)),
        *qemu_img(),
        *binding(),
        *modules(),
        *kvm(kvm_state, configured=virt_type),
        *filesystem_tools(),
        *free_space(state),
    ]
