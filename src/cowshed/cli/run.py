"""cowshed run"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, image_names, verb
from cowshed.errors import CowshedError, InvalidRequest
from cowshed.units import parse_duration

if TYPE_CHECKING:
    from cowshed.manager import Host, Machine


@click.command()
@click.argument("image", shell_complete=image_names)
@click.option("-n", "--name", help="Of the instance; default: an invented one.")
@click.option("-c", "--cpus", type=int, default=1, show_default=True)
@click.option("-m", "--memory", default="1G", show_default=True, metavar="SIZE")
@click.option("-d", "--disk", metavar="SIZE", help="Of the root disk; default: the image's.")
@click.option("--ssh-key", "ssh_keys", multiple=True, metavar="FILE", help="Public key to let in; repeatable.")
@click.option("--user-data", metavar="FILE", help="cloud-init's user data.")
@click.option("--vendor-data", metavar="FILE", help="cloud-init's vendor data.")
@click.option("--hostname", default="", help="In the guest; default: the name.")
@click.option(
    "--network", "networks", multiple=True, metavar="NET", help="user, none, bridge:NAME or NAME of a libvirt network."
)
@click.option(
    "-p", "--publish", multiple=True, metavar="HOST:GUEST", help="Port forward, such as 2222:22 or 5353:53/udp."
)
@click.option("--backend", default="", metavar="NAME", help="Where its disks live: qcow2 or raw.")
@click.option("--ephemeral", "ephemeral_disk", default="0", metavar="SIZE", help="An empty disk with a file system.")
@click.option("--swap", default="0", metavar="SIZE", help="A swap disk.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), help="Default: the image's, else bios.")
@click.option("--machine", metavar="TYPE", help="q35 or pc; default: the image's, else q35.")
@click.option(
    "--disk-bus", type=click.Choice(["virtio", "scsi", "sata", "ide"]), help="Default: the image's, else virtio."
)
@click.option("--kernel", metavar="IMAGE", shell_complete=image_names, help="Boot this kernel directly.")
@click.option("--initrd", metavar="IMAGE", shell_complete=image_names, help="The kernel's ramdisk.")
@click.option("--cmdline", metavar="TEXT", help="The kernel's command line.")
@click.option(
    "--datasource", type=click.Choice(["nocloud", "configdrive"]), default=None, help="How cloud-init gets its data."
)
@click.option("--property", "properties", multiple=True, metavar="KEY=VALUE", help="Image property for this instance.")
@click.option(
    "--limit", "limits", multiple=True, metavar="KEY=VALUE", help="Disk limit, such as disk_read_iops_sec=500."
)
@click.option("--wait", "condition", metavar="FOR", help="Also wait for log:TEXT, ssh or address.")
@click.option("--timeout", default="5m", show_default=True, help="For --wait.")
@verb
def run(session: Session, image: str, **options: Any) -> None:
    """Make an instance from IMAGE and start it.

    IMAGE is the name or id of an image, or the path or URL of one, which is brought into the store first.
    """
    from cowshed.cli.instances import describe

    _check(options)
    with session.working() as host:
        machine = host.run(
            image,
            name=options["name"],
            cpus=options["cpus"],
            memory=options["memory"],
            disk=options["disk"],
            ephemeral_disk=options["ephemeral_disk"],
            swap=options["swap"],
            ssh_key=options["ssh_keys"],
            user_data=options["user_data"],
            vendor_data=options["vendor_data"],
            hostname=options["hostname"],
            networks=options["networks"],
            publish=options["publish"],
            backend=options["backend"],
            kernel=options["kernel"],
            initrd=options["initrd"],
            cmdline=options["cmdline"] or "",
            properties=_properties(options),
            extra_specs={f"quota:{key}": value for key, value in pairs(options["limits"]).items()},
            datasource=options["datasource"] or "",
        )
        try:
            if options["condition"]:
                machine.wait(options["condition"], timeout=parse_duration(options["timeout"]))
            if session.format == "table" and not session.quiet:
                _tell(host, machine)
            else:
                session.emit("instance", describe(machine.record))
        except (CowshedError, KeyboardInterrupt):
            output.note(f"{machine.name} was started and is not removed; see cowshed log {machine.name}")
            raise


def _tell(host: Host, machine: Machine) -> None:
    print(f"{machine.name} is running")
    for forward in machine.forwards:
        print(f"  {forward.host_address}:{forward.host_port} leads to its port {forward.guest_port}/{forward.protocol}")
    note = host.driver.rooms.capabilities.note
    if note and sys.stderr.isatty():
        output.note(f"  without KVM: {note}")


def _check(options: dict[str, Any]) -> None:
    """What can be refused before anything is made."""
    parse_duration(options["timeout"])
    if condition := options["condition"]:
        from cowshed.manager.machine import check_condition

        check_condition(condition)


def _properties(options: dict[str, Any]) -> dict[str, str]:
    found = pairs(options["properties"])
    for option, key in (("firmware", "hw_firmware_type"), ("machine", "hw_machine_type"), ("disk_bus", "hw_disk_bus")):
        if options[option]:
            found[key] = options[option]
    return found


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    """:raises InvalidRequest: one is not KEY=VALUE"""
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise InvalidRequest(reason=f"{word!r} is not KEY=VALUE", hint="for example hw_disk_bus=scsi")
        found[key] = value
    return found
