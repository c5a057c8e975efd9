"""Does KVM run guests here? A device that can be opened is no proof: only a guest that runs is one.

The probe starts QEMU on a firmware of about 140 bytes of our own: it goes from the reset vector to
64-bit mode with paging, adds up ten thousand numbers in memory and leaves through QEMU's
``isa-debug-exit``. Under a working KVM that takes milliseconds of CPU time, so a guest that has
burned a whole second is stuck and the kernel ends it (RLIMIT_CPU): a broken KVM is found after a
second even where the deadline is longer, and a busy host is not mistaken for a broken one.
(Measured: 0.08 s where it works; a KVM without hardware support gets to real mode and hangs there.)
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cowshed import clock, log
from cowshed.errors import CowshedError, DeadlineExceeded
from cowshed.host import emulator as emulators
from cowshed.tools import filesystem, run
from cowshed.tools.limits import Limits

_log = log.logger(__name__)

DEVICE: Final = Path("/dev/kvm")
EMULATOR: Final = "qemu-system-x86_64"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_CPU_SECONDS: Final = 1  # what works needs a hundredth of it
_UNDECIDED_AGE: Final = 600.0  # seconds a "not in time" is believed; it may have been the load

# What a guest that ran writes to the exit device; QEMU's exit status is then twice that plus one.
_WORD: Final = 0x2A
_STATUS: Final = _WORD << 1 | 1

# The firmware, assembled (GNU as; `.code16` up to the far jump, `.code64` behind it):
#     cli; xor %ax,%ax; mov %ax,%ds
#     movl $0x2003,0x1000; movl $0x3003,0x2000; movl $0x83,0x3000    one page of 2 MiB, mapped 1:1
#     lgdtl %cs:gdtr; mov $0x20,%eax; mov %eax,%cr4; mov $0x1000,%eax; mov %eax,%cr3
#     mov $0xc0000080,%ecx; rdmsr; or $0x100,%eax; wrmsr             EFER.LME
#     mov %cr0,%eax; or $0x80000001,%eax; mov %eax,%cr0; ljmpl $8,$(0xf0000 + long)
#   long: mov $10000,%ecx
#   1:  mov %rcx,0x5000(,%rcx,8); add 0x5000(,%rcx,8),%rbx; loop 1b
#     mov $50005000,%eax; cmp %rax,%rbx; jne 2f
#     mov $0x2a,%al; mov $0xf4,%dx; out %al,(%dx)
#   2:  hlt; jmp 2b
#   gdt: .quad 0, 0x00209a0000000000    gdtr: .word 15; .long 0xf0000 + gdt
_CODE: Final = bytes.fromhex(
    "fa31c08ed866c70600100320000066c70600200330000066c7060030830000002e660f0116980066b8200000000f22e066b8001000000f22"
    "d866b9800000c00f32660d000100000f300f20c0660d010000800f22c066ea5d000f000800b91027000048890ccd0050000048031ccd0050"
    "0000e2eeb80804fb024839c37507b02a66baf400eef4ebfd000000000000000000000000009a20000f0088000f00"
)
_RESET: Final = bytes.fromhex("ea000000f0")  # ljmp $0xf000,$0: where the code above is mapped
_ROM_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class KvmState:
    """``reason`` is a sentence why KVM is not usable; ``remedy`` what mends it, where something can.

    What is not ``known`` could not be tried, for lack of an emulator: no guest runs then, with KVM or without.
    """

    usable: bool
    reason: str = ""
    remedy: str = ""
    known: bool = True


def probe(
    timeout: float,
    cache: Path,
    *,
    fresh: bool = False,
    emulator: str = EMULATOR,
    configured: bool = False,
    device: Path = DEVICE,
) -> KvmState:
    """Whether guests run under KVM for this user; takes at most ``timeout`` seconds, and is remembered.

    :param cache: file for the answer; it holds until the next boot, kernel, QEMU or user
    :param fresh: ask again in any case
    :param configured: the emulator is the one that ``[host] emulator`` names, and may be anything
    """
    if obstacle := _obstacle(device):
        return obstacle
    if platform.machine() not in ("x86_64", "i686"):
        return KvmState(True)  # the test guest is for x86
    program = run.find(emulator)
    if program is None:
        if configured:
            return _wrong_emulator(emulators.unusable(emulator))
        return KvmState(False, f"{emulator} is not installed", "install the package qemu-system-x86", known=False)
    key = _key(program, device)
    if not fresh and (known := _recall(cache, key)):
        return known
    state, certain = _run_guest(program, timeout)
    if configured and not state.usable and (reason := emulators.unusable(emulator)):
        state = _wrong_emulator(reason)
    _remember(cache, key, state, certain)
    return state


def _wrong_emulator(reason: str) -> KvmState:
    """That of the configuration: the distribution's package would mend nothing."""
    return KvmState(False, f"[host] emulator cannot be used: {reason}", emulators.REMEDY, known=False)


