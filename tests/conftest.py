"""What all tests share: the tiny guests, file systems of their own, a private home, and the guard on skips."""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests import ceph_node, ci_run, glance_server, processes

ROOT = Path(__file__).resolve().parent.parent
EXPECTED_SKIPS = ROOT / "tests" / "expected-skips.txt"

# Folder -> seconds a test may take when it says nothing itself. Guests are translated (TCG) and share two cores.
TIME_LIMITS = {"host": 120, "vm": 240, "debian": 1200, "lvm": 300}

MARKERS = {"debian": "vm", "lvm": "host"}

_SIGNALS: dict[int, Any] = {}  # what answers each at the beginning


# ------------------------------------------------------------------------------------------------------- a private home


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control (CI, a script) starts what it puts in the background with SIGINT ignored, and
    # everything below inherits that. Tests of interruptions need the real thing.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _SIGNALS.update({number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)})
    # Containers often forbid it. Each of the hundreds of commands that the tests start would then compile cowshed anew,
    # which is half of what its start costs.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Where Debian has blkid, mkfs and the like, but not in the path of an ordinary user.
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    config.pluginmanager.register(SkipGuard(config), "skip-guard")
    config.pluginmanager.register(HollowCount(), "hollow-count")
    config.pluginmanager.register(PrivateHome(), "private-home")
    config.pluginmanager.register(ci_run.FailuresAtOnce(config), "failures-at-once")
    config.pluginmanager.register(ci_run.Crashes(), "crashes")
    config.pluginmanager.register(ci_run.Again(), "again")
    config.pluginmanager.register(ceph_node, "ceph-node")
    config.pluginmanager.register(glance_server, "glance-server")


class PrivateHome:
    """Each test process has its own XDG directories, so that no test sees or touches the caller's instances.

    A libvirt daemon that a test made libvirt start (session mode) lives there as well and ends with the tests.
    The place is short because a unix socket's path has room for about 100 characters.
    """

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="cowshed-", dir="/tmp"))
        for name in [name for name in os.environ if name.startswith(("COWSHED_", "LIBVIRT_"))]:
            del os.environ[name]
        for variable, folder in {
            "XDG_CONFIG_HOME": "config",
            "XDG_DATA_HOME": "data",
            "XDG_CACHE_HOME": "cache",
            "XDG_STATE_HOME": "state",
            "XDG_RUNTIME_DIR": "run",
        }.items():
            (self._place / folder).mkdir(mode=0o700)
            os.environ[variable] = str(self._place / folder)
        # Root's places are fixed ones (/etc, /var/lib) unless told otherwise.
        os.environ["COWSHED_HOST_STATE"] = str(self._place / "data" / "cowshed")
        self._own_ports()
        self.mounts = self._place / "mounts"
        self.mounts.mkdir()
        self._shared = os.geteuid() == 0 and self._share(self.mounts)

    def _own_ports(self) -> None:
        """Two daemons that look for a free port at the same moment take the same one: each has a range of its own."""
        # None of them has ports that serial consoles take (10000 to 20000), or that the kernel gives away (from 32768).
        number = os.getpid() % 156
        first = 6200 + 100 * number if number < 37 else 20100 + 100 * (number - 37)
        folder = self._place / "config" / "libvirt"
        folder.mkdir()
        (folder / "qemu.conf").write_text(
            f"remote_display_port_min = {first}\nremote_display_port_max = {first + 99}\n"
            f"remote_websocket_port_min = {first}\nremote_websocket_port_max = {first + 99}\n"
        )

    def _share(self, place: Path) -> bool:
        """Make ``place`` a mount whose later mounts are seen in the mount namespace of root's session daemon too."""
        commands = (["mount", "--bind", str(place), str(place)], ["mount", "--make-shared", str(place)])
        return all(subprocess.run(c, check=False, capture_output=True, timeout=10).returncode == 0 for c in commands)

    def pytest_unconfigure(self) -> None:
        processes.end_all(self._place)
        if self._shared:
            subprocess.run(["umount", "--lazy", "--recursive", str(self.mounts)], check=False, timeout=10)
        shutil.rmtree(self._place, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ markers and time limits


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0] if item.path.is_relative_to(ROOT / "tests") else ""
        if folder in TIME_LIMITS:
            item.add_marker(MARKERS.get(folder, folder))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIME_LIMITS[folder]))
        if (folder == "vm" or "glance" in item.path.stem) and item.get_closest_marker("xdist_group") is None:
            # The guests of one file run one after the other, so that at most two translate at once; and the images of
            # one file, whose names are the same in some tests.
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if hasattr(config, "workerinput"):
        # In parallel the groups with the most tests come first, whatever is said here. Among those of one test the slow
        # ones do: what is left for the end is small, and nobody waits a minute for the other's last guest.
        items.sort(key=lambda item: next((n for n, name in enumerate(("vm", "host")) if name in item.keywords), 2))


# ------------------------------------------------------------------------------------------------------- hollow passes


