"""Endpoints: what the live domain says, or a typed error."""

from __future__ import annotations

from typing import Any

import pytest

from cowshed.console import endpoints
from cowshed.errors import InvalidState, UnsupportedOperation
from cowshed.model.console import SerialConsole, SpiceConsole, VncConsole
from cowshed.model.instance import PowerState


class Live:
    """A guest that says what it is told to say."""

    name = "web"

    def __init__(self, devices: str, state: PowerState = PowerState.RUNNING) -> None:
        self._devices, self._state = devices, state

    def state(self) -> PowerState:
        return self._state

    def xml(self, *, inactive: bool = False) -> str:
        return f"<domain><devices>{self._devices}</devices></domain>"


def live(devices: str, state: PowerState = PowerState.RUNNING) -> Any:
    return Live(devices, state)


VNC = "<graphics type='vnc' port='{port}'><listen type='address' address='{address}'/></graphics>"


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("192.0.2.7", "192.0.2.7")],
)
def test_vnc(address: str, host: str) -> None:
    assert endpoints.vnc(live(VNC.format(port=5901, address=address))) == VncConsole(host, 5901)


def test_spice() -> None:
    both = "<graphics type='spice' port='5902' tlsPort='5903' listen='127.0.0.1'/>"
    assert endpoints.spice(live(both)) == SpiceConsole("127.0.0.1", 5902, None, 5903)
    secure = "<graphics type='spice' port='-1' tlsPort='5903' listen='127.0.0.1'/>"
    assert endpoints.spice(live(secure)) == SpiceConsole("127.0.0.1", 0, None, 5903)


def test_serial() -> None:
    tcp = "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='10000'/></serial>"
    assert endpoints.serial(live(f"<serial type='pty'/>{tcp}")) == SerialConsole("127.0.0.1", 10000)


@pytest.mark.parametrize(
    "devices",
    [
        "",
        VNC.format(port=-1, address="127.0.0.1"),
        "<graphics type='vnc' socket='/run/vnc'/>",
        "<graphics type='spice'/>",
        "<serial type='tcp'><source mode='connect' host='h' service='1'/></serial>",
    ],
)
def test_none_there(devices: str) -> None:
    for ask in (endpoints.vnc, endpoints.spice, endpoints.serial):
        with pytest.raises(UnsupportedOperation, match="web cannot show a"):
            ask(live(devices))


@pytest.mark.parametrize("state", [PowerState.SHUTDOWN, PowerState.CRASHED])
def test_a_stopped_instance_has_no_consoles(state: PowerState) -> None:
    with pytest.raises(InvalidState, match="web is not running"):
        endpoints.vnc(live(VNC.format(port=5901, address=""), state))
