"""The guest keeps what it sees; what the host gives it is the other host's."""

from __future__ import annotations

import pytest

from cowshed.domain import element
from cowshed.domain.relocate import machine, relocated
from cowshed.errors import DataCorrupt

HERE = """<domain type='qemu' id='3'><name>web</name>
<metadata><cowshed:instance xmlns:cowshed='https://cowshed.dev/xmlns/instance/1'><cowshed:name>web</cowshed:name></cowshed:instance></metadata>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><nvram template='/here/t'>/here/nvram</nvram></os>
<cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<devices><emulator>/here/qemu</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/here/disk' index='1'/>
<backingStore type='file'><format type='raw'/><source file='/here/base'/><backingStore/></backingStore>
<mirror type='file'/><target dev='vda' bus='virtio'/><address type='pci' slot='0x05'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:07'/><source bridge='br-here'/><target dev='vnet7'/><model type='virtio'/>
<address type='pci' slot='0x06'/></interface>
<serial type='pty'><source path='/dev/pts/4'/><log file='/here/console.log'/><target port='0'/></serial>
<console type='pty' tty='/dev/pts/4'><source path='/dev/pts/4'/><target type='serial' port='0'/></console>
<channel type='unix'><source mode='bind' path='/var/lib/libvirt/x'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='5901' listen='192.0.2.1'/></devices></domain>"""

THERE = """<domain type='qemu'><name>web</name><os><type arch='x86_64' machine='q35'>hvm</type><nvram template='/there/t'>/there/nvram</nvram></os>
<devices><emulator>/there/qemu</emulator>
<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='/dev/there'/><backingStore/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='52:54:00:00:00:07'/><source network='lab'/><model type='e1000'/></interface>
<serial type='pty'><log file='/there/console.log' append='on'/><target port='0'/></serial>
<graphics type='vnc' autoport='yes'><listen type='address' address='192.0.2.2'/></graphics></devices></domain>"""


def test_what_is_the_hosts_and_what_is_the_guests() -> None:
    text = relocated(HERE, THERE)
    node = element.parse(text)

    def get(path: str, name: str) -> str | None:
        found = node.find(path)
        return None if found is None else found.get(name)

    assert "/here" not in text
    assert "br-here" not in text
    assert get("os/type", "machine") == "pc-q35-7.2"
    assert node.findtext("os/nvram") == "/there/nvram"
    assert get("devices/disk", "type") == "block"
    assert get("devices/disk/source", "dev") == "/dev/there"
    assert get("devices/disk/address", "slot") == "0x05"
    assert node.find("devices/disk/mirror") is None
    assert len(node.findall("devices/disk")) == 2  # the empty drive too
    assert get("devices/interface", "type") == "network"
    assert get("devices/interface/model", "type") == "virtio"
    assert get("devices/interface/address", "slot") == "0x06"
    assert node.find("devices/interface/target") is None
    assert get("devices/console", "tty") is None
    assert get("devices/console/target", "type") == "serial"
    assert node.find("devices/channel/source") is None
    assert get("devices/graphics", "port") is None
    assert get("devices/graphics/listen", "address") == "192.0.2.2"
    assert "<cowshed:name>web</cowshed:name>" in text


def test_a_disk_that_the_destination_was_not_told_of() -> None:
    with pytest.raises(DataCorrupt, match="vda"):
        relocated(HERE, THERE.replace("vda", "vdb"))


def test_what_the_guest_really_has() -> None:
    found = machine(element.parse(HERE))
    assert found["machine"] == "pc-q35-7.2"
    assert found["virt_type"] == "qemu"
    assert "<model>qemu64</model>" in found["cpu"]
