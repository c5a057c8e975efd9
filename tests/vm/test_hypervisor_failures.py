"""libvirt that goes away, hangs, was never there: what the connection makes of it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cowshed.errors import CowshedError, HypervisorUnavailable, InstanceNotFound, PermissionDenied
from cowshed.hypervisor import GuestEvent, Hypervisor, session
from cowshed.model.event import Transition
from cowshed.model.host import VirtType
from cowshed.model.instance import PowerState
from cowshed.tools import run
from tests.vm.conftest import MakeXml, end, start_daemon


def pid_of(home: Path) -> int:
    return int((home / "run/libvirt/libvirtd.pid").read_text())


def connected(home: Path) -> Hypervisor:
    return Hypervisor(f"qemu+unix:///session?socket={home}/run/libvirt/libvirt-sock")


def test_the_embedded_default_starts_its_daemon(home: Path, tmp_path: Path) -> None:
    """Root and ordinary users: nothing runs, one call later there is a daemon that knows no KVM and stays a while."""
    hypervisor = Hypervisor("qemu:///session", hide_kvm=True)
    assert hypervisor.states() == {}
    assert hypervisor.session
    first = pid_of(home)
    if Path("/dev/kvm").exists():  # what is not there needs no hiding
        assert os.readlink(f"/proc/{first}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        assert stat.S_ISREG((home / "run/libvirt/no-kvm").stat().st_mode)
    with pytest.raises(CowshedError, match="kvm"):
        hypervisor.capabilities(cache=tmp_path / "c", virt_type=VirtType.KVM)
    hypervisor.close()
    other = Hypervisor("qemu:///session", hide_kvm=True)
    assert other.alive()
    assert pid_of(home) == first  # it is used, not started again
    other.close()


_AT_ONCE = """
import threading
from cowshed.errors import CowshedError
from cowshed.hypervisor import Hypervisor

found = []

def ask():
    try:
        with Hypervisor("qemu:///session", hide_kvm=True) as hypervisor:
            found.append(hypervisor.states())
    except CowshedError as error:
        found.append(error)

threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
print(found)
"""


@pytest.mark.usefixtures("home")
def test_two_who_start_it_at_once_share_one_daemon() -> None:
    """In a process of their own: libvirt's library remembers where an ordinary user's sockets were when it first looked."""
    done = subprocess.run([sys.executable, "-c", _AT_ONCE], capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (0, "[{}, {}, {}, {}]\n"), done.stdout + done.stderr


def test_a_killed_daemon_is_found_again(home: Path, tiny_xml: MakeXml) -> None:
    """kill -9 in the middle: the call that could change something says so, the next works, guests go on."""
    start_daemon()
    with connected(home) as hypervisor:
        guest = hypervisor.define(tiny_xml("lasting"))
        guest.start(paused=True)
        before = hypervisor.generation

        end(pid_of(home), signal.SIGKILL)
        with pytest.raises(HypervisorUnavailable) as caught:
            guest.resume()
        assert "cannot be reached" in str(caught.value)
        assert caught.value.hint

        start_daemon()
        assert guest.state() == PowerState.PAUSED  # QEMU lives on, the handle is good
        assert hypervisor.generation > before
        guest.resume()
        guest.wait(PowerState.RUNNING, 10, "running")
        guest.destroy()
        guest.undefine()
        with pytest.raises(InstanceNotFound):
            guest.xml()


def test_a_call_under_way_when_the_daemon_is_killed(home: Path, tiny_xml: MakeXml) -> None:
    start_daemon()
    with connected(home) as hypervisor:
        guest = hypervisor.define(tiny_xml("cut"))
        os.kill(pid_of(home), signal.SIGSTOP)
        outcome: list[object] = []

        def call() -> None:
            try:
                outcome.append(guest.start())
            except CowshedError as error:
                outcome.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.3)
        end(pid_of(home), signal.SIGKILL)
        thread.join(10)
        assert isinstance(outcome[0], HypervisorUnavailable)
        start_daemon()
        assert guest.state() == PowerState.SHUTDOWN  # read, not assumed


def test_waiting_and_listening_survive_a_restart(home: Path, tiny_xml: MakeXml) -> None:
    """What happened while libvirt was away is told afterwards."""
    start_daemon()
    heard: list[GuestEvent] = []
    with connected(home) as hypervisor:
        hypervisor.listen(heard.append)
        guest = hypervisor.define(tiny_xml("steady"))
        guest.start()
        outcome: list[object] = []

        def wait() -> None:
            try:
                outcome.append(guest.wait(PowerState.SHUTDOWN, 60, "off"))
            except CowshedError as error:
                outcome.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        qemu = int(next(home.rglob("steady.pid")).read_text())
        end(pid_of(home), signal.SIGKILL)
        end(qemu, signal.SIGKILL)
        time.sleep(0.5)
        assert thread.is_alive()
        start_daemon()
        thread.join(20)
        assert outcome == [PowerState.SHUTDOWN]
        deadline = time.monotonic() + 10
        while not any(event.transition == Transition.STOPPED for event in heard) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [event.transition for event in heard][-1] == Transition.STOPPED

        begun = len(heard)
        guest.start(paused=True)  # events come again over the new connection
        deadline = time.monotonic() + 5
        while not heard[begun:] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert Transition.STARTED in [event.transition for event in heard[begun:]]
        guest.destroy()


@pytest.mark.slow
def test_a_daemon_that_hangs_fails_calls_in_bounded_time(home: Path) -> None:
    pid = start_daemon()
    with connected(home) as hypervisor:
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            with pytest.raises(HypervisorUnavailable):
                hypervisor.call("list", lambda c: c.listAllDomains(0))
            assert time.monotonic() - begin < 30
        finally:
            os.kill(pid, signal.SIGCONT)


def test_connecting_to_a_daemon_that_hangs_has_a_deadline(home: Path) -> None:
    pid = start_daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        with pytest.raises(HypervisorUnavailable, match=r"did not answer within 0\.5 s"):
            Hypervisor(connected(home).uri, connect_timeout=0.5).open()
        assert time.monotonic() - begin < 2
    finally:
        os.kill(pid, signal.SIGCONT)


def test_no_daemon_no_permission(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HypervisorUnavailable) as caught:
        connected(home).open()
    assert caught.value.hint

    if os.geteuid() == 0:
        monkeypatch.setattr(run, "PATH", "/nonexistent")
        with pytest.raises(HypervisorUnavailable, match="is not installed") as caught:
            Hypervisor("qemu:///session").open()
        assert "libvirt-daemon" in (caught.value.hint or "")
        monkeypatch.undo()


def test_a_socket_that_may_not_be_used(home: Path) -> None:
    """Asked by a user who has no right to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: becomes another user")
    start_daemon()
    home.chmod(0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        words = "nothing"
        try:
            os.setgid(65534)
            os.setuid(65534)
            connected(home).open()
        except PermissionDenied as error:
            words = f"denied: {error} | {error.hint}"
        except BaseException as error:
            words = f"{type(error).__name__}: {error}"
        os.write(writer, words.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    words = os.read(reader, 4096).decode()
    os.close(reader)
    assert words.startswith("denied: no permission to use libvirt"), words
    assert "group libvirt" in words


def test_the_daemon_of_an_ordinary_user(home: Path) -> None:
    """The command for a user who may open KVM is tried as one: it mounts in a namespace of its own."""
    folder = session.runtime_directory()
    folder.mkdir(exist_ok=True, parents=True)
    words = session.command("/bin/true", folder, hide=True, root=False)
    assert "--map-root-user" in words
    assert words[-3] == "/bin/true"
    if os.geteuid() == 0:
        probe = "test ! -r /dev/kvm && id -u"
        words = [*words[:-3], "sh", "-c", probe]
        home.chmod(0o755)
        (home / "run").chmod(0o755)
        words[words.index("0")] = "65534"  # the user to be
        words[words.index("0")] = "65534"
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*become, *words], capture_output=True, timeout=10, check=False)
        if b"Operation not permitted" in done.stderr:
            pytest.skip("ordinary users have no namespaces here")
        assert done.stdout.strip() == b"65534", done.stderr


def test_the_daemon_sees_what_is_mounted_after_it_started(home: Path) -> None:
    """A file system that the host mounts later is there for instances too, and its unmounting is not held up."""
    folder = session.runtime_directory()
    folder.mkdir(exist_ok=True, parents=True)
    for root in (True, False):
        words = session.command("/bin/true", folder, hide=True, root=root)
        assert words[words.index("--propagation") + 1] == "slave"
    if os.geteuid() != 0:
        return  # nobody else mounts
    place = home / "later"
    place.mkdir()
    script = f"while ! test -e {place}/disk/seen; do sleep 0.05; done; echo seen"
    words = session.command("/bin/true", folder, hide=False, root=True)
    words = [*words[:-3], "sh", "-c", script]
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True, timeout=10)
    try:
        subprocess.run(["mount", "--make-shared", str(place)], check=True, timeout=10)  # as systemd has all of them
        (place / "disk").mkdir()
        with subprocess.Popen(words, stdout=subprocess.PIPE) as daemon:
            try:
                time.sleep(0.3)
                subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "disk")], check=True, timeout=10)
                (place / "disk" / "seen").touch()
                assert daemon.communicate(timeout=10)[0].strip() == b"seen"
            finally:
                daemon.kill()
    finally:
        subprocess.run(["umount", "--lazy", "--recursive", str(place)], check=False, timeout=10)
