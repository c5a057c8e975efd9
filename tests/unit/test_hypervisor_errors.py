"""libvirt's errors become ours: the numbers are right, and each gives one clear sentence."""

from __future__ import annotations

import importlib
import sys

import pytest

from cowshed import errors as ours
from cowshed.hypervisor import Hypervisor, binding
from cowshed.hypervisor.errors import FROM_REMOTE, FROM_RPC, TABLE, Number, Translated, translate


class Told(Exception):
    """Stands for libvirtError."""

    def __init__(self, number: int, message: str, domain: int = 10, errno: int = 0) -> None:
        super().__init__(message)
        self.values = (number, message, domain, errno)

    def get_error_code(self) -> int:
        return self.values[0]

    def get_error_message(self) -> str:
        return self.values[1]

    def get_error_domain(self) -> int:
        return self.values[2]

    def get_int1(self) -> int:
        return self.values[3]


def told(number: int, message: str = "some words", domain: int = 10, *, action: str = "start") -> ours.CowshedError:
    return translate(Told(number, message, domain), uri="qemu:///session", action=action, subject="web")


def test_numbers_are_libvirts() -> None:
    libvirt = pytest.importorskip("libvirt", reason="the libvirt binding is not installed")
    for number in Number:
        assert getattr(libvirt, f"VIR_ERR_{number.name}") == number, number.name
    assert (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) == (FROM_RPC, FROM_REMOTE)


def test_every_entry_of_the_table_makes_an_error() -> None:
    for number in TABLE:
        error = told(number)
        assert str(error)
        assert error.number == number


@pytest.mark.parametrize(
    ("number", "words", "kind", "sentence"),
    [
        (Number.NO_DOMAIN, "Domain not found", ours.InstanceNotFound, "instance web does not exist"),
        (
            Number.OPERATION_INVALID,
            "Requested operation is not valid: domain is not running",
            ours.InvalidState,
            "instance web is not running; it cannot be started",
        ),
        (
            Number.OPERATION_INVALID,
            "Requested operation is not valid: domain is already running",
            ours.InvalidState,
            "instance web is already running; it cannot be started",
        ),
        (Number.AGENT_UNRESPONSIVE, "not connected", ours.UnsupportedOperation, "web cannot start: not connected"),
        (
            Number.OPERATION_FAILED,
            "operation failed: domain 'web' already exists with uuid 1",
            ours.NameTaken,
            "domain web exists already",
        ),
        (
            Number.INTERNAL_ERROR,
            "internal error: qemu unexpectedly closed the monitor: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:2222-:22'",
            ours.PortInUse,
            "port 2222 on 127.0.0.1 is in use",
        ),
        (
            Number.SYSTEM_ERROR,
            "cannot write: No space left on device",
            ours.NoSpace,
            "no space left in the host of web",
        ),
        (Number.ACCESS_DENIED, "denied", ours.PermissionDenied, "no permission to start web"),
        (Number.RESOURCE_BUSY, "held", ours.Busy, "web is locked by another operation"),
        (
            Number.INTERNAL_ERROR,
            "internal error: No more available PCI slots",
            ours.UnsupportedOperation,
            "web cannot take another device while it runs",
        ),
        (Number.INTERNAL_ERROR, "odd.", ours.HypervisorError, "libvirt refused to start web: odd"),
        (9999, "new in libvirt 99", ours.HypervisorError, "libvirt refused to start web: new in libvirt 99"),
    ],
)
def test_meanings(number: int, words: str, kind: type[ours.CowshedError], sentence: str) -> None:
    error = told(number, words)
    assert type(error) is kind
    assert str(error).startswith(sentence)


def test_a_silent_agent_is_told_of_in_a_sentence() -> None:
    error = told(Number.AGENT_UNRESPONSIVE, "not connected", action="set the password of root in")
    assert isinstance(error, ours.UnsupportedOperation)
    assert str(error) == "libvirt cannot set the password of root in web: not connected"
    assert "qemu-guest-agent" in str(error.hint)


@pytest.mark.parametrize("number", [Number.SYSTEM_ERROR, Number.INTERNAL_ERROR, Number.RPC])
def test_a_broken_connection_is_told_from_a_failed_call(number: int) -> None:
    lost = told(number, "Cannot recv data: Connection reset by peer", FROM_RPC)
    assert isinstance(lost, ours.HypervisorUnavailable)
    assert lost.hint
    assert not isinstance(told(number, "disk I/O failed", 10), ours.HypervisorUnavailable)


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), Translated("start", uri="u"):
        raise KeyError("x")
    lost: list[bool] = []
    with pytest.raises(ours.HypervisorUnavailable), Translated("start", uri="u", lost=lambda: lost.append(True)):
        raise Told(Number.INVALID_CONN, "gone")
    assert lost == [True]


def test_no_binding_is_one_sentence_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_modules", {})
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ours.HypervisorUnavailable, match="no usable libvirt binding") as caught:
        Hypervisor("test:///default").open()
    assert "python3-libvirt" in (caught.value.hint or "")


def test_nothing_is_imported_before_the_first_call() -> None:
    importlib.import_module("cowshed.hypervisor")
    Hypervisor("qemu:///session")  # no socket, no daemon, no binding
