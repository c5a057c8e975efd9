"""What ``test_ovs_real`` does beside the daemon of its lab: a guest on a real Open vSwitch, which runs in user space.

Run as a program in the namespaces; the last line it prints is ``all done``, each step before says what was seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from nics_inside import sh, step, until

from cowshed.errors import UnsupportedOperation
from cowshed.manager import Host, Machine
from cowshed.model.vif import Vif, VifType
from cowshed.tools import ovs

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def start_switch(place: Path) -> None:
    """In /run, which is the lab's own; it ends with the lab."""
    sh(
        f"mkdir -p /run/openvswitch && export OVS_LOGDIR={place} OVS_DBDIR={place};"
        f"ovsdb-tool create {place}/ovs.db {SCHEMA};"
        f"ovsdb-server {place}/ovs.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file;"
        "ovs-vsctl --no-wait init; ovs-vswitchd --pidfile --detach --log-file"
    )


def vsctl(words: str) -> str:
    return sh(f"ovs-vsctl --timeout=20 {words}").strip()


def ports() -> list[str]:
    return vsctl("list-ports br-int").split()


def external_ids(port: str) -> Mapping[str, str]:
    listed = json.loads(vsctl(f"--format=json --columns=external_ids list Interface {port}"))
    return dict(listed["data"][0][0][1])


def refused(host: Host, image: str, reason: str, bridge: str = "br-int") -> None:
    """Before anything is made."""
    with pytest.raises(UnsupportedOperation, match=reason):
        host.run(image, name="lost", networks=[f"ovs:{bridge}"])
    assert host.machines() == []


def main(image: str, place: Path) -> None:
    with Host.connect("qemu:///system") as host:
        refused(host, image, "does not answer")
        start_switch(place)
        if not ovs.has_kernel_datapath():
            refused(host, image, "no module openvswitch")
            assert vsctl("list-br") == ""
        step("what cannot be is refused before anything is made")
        vsctl("add-br br-int -- set bridge br-int datapath_type=netdev")
        sh("ip addr add 10.79.0.1/24 dev br-int && ip link set br-int up")
        sh(f"dnsmasq --interface=br-int --bind-interfaces --port=0 --dhcp-range=10.79.0.10,10.79.0.99 -x {place}/pid"
           f" --dhcp-leasefile={place}/leases --conf-file=/dev/null --user=root")  # fmt: skip
        machine = host.run(image, name="one", memory="160M", networks=["ovs:br-int"])
        try:
            work(host, machine)
        except BaseException:
            print(machine.log(4000).decode(errors="replace"), file=sys.stderr)
            print((place / "ovs-vswitchd.log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            machine.remove()
        until(lambda: ports() == [], "the port going with its guest")
        left_over(host)
    print("all done")


def work(host: Host, machine: Machine) -> None:
    ((_, nic),) = host.nics.list("one")
    assert ports() == [nic.device]
    described(host, machine, nic.device)
    machine.wait("log:10.79.0.", timeout=150)
    step("its port says whose it is; it has its address from the other end of the switch")

    host.groups.create("web")
    with pytest.raises(UnsupportedOperation, match="filters see them"):
        host.nics.attach("one", "ovs:br-int", groups=["web"])
    assert ports() == [nic.device]
    another = host.nics.attach("one", "ovs:br-int")
    assert len(ports()) == 2
    (added,) = set(ports()) - {nic.device}
    described(host, machine, added)
    instance, vif = machine.record.instance, another
    for _ in range(2):
        host.driver.plug_vifs(instance, [vif])
    assert len(ports()) == 2 and ovs.datapath("br-int") == ovs.USERSPACE, "os-vif leaves the bridge as it is"
    host.nics.detach("one", another.address)
    assert ports() == [nic.device]
    host.driver.unplug_vifs(instance, [vif])
    step("another came and went while it ran")

    machine.stop(force=True)
    assert ports() == []
    machine.start()
    assert len(ports()) == 1
    step("it is on the switch again after a start")


def described(host: Host, machine: Machine, port: str) -> None:
    found = external_ids(port)
    (vif,) = [nic.vif for _, nic in host.nics.list("one") if nic.device == port]
    assert found["iface-id"] == vif.id
    assert found["attached-mac"] == vif.address
    assert found["vm-id"] == machine.uuid
    assert found["iface-status"] == "active"


def left_over(host: Host) -> None:
    """Of a guest that ended in another way than libvirt's."""
    vif = Vif("0a1b2c3d-0000-4000-8000-000000000001", "52:54:00:00:00:07", VifType.OVS, "br-int")
    plugger = host.driver.rooms.pluggers[VifType.OVS]
    name = plugger.plug(vif, host.driver.rooms.capabilities).target
    sh(f"ip tuntap add {name} mode tap")
    vsctl(f"add-port br-int {name}")
    for _ in range(2):
        plugger.unplug(vif)
        assert ports() == [] and name not in sh("ls /sys/class/net")
    vsctl("del-br br-int")
    plugger.unplug(vif)
    step("what is left is taken away, again and again")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
