"""The embedded default: ``qemu:///session``, with a daemon that libvirt's library would start by itself.

Two cases need us to start it instead:

* *root*: libvirt's library gives root no session daemon of its own; it always goes to the system's. We start one in
  a user namespace where root has another number, so that it behaves as for any user, with the
  user's own sockets, definitions and limits, and with no capabilities on the host.
* *a KVM that runs no guests*: libvirt's probe of it blocks for more than a minute. The daemon gets
  a mount namespace in which the device is a file that nobody may open. (A null device in its place
  is answered worse: libvirt finds it usable, QEMU finds no KVM in it, and so the answer is thrown
  away and asked again at every start of a guest.)

A daemon that runs already is used as it is. Guests do not need the daemon to go on: with guests
active it stays, and a new one finds them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cowshed import log
from cowshed.clock import Deadline, poll
from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorUnavailable
from cowshed.hypervisor import look

_log = log.logger(__name__)

SESSION: Final = "qemu:///session"
KVM: Final = Path("/dev/kvm")
IDLE: Final = 120  # seconds without guests and connections after which the daemon ends, as libvirt's own does
START: Final = 30.0  # seconds a daemon may take until it answers

Wish = bool | Callable[[], bool]

# Daemon and its socket, the newer modular one last: Debian's library prefers libvirtd.
_DAEMONS: Final = (("libvirtd", "libvirt-sock"), ("virtqemud", "virtqemud-sock"))
INSTALL: Final = "install libvirt's daemon and its QEMU driver (Debian: libvirt-daemon libvirt-daemon-driver-qemu)"
_INSTALL_SYSTEM: Final = (
    "install libvirt's daemon and its service (Debian: libvirt-daemon-system), or use qemu:///session"
)
# Where the daemon keeps its things, and who it is; everything else it needs is given by run().
_KEPT: Final = ("XDG_", "LIBVIRT_", "DBUS_SESSION_BUS_ADDRESS", "USER", "LOGNAME")

# $0: the file bound over the device ("" binds nothing), then the user and group number to be, then the command.
_ENTER: Final = (
    '[ -z "$0" ] || mount --bind "$0" /dev/kvm || exit 1; user=$1 group=$2; shift 2; '
    'exec unshare --user --map-user="$user" --map-group="$group" -- "$@"'
)
# A number that every distribution knows (daemon); which one does not matter, as long as it is not root's.
_NOT_ROOT: Final = 1


def prepare(uri: str, *, hide_kvm: Wish = False) -> str:
    """Have a session daemon where libvirt would not start a good one; the address to connect to.

    :param hide_kvm: asked, where it is a function, only when a daemon must be started
    :raises HypervisorUnavailable: root has no daemon and none can be started
    """
    if uri != SESSION:
        return uri
    root = os.geteuid() == 0
    folder = runtime_directory()
    found = answering(folder)
    if found is None:
        hide = (root or os.access(KVM, os.R_OK | os.W_OK)) and (hide_kvm() if callable(hide_kvm) else hide_kvm)
        if root or hide:
            found = _start(folder, hide=hide, root=root)
    if not root or found is None:
        return uri
    from urllib.parse import quote

    return f"qemu+unix:///session?socket={quote(str(found))}"


def is_session(uri: str) -> bool:
    """Does ``uri`` lead to a daemon of one user?"""
    return uri.partition("?")[0].endswith("/session")


def runtime_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Where session daemons have their sockets; the same rule as libvirt's (GLib's) own."""
    return Path(look.folder(os.environ if environ is None else dict(environ)))


def answering(folder: Path) -> Path | None:
    """The socket in ``folder`` behind which a daemon listens."""
    import socket

    for _, name in _DAEMONS:
        path = folder / name
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
                return path
            except OSError:
                continue
    return None


def _start(folder: Path, *, hide: bool, root: bool) -> Path | None:
    """Start a daemon; None when libvirt may start its own instead (slower).

    Two at once do no harm: libvirt's daemon holds a lock, the second one ends, both callers use the first.
    """
    from cowshed.tools import filesystem

    program = daemon(SESSION)
    filesystem.make_directory(folder, mode=0o700)
    reason: CowshedError | None = None
    for hiding in (True, False) if hide else (False,):
        if not hiding and not root:
            break  # libvirt can do that itself
        try:
            return _try(command(program, folder, hide=hiding, root=root), folder)
        except CowshedError as error:
            reason = reason or error
            if hiding:
                _log.warning("KVM cannot be hidden from libvirt, whose first answer may take over a minute: %s", error)
    if not root:
        return None
    raise HypervisorUnavailable(
        uri=SESSION,
        reason=f"no session daemon could be started for root: {reason}",
        hint="start libvirt's system daemon (systemctl start libvirtd), or use cowshed as an ordinary user",
    ) from reason


def _try(words: list[str], folder: Path) -> Path:
    """:raises CowshedError: no daemon answers"""
    from cowshed.tools import run

    failed: CowshedError | None = None
    try:
        run.run(words, timeout=START, env=environment())
    except CowshedError as error:
        failed = error
    deadline = Deadline(1.0 if failed else START, "an answer of libvirt's session daemon")
    try:
        poll(lambda: answering(folder) is not None, deadline)
    except DeadlineExceeded as late:
        raise failed or late from None
    found = answering(folder)
    assert found is not None
    return found


def environment() -> dict[str, str]:
    """What the daemon needs of ours beside what every tool gets."""
    return {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}


def daemon(uri: str) -> str:
    """The program that is behind ``uri`` when it is this host's.

    :raises HypervisorUnavailable: there is none
    """
    from cowshed.tools import run

    for name, _ in _DAEMONS:
        if found := run.find(name):
            return found
    raise HypervisorUnavailable(
        uri=uri,
        reason="libvirt's daemon (libvirtd) is not installed",
        hint=INSTALL if is_session(uri) else _INSTALL_SYSTEM,
    )


def command(program: str, folder: Path, *, hide: bool, root: bool) -> list[str]:
    """The command that starts ``program`` where it finds what it shall find; what is not there needs no hiding."""
    stand_in = _stand_in(folder) if hide and KVM.exists() else ""
    # Not private: what the host mounts and unmounts later is to be seen by guests, and held up by none of them.
    first = ["unshare", "--mount", "--propagation", "slave"]
    if not root:
        first += ["--user", "--map-root-user"]  # an ordinary user needs its own namespace to mount in
    user, group = (_NOT_ROOT, _NOT_ROOT) if root else (os.geteuid(), os.getegid())
    return [
        *first, "--", "sh", "-c", _ENTER, str(stand_in), str(user), str(group),
        program, f"--timeout={IDLE}", "--daemon",
    ]  # fmt: skip


def _stand_in(folder: Path) -> Path:
    """A file that nobody may open."""
    path = folder / "no-kvm"
    path.touch(mode=0o000)
    path.chmod(0o000)
    return path
