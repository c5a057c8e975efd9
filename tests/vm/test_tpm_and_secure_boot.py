"""TPM and secure boot in real guests: what the guest sees, and what becomes of their state in the life of an instance."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cowshed.driver.steps import tpm
from cowshed.errors import HostUnsuitable
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.tools import run
from cowshed.units import MiB
from tests.vm.machines import KERNEL_OPTIONS, Machines

# TPM2_ReadClock: of the answer, the octets 26 to 29 are how often this TPM was started, which only its own memory knows.
READ_CLOCK = r"""#!/bin/sh
exec 3<>/dev/tpm0 || exit 1
printf '\200\001\0\0\0\012\0\0\001\201' >&3
dd bs=4096 count=1 <&3 2>/dev/null >/run/answer
echo "cowshed-guest: tpm $(hexdump -v -s 26 -n 4 -e '4/1 "%02x"' /run/answer)"
"""


def starts(house: Machines, instance: Instance, number: int) -> list[int]:
    """What the TPM said at each boot, when there have been ``number``."""
    house.wait(instance, rf"(cowshed-guest: tpm \w+\s[\s\S]*){{{number}}}", timeout=60)
    return [int(text, 16) for text in re.findall(r"cowshed-guest: tpm (\w+)", house.log(instance))]


def kept(instance: Instance) -> list[Path]:
    """Where the session's libvirt keeps the TPM's memory."""
    return list(Path(os.environ["XDG_CONFIG_HOME"], "libvirt/qemu/swtpm").glob(instance.uuid))


def test_a_tpm_remembers_until_the_instance_is_removed(house: Machines) -> None:
    if run.find("swtpm") is None:
        pytest.skip("needs swtpm: see scripts/packages.sh test")
    kernel, ramdisk = house.image("vmlinuz"), house.image("initramfs")  # in half the time of a boot from the disk
    properties = {"kernel_id": kernel.id, "ramdisk_id": ramdisk.id, "os_command_line": KERNEL_OPTIONS}
    image = house.image(properties={"hw_tpm_model": "tpm-crb", **properties})
    instance = house.spawn(image, user_data=READ_CLOCK, flavor=Flavor(vcpus=1, memory=160 * MiB))
    (first,) = starts(house, instance, 1)
    assert kept(instance) == [tpm.place(house.driver.rooms, instance.uuid)]
    house.driver.suspend(None, instance)
    house.driver.resume(None, instance, [])
    house.driver.power_off(instance)
    house.driver.soft_delete(instance)
    assert kept(instance)
    house.driver.restore(instance)
    assert starts(house, instance, 2) == [first, first + 1]
    house.driver.rebuild(None, instance, image, [], None, [], None, None, [])  # the TPM is the machine's
    assert starts(house, instance, 3) == [first, first + 1, first + 2]
    house.driver.destroy(None, instance, [])
    assert not kept(instance)
    house.assert_nothing_left(instance)


def test_without_swtpm_nothing_is_begun(house: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    image, find = house.image(), run.find
    monkeypatch.setattr(run, "find", lambda name: None if name.startswith("swtpm") else find(name))
    driver = house.reopened()  # asks anew what is there
    instance = house.instance(image, flavor=Flavor(vcpus=1, memory=160 * MiB, extra_specs={"hw:tpm_version": "2.0"}))
    with pytest.raises(HostUnsuitable, match="swtpm is not installed") as caught:
        driver.spawn(None, instance, image, [], None, [])
    assert "swtpm-tools" in str(caught.value.hint)
    assert [one.remedy for one in driver.doctor() if one.subject == "TPM"] == ["sudo apt install swtpm swtpm-tools"]
    house.assert_nothing_left(instance)
    driver.cleanup_host("here")


def signed(guest_dir: Path, place: Path) -> Path:
    """The tiny disk with what Debian has had signed in the place of its own boot loader."""
    disk = place / "signed.raw"
    subprocess.run(["cp", "--sparse=always", guest_dir / "tiny.raw", disk], check=True)
    for words in (
        ["mdel", "::/EFI/BOOT/BOOTX64.EFI"],
        ["mmove", "::/EFI/debian/shimx64.efi", "::/EFI/BOOT/BOOTX64.EFI"],
        ["mmove", "::/EFI/debian/grubx64.efi", "::/EFI/BOOT/grubx64.efi"],
    ):
        subprocess.run([words[0], "-i", f"{disk}@@1M", *words[1:]], check=True, env={"MTOOLS_SKIP_CHECK": "1"})
    return disk


def test_secure_boot_starts_what_is_signed_and_nothing_else(house: Machines, guest_dir: Path, tmp_path: Path) -> None:
    if not any(one.enrolled for one in house.driver.rooms.capabilities.firmwares):
        pytest.skip("needs UEFI firmware with secure boot and keys: package ovmf")
    properties = {"hw_firmware_type": "uefi", "os_secure_boot": "required"}
    plain = house.image("tiny.raw", properties=properties)
    good = house.driver.pull_image(str(signed(guest_dir, tmp_path)), name="signed", properties=properties)
    flavor = Flavor(vcpus=1, memory=512 * MiB)
    says = "#!/bin/sh\ndmesg | sed -n 's/.*secureboot: */cowshed-guest: secureboot /p'\n"
    instance = house.spawn(good, flavor=flavor, user_data=says)
    house.wait(instance, "cowshed-guest: secureboot Secure boot enabled", timeout=180)
    house.wait(instance, "cowshed-guest: up", timeout=60)
    variables = house.state / "instances" / instance.uuid / "nvram.fd"
    house.driver.power_off(instance)
    (before, marked) = (variables.read_bytes(), variables.stat().st_ino)
    assert before != house.driver.rooms.capabilities.firmwares[-1].nvram_template.read_bytes()

    # Kept at a start; begun anew at a rebuild, whose image is not signed and does not come up.
    house.driver.power_on(None, instance, [])
    assert variables.stat().st_ino == marked
    house.driver.rebuild(None, instance, plain, [], None, [], None, None, [])
    assert variables.stat().st_ino != marked
    house.wait(instance, r"BdsDxe: failed to load .*: Access Denied", timeout=180)
    assert "cowshed-guest: up" not in house.log(instance).rpartition("Access Denied")[0].rpartition("\x1b[2J")[2]
    assert sorted(path.name for path in variables.parent.glob("nvram*")) == ["nvram.fd"]
    assert house.state_of(instance) == PowerState.RUNNING
    house.driver.destroy(None, instance, [])
    house.assert_nothing_left(instance)


def test_a_rebuild_that_fails_gives_the_variables_back(
    house: Machines, guest_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowshed.driver.steps import launch
    from cowshed.errors import HypervisorError

    if not house.driver.rooms.capabilities.firmwares:
        pytest.skip("needs UEFI firmware: package ovmf")
    image: Image = house.image(properties={"hw_firmware_type": "uefi"})
    instance = house.spawn(image)
    house.driver.power_off(instance)
    variables = house.state / "instances" / instance.uuid / "nvram.fd"
    before = variables.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise HypervisorError(action="start", reason="planned")

    with monkeypatch.context() as patch:
        patch.setattr(launch, "start", fails)
        with pytest.raises(HypervisorError, match="planned"):
            house.driver.rebuild(None, instance, image, [], None, [], None, None, [])
    assert variables.read_bytes() == before
    assert [path.name for path in variables.parent.glob("nvram*")] == ["nvram.fd"]
