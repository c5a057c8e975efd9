"""The connection to Ceph: shared, made anew when broken, and never waited for without end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowshed.clock import using
from cowshed.errors import ConfigError, CowshedError, DeadlineExceeded, NotFound, PermissionDenied
from cowshed.model.disk import NetworkHost
from cowshed.testing import FakeClock
from cowshed.tools.rbd import Access, Cluster, Pool, cluster
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)

MiB = 1 << 20


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.fixture
def access(ceph: Ceph) -> Access:
    return Access(ceph_conf=str(ceph.conf))


# --- one connection -------------------------------------------------------------------------------


def test_threads_share_one_connection(access: Access, rbd_pool: str) -> None:
    found: list[Any] = []

    def work() -> None:
        Pool(cluster(access), rbd_pool).images("nothing")
        found.append(cluster(access).rados())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert cluster(access) is cluster(Access(ceph_conf=access.ceph_conf))


def test_a_child_process_makes_its_own(access: Access, rbd_pool: str) -> None:
    pool = Pool(cluster(access), rbd_pool)
    pool.images()
    mine = pool.cluster.rados()
    pid = os.fork()
    if pid == 0:
        try:
            pool.create("from-the-child", MiB)
            os._exit(0 if pool.cluster.rados() is not mine else 2)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert pool.exists("from-the-child")
    assert pool.cluster.rados() is mine


def test_children_are_clients_of_their_own(access: Access) -> None:
    """librados draws a client's number from a generator that a fork copies: siblings would be one client.

    The cluster shuts out a client that died with a lock, and with it all that have its number.
    """
    cluster(access).rados()
    found = []
    for _ in range(3):
        receiving, sending = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(sending, cluster(access).rados().get_addrs().encode())
            finally:
                os._exit(0)
        os.close(sending)
        with open(receiving) as pipe:
            found.append(pipe.read())
        os.waitpid(pid, 0)
    assert all(found)
    assert len({*found, cluster(access).rados().get_addrs()}) == 4


def test_a_client_that_was_shut_out_connects_anew(ceph: Ceph, rbd_pool: str) -> None:
    found = Cluster(Access(ceph_conf=str(ceph.conf)))
    pool = Pool(found, rbd_pool)
    pool.create("before", MiB)
    address = found.rados().get_addrs()
    ceph.command("osd", "blocklist", "add", address, 60)
    deadline = time.monotonic() + 60
    with pytest.raises(CowshedError, match="shut this client out"):
        while time.monotonic() < deadline:
            pool.exists("before")
    assert pool.exists("before")
    assert found.rados().get_addrs() != address


_OPENER = """
import pathlib, sys
from cowshed.tools.rbd import Access, Cluster, Pool
conf, name = sys.argv[1:]
pool = Pool(Cluster(Access(ceph_conf=conf)), name)
pool.create("opened", 1 << 20)
pool.take("opened", "snap")
for _ in range(200):
    pool.size("opened", "snap")
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print(names.count("io_context_pool"))
"""


def test_an_image_is_opened_and_closed_quickly(ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
    """librbd 16.2 with several threads uses the freed memory of a snapshot that was closed right after it was opened.

    Where glibc overwrites what is freed, that ends the process within some ten images; otherwise, now and then.
    """
    conf = tmp_path / "ceph.conf"
    several = "librados thread count = 4\nrbd op threads = 4"
    conf.write_text(ceph.conf.read_text().replace("[client]\n", f"[client]\n{several}\n"))
    assert several in conf.read_text()
    done = subprocess.run(
        [sys.executable, "-c", _OPENER, conf, rbd_pool], env={**os.environ, "MALLOC_PERTURB_": "165"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_what_a_cluster_says_of_itself(ceph: Ceph, access: Access, rbd_pool: str) -> None:
    found = cluster(access)
    assert found.fsid == ceph.fsid
    assert found.uses_cephx()
    assert f"key = {found.key()}\n" in ceph.keyring.read_text()
    port = int(ceph.conf.read_text().partition("v2:127.0.0.1:")[2].partition(",")[0])
    assert found.monitors() == (NetworkHost("127.0.0.1", port), NetworkHost("127.0.0.1", port + 1))
    capacity = Pool(found, rbd_pool).capacity()
    assert 0 < capacity.free <= capacity.total


def test_the_key_is_found_wherever_ceph_finds_it(ceph: Ceph, tmp_path: Path) -> None:
    """Also where ceph.conf says nothing of authentication, or names the key itself."""
    text = ceph.conf.read_text()
    key = cluster(Access(ceph_conf=str(ceph.conf))).key()
    silent = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("auth client"))
    (tmp_path / "key").write_text(f"{key}\n")
    for number, conf in enumerate(
        (
            silent,
            text.replace(f"keyring = {ceph.place}/$name.keyring", f"key = {key}"),
            text.replace(f"keyring = {ceph.place}/$name.keyring", f"keyfile = {tmp_path}/key"),
        )
    ):
        path = tmp_path / f"ceph{number}.conf"
        path.write_text(conf)
        found = Cluster(Access(ceph_conf=str(path)))
        assert found.uses_cephx()
        assert found.key() == key


def test_monitors_on_ipv6(other_ceph: Callable[..., Ceph]) -> None:
    found = cluster(Access(ceph_conf=str(other_ceph("--ipv6").conf)))
    assert {host.name for host in found.monitors()} == {"::1"}


# --- no connection ----------------------------------------------------------------------------------


def test_monitors_that_do_not_answer(ceph: Ceph, tmp_path: Path) -> None:
    """They accept, and say nothing: librados by itself would wait five minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        conf = tmp_path / "ceph.conf"
        conf.write_text(f"[global]\nmon host = 127.0.0.1:{listener.getsockname()[1]}\nkeyring = {ceph.keyring}\n")
        silent = Cluster(Access(ceph_conf=str(conf), connect_timeout=2))
        with within(10), pytest.raises(DeadlineExceeded, match=r"connecting to the Ceph cluster of .*ceph\.conf"):
            silent.rados()


