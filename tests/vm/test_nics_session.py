"""Interfaces of a guest of an ordinary user's libvirt: what can be plugged, what cannot, and what is known afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cowshed.errors import InstanceNotFound, InvalidRequest, InvalidState, NetworkNotFound, UnsupportedOperation
from cowshed.model.instance import Instance
from cowshed.model.vif import PortForward, Vif, VifType
from tests.vm.machines import Machines, free_port


@pytest.fixture(scope="module")
def running(house: Machines) -> Instance:
    instance = house.spawn(house.image(), vifs=[Vif("first", "52:54:00:00:01:01")])
    house.wait(instance, "cowshed-guest: up")
    return instance


def known(house: Machines, instance: Instance) -> list[str]:
    """The addresses that the domain remembers, for calls that do not name them."""
    from cowshed.driver.steps import locate

    return [
        vif.address
        for vif in locate.remembered_vifs(house.driver.rooms, house.driver.rooms.hypervisor.guest(instance.uuid))
    ]


def seen(house: Machines, instance: Instance, *, inactive: bool = False) -> list[str]:
    from cowshed.domain import read

    guest = house.driver.rooms.hypervisor.guest(instance.uuid)
    return [one.address for one in read.interfaces(guest.xml(inactive=inactive))]


FIRST, SECOND = "52:54:00:00:01:01", "52:54:00:00:01:02"


def test_a_guest_sees_an_interface_come_and_go(house: Machines, running: Instance) -> None:
    vif = Vif("second", SECOND)
    house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    house.wait(running, f"cowshed-guest: nic eth1 {SECOND}")
    assert known(house, running) == seen(house, running) == seen(house, running, inactive=True) == [FIRST, SECOND]
    with pytest.raises(InvalidRequest, match="already"):
        house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    house.driver.detach_interface(running, vif)
    house.wait(running, "cowshed-guest: nic eth1 gone")
    assert known(house, running) == seen(house, running) == seen(house, running, inactive=True) == [FIRST]
    house.driver.detach_interface(running, vif)  # gone already is success
    gone = replace(running, uuid="2dd1c88f-fcc9-42a5-996b-fd12a32ba287")
    house.driver.inject_network_info(
        gone, [vif]
    )  # nothing to be told of what is not there; who must know uses the other
    with pytest.raises(InstanceNotFound):
        house.driver.tell_network(gone, [vif])
    house.driver.unplug_vifs(running, [vif])
    house.driver.plug_vifs(running, [vif])
    house.driver.plug_vifs(running, [vif])


def test_an_interface_that_leads_nowhere_takes_no_address(house: Machines, running: Instance) -> None:
    """What `--network none` leaves in the domain's memory, whose address is derived like that of any other."""
    first, nowhere, vif = Vif("first", FIRST), Vif("nowhere", SECOND, VifType.NONE), Vif("second", SECOND)
    house.driver.inject_network_info(running, [first, nowhere])
    house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    assert known(house, running) == seen(house, running) == [FIRST, SECOND]
    house.driver.detach_interface(running, vif)
    assert known(house, running) == seen(house, running) == [FIRST]


@pytest.mark.parametrize(
    ("vif", "error"),
    [
        (Vif("f", SECOND, forwards=(PortForward(1, 22),)), UnsupportedOperation),
        (Vif("b", SECOND, VifType.BRIDGE, "no-bridge"), NetworkNotFound),
        (Vif("m", SECOND, VifType.MACVTAP, "lo"), UnsupportedOperation),
        (Vif("g", SECOND, groups=("web",)), InvalidRequest),
        (Vif("n", SECOND, VifType.NONE), InvalidRequest),
        (Vif("d", FIRST), InvalidRequest),
    ],
    ids=lambda one: one.id if isinstance(one, Vif) else "",
)
def test_what_cannot_be_plugged_is_refused_before_anything_is_done(
    house: Machines, running: Instance, vif: Vif, error: type[Exception]
) -> None:
    if vif.forwards:
        vif = Vif(vif.id, vif.address, forwards=(PortForward(free_port(), 22),))
    guest = house.driver.rooms.hypervisor.guest(running.uuid)
    before = guest.xml(), guest.xml(inactive=True)
    with pytest.raises(error):
        house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    assert (guest.xml(), guest.xml(inactive=True)) == before


def test_a_stopped_guest_gets_what_a_running_one_cannot(house: Machines, running: Instance) -> None:
    driver, image = house.driver, house.driver.remembered_image(running)
    driver.suspend(None, running)
    with pytest.raises(InvalidState, match="suspended; it cannot be given or deprived of an interface"):
        driver.attach_interface(running, image, Vif("second", SECOND))
    driver.power_off(running)
    port = free_port()
    forwarded = Vif("second", SECOND, forwards=(PortForward(port, 80),))
    third = Vif("third", "52:54:00:00:01:03")
    driver.attach_interface(running, image, forwarded)
    driver.attach_interface(running, image, third)
    assert known(house, running) == [FIRST, SECOND, third.address]
    assert seen(house, running, inactive=True) == [FIRST, third.address]
    driver.detach_interface(running, third)
    driver.power_on(None, running, [Vif("first", FIRST), forwarded])
    house.wait(running, f"cowshed-guest: nic eth[01] {SECOND}")
    with pytest.raises(UnsupportedOperation, match="port forwards"):
        driver.detach_interface(running, forwarded)
    assert known(house, running) == [FIRST, SECOND]
    with pytest.raises(UnsupportedOperation, match="port forwards"):
        driver.set_link(running, forwarded, up=False)
    driver.reset_network(running)
    assert [(one.address, one.up) for one in driver.interfaces(running)] == [(FIRST, True)]


def test_an_instance_that_is_gone(house: Machines, running: Instance) -> None:
    from dataclasses import replace

    gone = replace(running, uuid="00000000-0000-4000-8000-00000000dead")
    vif = Vif("v", SECOND)
    with pytest.raises(InstanceNotFound):
        house.driver.attach_interface(gone, house.driver.remembered_image(gone), vif)
    house.driver.detach_interface(gone, vif)
    house.driver.unfilter_instance(gone, [vif])
    house.driver.refresh_instance_security_rules(gone)
    house.driver.inject_network_info(gone, [vif])
    with pytest.raises(InstanceNotFound):
        house.driver.reset_network(gone)


def test_links_and_network_data(house: Machines, running: Instance) -> None:
    first = Vif("first", FIRST)
    house.driver.set_link(running, first, up=False)
    assert [one.up for one in house.driver.interfaces(running)] == [False]
    house.driver.set_link(running, first, up=True)
    house.driver.reset_network(running)
    assert [one.up for one in house.driver.interfaces(running)] == [True]
    house.driver.inject_network_info(running, [first])
    assert known(house, running) == [FIRST]
