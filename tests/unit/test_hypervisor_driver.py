"""The connection against libvirt's own test driver: real binding, real event loop, no daemon."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.errors import (
    HypervisorError,
    HypervisorUnavailable,
    InstanceNotFound,
    NetworkNotFound,
    PermissionDenied,
)
from cowshed.hypervisor import Hypervisor, dial, look, session
from cowshed.model.event import Transition
from cowshed.model.instance import PowerState
from cowshed.tools import run

pytest.importorskip("libvirt", reason="the libvirt binding is not installed")


NODE = """
<node>
  <domain type='test'><name>test</name><memory>8192</memory><os><type>hvm</type></os></domain>
  <network><name>default</name><bridge name='virbr0'/></network>
</node>"""


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Hypervisor]:
    """A host of its own with one running guest and one network (``test:///default`` is shared in a process)."""
    (tmp_path / "node.xml").write_text(NODE)
    with Hypervisor(f"test://{tmp_path}/node.xml") as opened:
        yield opened


def test_the_one_guest_it_comes_with(hypervisor: Hypervisor) -> None:
    (guest,) = hypervisor.guests()
    assert guest.name == "test"
    assert hypervisor.states() == {guest.uuid: PowerState.RUNNING}
    assert hypervisor.guest(guest.uuid).uuid == guest.uuid
    assert guest.info().state == PowerState.RUNNING
    assert "<name>test</name>" in guest.xml()
    guest.suspend()
    assert guest.wait(PowerState.PAUSED, 1, "paused") == PowerState.PAUSED
    guest.resume()
    guest.destroy()
    guest.destroy()
    assert guest.state() == PowerState.SHUTDOWN
    guest.undefine()
    guest.undefine()
    with pytest.raises(InstanceNotFound):
        guest.state()


def test_events_arrive(hypervisor: Hypervisor) -> None:
    (guest,) = hypervisor.guests()
    with guest.watch() as watch:
        guest.suspend()
        event = watch.wait(lambda heard: heard.transition is not None, timeout=5, what="an event")
    assert (event.uuid, event.transition) == (guest.uuid, Transition.PAUSED)


def test_networks(hypervisor: Hypervisor) -> None:
    (network,) = hypervisor.networks()
    assert (network.name, network.active, network.bridge) == ("default", True, "virbr0")
    hypervisor.start_network("default")
    with pytest.raises(NetworkNotFound, match="network nowhere does not exist"):
        hypervisor.start_network("nowhere")


def test_closed_and_used_again(hypervisor: Hypervisor) -> None:
    hypervisor.listen(lambda event: None)
    hypervisor.close()
    hypervisor.close()
    assert len(hypervisor.states()) == 1
    assert hypervisor.generation == 2


def test_errors_are_ours_and_silent(hypervisor: Hypervisor, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InstanceNotFound):
        hypervisor.guest("00000000-0000-4000-8000-000000000000")
    with pytest.raises(HypervisorError):
        hypervisor.define("<domain")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+unix:///system?socket=/nonexistent/socket", "No such file"),
        ("nonsense:///system", "nonsense"),
        ("test+tcp://127.0.0.1:1/default", "refused"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence(uri: str, words: str) -> None:
    with pytest.raises(HypervisorUnavailable, match=words) as caught:
        Hypervisor(uri, connect_timeout=5).open()
    assert str(caught.value).startswith(f"libvirt at {uri} cannot be reached: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not Hypervisor(uri).alive()


def test_no_permission_is_told_apart() -> None:
    import libvirt

    error = libvirt.libvirtError("x")
    error.err = (
        38,
        7,
        "Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied",
        2,
        None,
        None,
        None,
        13,
        -1,
    )
    told = dial.explain(error, "qemu:///system")
    assert isinstance(told, PermissionDenied)
    assert told.exit_code == 5
    assert "group libvirt" in (told.hint or "")
    hint = getattr(dial.explain(error, "qemu:///session"), "hint", "") or ""
    assert "XDG_RUNTIME_DIR" in hint, "no group helps where the directory is somebody else's, as after su"


@pytest.mark.parametrize(
    ("uri", "package"), [("qemu:///session", "libvirt-daemon-driver-qemu"), ("qemu:///system", "libvirt-daemon-system")]
)
def test_a_daemon_that_is_not_installed_is_told_apart(
    uri: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt's library only says that there is no socket, also where nobody could start anything."""
    import libvirt

    error = libvirt.libvirtError("x")
    said = "Failed to connect socket to '/home/me/.cache/libvirt/libvirt-sock': No such file or directory"
    error.err = (38, 7, said, 2, None, None, None, 2, -1)
    monkeypatch.setattr(run, "PATH", str(tmp_path))
    told = dial.explain(error, uri)
    assert isinstance(told, HypervisorUnavailable)
    assert "libvirtd) is not installed" in str(told)
    assert package in (told.hint or "")

    (tmp_path / "libvirtd").touch(mode=0o755)
    hint = getattr(dial.explain(error, uri), "hint", "") or ""
    assert ("systemctl" in hint) is (uri == "qemu:///system"), "no service stands behind a session"
    assert "libvirtd" in hint


@pytest.mark.parametrize("said", ["Connection refused", "Permission denied"])
def test_a_libvirt_elsewhere_is_told_apart(said: str) -> None:
    import libvirt

    error = libvirt.libvirtError("x")
    error.err = (38, 7, f"unable to connect to server at 'far:16509': {said}", 2, None, None, None, 111, -1)
    told = dial.explain(error, "qemu+tcp://me@far:16509/system")
    assert getattr(told, "hint", "") == "does libvirt run on far, and does it let you in?"


# --- the session daemon ----------------------------------------------------------------------------------------------


def test_where_session_daemons_listen() -> None:
    assert session.runtime_directory({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/libvirt")
    assert session.runtime_directory({"XDG_CACHE_HOME": "/c"}) == Path("/c/libvirt")
    assert session.runtime_directory({}) == Path.home() / ".cache/libvirt"


def test_where_it_listens_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As GLib has it; never a directory called ~ where we happen to be."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert session.runtime_directory({}) == Path("/.cache/libvirt")


def test_other_addresses_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_start", lambda *args, **options: pytest.fail("a daemon was started"))
    for uri in ("qemu:///system", "qemu+ssh://host/session", "qemu+unix:///session?socket=/x", "test:///default"):
        assert session.prepare(uri, hide_kvm=True) == uri
    assert session.is_session("qemu+unix:///session?socket=/x")
    assert not session.is_session("qemu:///system")


def test_a_quick_look_at_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens and never answers: `cowshed ls` must not wait for it for ever."""
    (tmp_path / "libvirt").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(look, "PATIENCE", 0.3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(str(tmp_path / "libvirt" / look.SOCKETS[0]))
        daemon.listen()
        before = time.monotonic()
        assert look.states() is None
        assert 0.3 <= time.monotonic() - before < 5


def test_the_command_that_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KVM", tmp_path / "kvm")
    absent = session.command("/usr/sbin/libvirtd", tmp_path, hide=True, root=True)
    assert absent[absent.index("-c") + 2] == "", "nothing can be mounted over what is not there"
    (tmp_path / "kvm").touch()
    hidden = session.command("/usr/sbin/libvirtd", tmp_path, hide=True, root=True)
    assert hidden[-3:] == ["/usr/sbin/libvirtd", "--timeout=120", "--daemon"]
    stand_in = Path(hidden[hidden.index("-c") + 2])
    assert stand_in.stat().st_mode & 0o777 == 0
    assert "--user" not in hidden[: hidden.index("--")]  # root mounts as itself, then becomes somebody else
    plain = session.command("/usr/sbin/libvirtd", tmp_path, hide=False, root=True)
    assert plain[plain.index("-c") + 2] == ""


def test_whether_kvm_is_hidden_is_asked_only_when_a_daemon_must_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(session.os, "geteuid", lambda: 0)
    started: list[bool] = []

    def start(folder: Path, *, hide: bool, root: bool) -> Path:
        started.append(hide)
        return folder / "libvirt-sock"

    monkeypatch.setattr(session, "_start", start)
    address = session.prepare("qemu:///session", hide_kvm=lambda: True)
    assert address == f"qemu+unix:///session?socket={tmp_path}/libvirt/libvirt-sock"
    monkeypatch.setattr(session, "answering", lambda folder: folder / "libvirt-sock")
    assert session.prepare("qemu:///session", hide_kvm=lambda: pytest.fail("asked in vain")) == address
    assert started == [True]