def test_no_monitors_there(ceph: Ceph, tmp_path: Path) -> None:
    conf = tmp_path / "ceph.conf"
    conf.write_text(f"[global]\nmon host = 127.0.0.1:9\nkeyring = {ceph.keyring}\n")
    with within(10), pytest.raises(DeadlineExceeded):
        Cluster(Access(ceph_conf=str(conf), connect_timeout=2)).rados()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    """Not \"RADOS object not found\"."""
    with pytest.raises(ConfigError, match=r"gone\.conf: it is not there"):
        Cluster(Access(ceph_conf=str(tmp_path / "gone.conf"))).rados()


def test_a_silent_cluster_is_waited_for_once_by_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, using(FakeClock()) as turned:
        conf = tmp_path / "ceph.conf"
        conf.write_text(f"[global]\nmon host = 127.0.0.1:{listener.getsockname()[1]}\nauth client required = none\n")
        silent = Cluster(Access(ceph_conf=str(conf), connect_timeout=2))
        with pytest.raises(DeadlineExceeded) as first:
            silent.rados()
        with within(1), pytest.raises(DeadlineExceeded) as second:
            silent.rados()
        assert str(second.value) == str(first.value)
        turned.sleep(2)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            silent.rados()
        assert time.monotonic() - began > 1


def test_a_configuration_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Cluster(Access(ceph_conf=str(tmp_path / "nowhere"))).rados()


def test_a_key_the_cluster_does_not_know(ceph: Ceph, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.admin]\nkey = AQCvCbtToC6MDhAATtuT70Sl+DymPCfDSsyV4w==\n")
    with within(10), pytest.raises(PermissionDenied, match=r"connect as client\.admin"):
        Cluster(Access(ceph_conf=str(ceph.conf), keyring=str(keyring))).rados()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing of Ceph\n",
        b"\x89PNG\r\n\x1a\n\xff\xfe\n",
        b"AQCvCbtToC6MDhAATtuT70Sl+DymPCfDSsyV4w==\n",
        b"[client.other]\nkey = AQCvCbtToC6MDhAATtuT70Sl+DymPCfDSsyV4w==\n",
    ],
    ids=["empty", "words", "binary", "a key alone", "another user's"],
)
def test_a_keyring_that_holds_no_key(ceph: Ceph, tmp_path: Path, content: bytes) -> None:
    """librados says "I/O error", or "permission denied"."""
    keyring = tmp_path / "keyring"
    keyring.write_bytes(content)
    with within(10), pytest.raises(ConfigError) as caught:
        Cluster(Access(ceph_conf=str(ceph.conf), keyring=str(keyring))).rados()
    assert str(caught.value) == f"the keyring {keyring}: it holds no key of client.admin"
    assert "[rbd] keyring" in caught.value.hint