def _obstacle(device: Path) -> KvmState | None:
    """What can be told without a guest."""
    if not device.exists():
        if _has_virtualization():
            return KvmState(False, f"there is no {device}", "load the module: modprobe kvm_intel, or modprobe kvm_amd")
        remedy = "switch virtualization on in the firmware, or nested virtualization in the host above"
        return KvmState(False, f"there is no {device}: this machine's CPU offers no virtualization", remedy)
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        remedy = "add yourself to the group kvm and log in again: sudo usermod -aG kvm $USER"
        return KvmState(False, f"there is no permission to open {device}", remedy)
    except OSError as error:
        return KvmState(False, f"{device} cannot be opened: {error.strerror}")
    return None


def _has_virtualization() -> bool:
    with suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return bool(words & {"vmx", "svm"})
    return False


# --- the test guest ---------------------------------------------------------------------------


def _run_guest(program: str, timeout: float) -> tuple[KvmState, bool]:
    fd = os.memfd_create("cowshed-kvm-probe", os.MFD_CLOEXEC)
    try:
        os.pwrite(fd, rom(), 0)
        return judge(program, command(program, f"/proc/self/fd/{fd}"), timeout, [fd])
    finally:
        os.close(fd)


def rom() -> bytes:
    """The firmware: the code at the start, the jump to it at the reset vector (16 bytes before the end)."""
    return (_CODE.ljust(_ROM_SIZE - 16, b"\0") + _RESET).ljust(_ROM_SIZE, b"\0")


def command(program: str, firmware: str, *, accel: str = "kvm") -> list[str]:
    """The CPU model is QEMU's default: ``host`` would test more than that KVM runs guests."""
    machine = ["-accel", accel, "-machine", "pc,graphics=off", "-m", "16", "-nodefaults", "-no-user-config"]
    return [
        *(program, *machine, "-display", "none", "-bios", firmware),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def judge(program: str, arguments: Sequence[str], timeout: float, fds: Sequence[int] = ()) -> tuple[KvmState, bool]:
    """(state, whether that is for sure), read from how QEMU ended."""
    remedy = "guests run without KVM (slower); nested virtualization in the host above may be broken or off"
    try:
        result = run.run(arguments, timeout=timeout, limits=Limits(cpu=_CPU_SECONDS), check=False, pass_fds=fds)
    except DeadlineExceeded:
        return KvmState(False, f"a test guest under KVM did not run within {timeout:g} s", remedy), False
    except CowshedError as error:
        return KvmState(False, f"the test guest could not be started: {error}"), False
    if result.status == _STATUS:
        return KvmState(True), True
    if result.status < 0 and -result.status in (9, 24):  # SIGKILL or SIGXCPU: the limit on CPU time
        return KvmState(False, "a test guest under KVM hangs: it uses the CPU, but does not get on", remedy), True
    words = result.stderr.decode(errors="replace").strip().rpartition("\n")[2][-200:] or "it said nothing"
    return KvmState(False, f"{Path(program).name} cannot run a guest under KVM: {words}", remedy), True


# --- memory of the answer ---------------------------------------------------------------------


def _key(program: str, device: Path) -> dict[str, Any]:
    binary, node = os.stat(program), os.stat(device)
    return {
        "boot": _BOOT_ID.read_text().strip(),
        "kernel": os.uname().release,
        "emulator": [program, binary.st_mtime_ns, binary.st_size],
        "device": [str(device), node.st_rdev, node.st_mode, node.st_uid, node.st_gid],
        "user": os.geteuid(),
    }


def _recall(cache: Path, key: dict[str, Any]) -> KvmState | None:
    try:
        body = json.loads(cache.read_bytes())
        if body["key"] != key or not (body["certain"] or abs(clock.current().time() - body["at"]) < _UNDECIDED_AGE):
            return None
        return KvmState(**body["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(cache: Path, key: dict[str, Any], state: KvmState, certain: bool) -> None:
    body = {"key": key, "state": asdict(state), "certain": certain, "at": clock.current().time()}
    try:
        filesystem.make_directory(cache.parent)
        filesystem.write_atomically(cache, json.dumps(body).encode())
    except CowshedError as error:
        _log.debug("the answer about KVM is not remembered: %s", error)
