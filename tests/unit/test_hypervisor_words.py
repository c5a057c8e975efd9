"""What QEMU and libvirt say in words, as they really said it, becomes the right error with the right fields."""

from __future__ import annotations

import pytest

from cowshed import errors
from cowshed.hypervisor import words

START = "internal error: process exited while connecting to monitor: 2026-11-20T20:38:15.900065Z qemu-system-x86_64: "
CLOSED = "internal error: qemu unexpectedly closed the monitor: 2026-11-20T20:38:17.758153Z qemu-system-x86_64: "

BRIDGE = (
    "/usr/lib/qemu/qemu-bridge-helper --br=br99 --fd=27: failed to communicate with bridge helper: "
    "stderr=failed to parse default acl file `/etc/qemu/bridge.conf'\n: Transport endpoint is not connected"
)


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        (
            START + "-netdev user,id=n,hostfwd=tcp:127.0.0.1:38437-:22: "
            "Could not set up host forwarding rule 'tcp:127.0.0.1:38437-:22'",
            errors.PortInUse,
            {"port": 38437, "address": "127.0.0.1"},
        ),
        (
            CLOSED + "-vnc 127.0.0.1:99,audiodev=audio1: Failed to find an available port: Address already in use",
            errors.PortInUse,
            {"port": 5999, "address": "127.0.0.1"},
        ),
        (
            CLOSED + "-chardev socket,id=charserial0,host=127.0.0.1,port=38437,server=on,wait=off: "
            "Failed to find an available port: Address already in use",
            errors.PortInUse,
            {"port": 38437, "address": "127.0.0.1"},
        ),
        (
            START + "cannot set up guest memory 'pc.ram': Cannot allocate memory",
            errors.HostUnsuitable,
            {"reason": "there is not enough memory for web"},
        ),
        (
            "Cannot access storage file '/nonexistent/x': No such file or directory",
            errors.DiskNotFound,
            {"name": "/nonexistent/x"},
        ),
        (
            "Cannot access storage file '/x/y' (as uid:64055, gid:64055): Permission denied",
            errors.PermissionDenied,
            {"path": "/x/y"},
        ),
        (
            START + '-blockdev {"driver":"file"}: Could not open \'/var/disk\': Permission denied',
            errors.PermissionDenied,
            {"path": "/var/disk"},
        ),
        ("Network not found: no network with matching name 'nowhere'", errors.NetworkNotFound, {"name": "nowhere"}),
        ("Cannot get interface MTU on 'br9': No such device", errors.NetworkNotFound, {"name": "br9"}),
        (
            BRIDGE,
            errors.PermissionDenied,
            {"path": "br99"},
        ),
        (
            "operation failed: domain 'web' already exists with uuid 1111",
            errors.NameTaken,
            {"kind": "domain", "name": "web"},
        ),
        ("Cannot check QEMU binary /nonexistent: No such file", errors.ToolMissing, {"tool": "/nonexistent"}),
        (
            "invalid argument: unable to find any emulator to serve 'x86_64' architecture",
            errors.ToolMissing,
            {"tool": "qemu-system"},
        ),
        ("Failed to write: No space left on device", errors.NoSpace, {"place": "the host of web"}),
        ("operation failed: Active console session exists for this domain", errors.Busy, {}),
    ],
)
def test_known_words(text: str, kind: type[errors.CowshedError], fields: dict[str, object]) -> None:
    error = words.meaning(words.clean(text), "web")
    assert type(error) is kind
    assert {name: error.fields[name] for name in fields} == fields
    assert "\n" not in f"{error} {error.hint}"


def test_unknown_words_mean_nothing() -> None:
    assert words.meaning("something new", "web") is None


def test_what_stands_before_the_point_is_left_out() -> None:
    assert words.clean(START + "Image is not in\n qcow2 format.") == "Image is not in qcow2 format"
    assert words.clean("internal error: odd") == "odd"
    assert words.clean("plain words") == "plain words"