def test_a_keyring_that_ceph_cannot_read(ceph: Ceph, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    for content in ("[client.admin]\nkey = no+base64!\n", f"no line of a keyring\n{ceph.keyring.read_text()}"):
        keyring.write_text(content)
        with within(10), pytest.raises(ConfigError, match=f"the keyring {keyring}: Ceph cannot read it"):
            Cluster(Access(ceph_conf=str(ceph.conf), keyring=str(keyring))).rados()
    with within(10), pytest.raises(ConfigError, match=f"the keyring {tmp_path}: it holds no key"):
        Cluster(Access(ceph_conf=str(ceph.conf), keyring=str(tmp_path))).rados()


def test_no_key_at_all(ceph: Ceph) -> None:
    with within(10), pytest.raises(PermissionDenied, match=r"connect as client\.nobody.*") as caught:
        Cluster(Access(ceph_conf=str(ceph.conf), user="nobody")).rados()
    assert caught.value.hint
    with pytest.raises(PermissionDenied):
        Cluster(Access(ceph_conf=str(ceph.conf), keyring="/nowhere")).rados()


def test_a_user_who_may_not_write(ceph: Ceph, rbd_pool: str) -> None:
    ceph.make_user("reader", mon="profile rbd", osd=f"profile rbd-read-only pool={rbd_pool}")
    pool = Pool(Cluster(Access(ceph_conf=str(ceph.conf), user="reader")), rbd_pool)
    pool.images()
    with pytest.raises(PermissionDenied):
        pool.create("forbidden", MiB)


def test_a_user_with_the_documented_rights(ceph: Ceph, rbd_pool: str) -> None:
    """What docs/rooms/disks.md says is enough for disks, bases and flattening in the background."""
    rights = {"mon": "profile rbd", "mgr": f"profile rbd pool={rbd_pool}", "osd": f"profile rbd pool={rbd_pool}"}
    ceph.make_user("cowshed", **rights)
    pool = Pool(Cluster(Access(ceph_conf=str(ceph.conf), user="cowshed")), rbd_pool)
    pool.create("parent", MiB)
    pool.take("parent", "s")
    pool.clone(pool, "parent", "s", "child")
    pool.grow_new("child", 2 * MiB)
    assert pool.size("child") == 2 * MiB
    pool.flatten_later("child")
    pool.capacity()
    assert pool.cluster.monitors()
    pool.remove("child")
    pool.remove("parent")


def test_a_pool_that_is_missing(access: Access) -> None:
    pool = Pool(cluster(access), "nowhere")
    for call in (lambda: pool.exists("x"), pool.images, pool.capacity, lambda: pool.create("x", MiB)):
        with within(10), pytest.raises(NotFound, match="pool nowhere does not exist"):
            call()


# --- a cluster that breaks --------------------------------------------------------------------------


def test_a_namespace_that_is_missing(access: Access, rbd_pool: str) -> None:
    there = Pool(cluster(access), rbd_pool, "nowhere")
    for call in (there.capacity, lambda: there.create("image", MiB)):
        with pytest.raises(NotFound, match=f"namespace {rbd_pool}/nowhere does not exist") as caught:
            call()
        assert f"rbd namespace create {rbd_pool}/nowhere" in caught.value.hint


def test_an_osd_and_a_manager_that_are_down(other_ceph: Callable[..., Ceph]) -> None:
    ceph = other_ceph("--size", "2G")
    pool = Pool(Cluster(Access(ceph_conf=str(ceph.conf), operation_timeout=3)), ceph.make_pool())
    pool.create("image", MiB)
    for snapshot in ("kept", "removed"):
        pool.take("image", snapshot)
        pool.protect("image", snapshot)
    pool.remove_snapshot("image", "removed")
    ceph.kill("osd.0", signal.SIGSTOP)
    for call in (lambda: pool.exists("image"), lambda: pool.create("other", MiB), lambda: pool.size("image")):
        with within(20), pytest.raises(DeadlineExceeded, match="an answer of the Ceph cluster"):
            call()
    ceph.kill("osd.0", signal.SIGCONT)
    deadline = time.monotonic() + 60
    while True:  # it must learn first that it was taken for dead
        try:
            assert pool.exists("image")
            break
        except DeadlineExceeded:
            assert time.monotonic() < deadline
    ceph.kill("mgr.x")
    with within(20), pytest.raises(DeadlineExceeded, match="manager"):
        pool.flatten_later("image")
    ceph.kill("mon.a", signal.SIGSTOP)
    with within(20), pytest.raises(DeadlineExceeded):
        pool.cluster.monitors()
    with within(20), pytest.raises(DeadlineExceeded, match="to find pool nowhere"):
        Pool(pool.cluster, "nowhere").exists("image")
    with within(20), pytest.raises(DeadlineExceeded, match="unprotect kept"):
        pool.remove_snapshot("image", "kept")


def test_protected_snapshots_are_removed_by_many_threads_at_once(access: Access, rbd_pool: str) -> None:
    """Unprotecting, librbd waits in a thread of its own for another one: as many at once as there are threads hung."""
    pool = Pool(cluster(access), rbd_pool)
    names = [f"protected-{number}" for number in range(6)]
    for name in names:
        pool.create(name, MiB)
        pool.take(name, "s")
        pool.protect(name, "s")
    threads = [threading.Thread(target=pool.remove_snapshot, args=(name, "s"), daemon=True) for name in names]
    with within(60):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [pool.snapshots(name) for name in names] == [()] * 6


def test_a_clone_whose_parent_was_in_a_pool_that_is_gone(ceph: Ceph) -> None:
    """librbd, waiting for the pool in its only thread, hung for good. It can remove such a clone, if that has no snapshot."""
    pool = Pool(Cluster(Access(ceph_conf=str(ceph.conf), operation_timeout=20)), ceph.make_pool())
    other = Pool(pool.cluster, ceph.make_pool())
    other.create("parent", MiB)
    other.take("parent", "s")
    for name in ("orphan", "alone"):
        pool.clone(other, "parent", "s", name)
    pool.take("orphan", "s")
    pool.clone(pool, "orphan", "s", "grandchild")
    assert pool.size("grandchild") == MiB
    ceph.command("osd", "pool", "rm", other.name, other.name, "--yes-i-really-really-mean-it")
    pool.cluster.rados().wait_for_latest_osdmap()  # with the map from before, librbd says that the image is not there
    for call in (
        lambda: pool.size("orphan"),
        lambda: pool.size("grandchild"),
        lambda: pool.rename("orphan", "other"),
        lambda: pool.clone(pool, "orphan", "s", "another"),
    ):
        with within(10), pytest.raises(NotFound, match=f"pool with a parent of {pool.name}/"):
            call()
    with within(40):
        pool.remove("grandchild")
        pool.remove("alone")
    assert pool.images() == ("orphan",)


def test_a_process_with_a_connection_ends_at_once(ceph: Ceph, rbd_pool: str) -> None:
    """Nothing of librados holds the interpreter back, and nothing is printed."""
    program = (
        "from cowshed.tools.rbd import Access, Pool, cluster\n"
        f"pool = Pool(cluster(Access(ceph_conf={str(ceph.conf)!r})), {rbd_pool!r})\n"
        "pool.images()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_pool_that_was_made_a_moment_ago(ceph: Ceph, access: Access) -> None:
    """Monitors know it before they have counted anything in it."""
    for _ in range(3):
        name = f"new-{time.monotonic_ns()}"
        ceph.command("osd", "pool", "create", name, 1)
        assert Pool(cluster(access), name).capacity().free > 0


def test_a_cluster_that_has_not_heard_of_its_osds_yet(
    access: Access, rbd_pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first answers know no room and no pool, for a moment after its start; that is no lack of space."""
    found = cluster(access)
    nothing = {"stats": {"total_bytes": 0, "total_avail_bytes": 0}, "pools": []}
    first, ask = [nothing, nothing], found.ask
    monkeypatch.setattr(found, "ask", lambda *words, **more: first.pop() if first else ask(*words, **more))
    Pool(found, rbd_pool).check_space(MiB)
    assert not first