class HollowCount:
    """Names the promises of drivers that have passed only because the driver said that it cannot."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.found |= {str(value) for name, value in report.user_properties if name == "hollow"}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.found:
            terminalreporter.section("hollow passes")
            for driver in sorted({name.partition(":")[0] for name in self.found}):
                calls = sorted(name.partition(": ")[2] for name in self.found if name.startswith(f"{driver}:"))
                terminalreporter.line(f"{driver}: {len(calls)} ({', '.join(calls)})")


# ------------------------------------------------------------------------------------------------------ the skip guard


@dataclass(eq=False)  # pytest keeps its plugins in a set
class SkipGuard:
    """With CI=true, a skip that is not in tests/expected-skips.txt fails the run."""

    config: pytest.Config
    unexpected: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expected = [
            tuple(part.strip() for part in line.split(" | ", 1))
            for line in (EXPECTED_SKIPS.read_text().splitlines() if EXPECTED_SKIPS.exists() else [])
            if line.strip() and not line.startswith("#")
        ]
        # Under xdist the controller sees every report; a worker that judged as well would be a second opinion.
        self.judging = os.environ.get("CI") == "true" and "PYTEST_XDIST_WORKER" not in os.environ

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._judge(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._judge(report)

    def _judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        longrepr = report.longrepr
        reason = (longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)).removeprefix("Skipped: ")
        nodeid = report.nodeid.split("@")[0]  # xdist writes the group behind the name
        if not any(fnmatch.fnmatch(nodeid, where) and fnmatch.fnmatch(reason, why) for where, why in self.expected):
            self.unexpected[nodeid] = reason

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.judging and self.unexpected and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.judging and self.unexpected:
            terminalreporter.section("skips that are not in tests/expected-skips.txt", red=True)
            for nodeid, reason in sorted(self.unexpected.items()):
                terminalreporter.line(f"{nodeid} | {reason}", red=True)


@pytest.fixture(autouse=True)
def as_imported() -> Iterator[None]:
    """What a test that runs the command in this process leaves: our log to its own standard error, answers to signals.

    Put right before each test, not only after: a module's fixture can run the command as it ends.
    """
    _reset()
    yield
    _reset()


def _reset() -> None:
    for number, answer in _SIGNALS.items():
        signal.signal(number, answer)
    ours = logging.getLogger("cowshed")
    ours.handlers[:], ours.propagate = [], True
    ours.setLevel(logging.NOTSET)


# ---------------------------------------------------------------------------------------------------------- tiny guests


def _build_guest(folder: Path, script: str, *arguments: str) -> Path:
    if shutil.which("apt-get") is None:
        pytest.skip("guests are built from Debian packages, and there is no apt-get here")
    done = subprocess.run(
        ["bash", f"scripts/{script}", *arguments, str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"scripts/{script} failed:\n{done.stdout}{done.stderr}"
    return folder


@pytest.fixture(scope="session")
def guest_dir() -> Path:
    """The tiny guest: ``vmlinuz``, ``initramfs``, ``initramfs-agent``, ``tiny.raw``, ``tiny.qcow2``. Never write there."""
    return _build_guest(ROOT / "build" / "guest", "guest-tiny.sh")


@pytest.fixture(scope="session")
def guest_dir_generic() -> Path:
    """The same with Debian's generic kernel, which knows SATA and LSI SCSI disks (and starts two seconds later)."""
    return _build_guest(ROOT / "build" / "guest-generic", "guest-tiny.sh", "--kernel", "generic")


@pytest.fixture(scope="session")
def debian_image() -> Path:
    """A small real Debian 12 with cloud-init, as qcow2 (``make guest-debian``). Never write there."""
    return _build_guest(ROOT / "build" / "guest-debian", "guest-debian.sh") / "debian.qcow2"


# --------------------------------------------------------------------------------------------------------- file systems


class LoopFs(Protocol):
    def __call__(self, kind: str = "ext4", size: str = "512M", options: str = "") -> Path: ...


@pytest.fixture
def loopfs(pytestconfig: pytest.Config) -> Iterator[LoopFs]:
    """Makes file systems of their own: ``loopfs("xfs", size="1G")`` is the directory where a new one is mounted.

    ``kind`` is ext4, xfs or btrfs; ``options`` are mount options. XFS wants at least 300M, Btrfs 110M. They are
    sparse files behind loop devices and are gone after the test.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices: no /dev/loop-control here")
    mounted: list[Path] = []
    home = pytestconfig.pluginmanager.get_plugin("private-home")
    assert isinstance(home, PrivateHome)
    place = Path(tempfile.mkdtemp(prefix="loopfs-", dir=home.mounts))

    def make(kind: str = "ext4", size: str = "512M", options: str = "") -> Path:
        mkfs = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}[kind]
        if shutil.which(mkfs[0]) is None:
            pytest.skip(f"needs {mkfs[0]}: see scripts/packages.sh test")
        image = place / f"{kind}-{len(mounted)}.img"
        target = place / f"{kind}-{len(mounted)}"
        target.mkdir()
        _call("truncate", "-s", size, str(image))
        _call(*mkfs, str(image))
        _call("mount", "-o", ",".join(filter(None, ["loop", options])), str(image), str(target))
        mounted.append(target)
        return target

    try:
        yield make
    finally:
        for target in reversed(mounted):
            _call("umount", "--lazy", str(target))
        shutil.rmtree(place, ignore_errors=True)


def _call(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"
