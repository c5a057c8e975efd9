"""cowshed run"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, backend_names, directories, group_names, image_names, verb
from cowshed.cli.words import pairs, sources, wanted
from cowshed.errors import CowshedError, InvalidRequest
from cowshed.units import parse_duration

if TYPE_CHECKING:
    from cowshed.manager import Host, Machine

_PATIENCE = "5m"


@click.command(cls=Verb)
@click.argument("image", required=False, default="", shell_complete=image_names)
@click.option("-n", "--name", help="Of the instance; default: an invented one.")
@click.option("-c", "--cpus", type=int, default=1, show_default=True, metavar="NUMBER", help="Virtual processors.")
@click.option("-m", "--memory", default="1G", show_default=True, metavar="SIZE", help="Such as 512M or 2G.")
@click.option("-d", "--disk", metavar="SIZE", help="Of the root disk; default: the image's.")
@click.option(
    "--root-volume",
    metavar="VOLUME",
    shell_complete=sources,
    help="Boot from this volume instead of an image; it has no root disk of its own then.",
)
@click.option(
    "--volume", "volumes", multiple=True, metavar="VOLUME", shell_complete=sources, help="Attach it; repeatable."
)
@click.option("--ssh-key", "ssh_keys", multiple=True, metavar="FILE", help="Public key to let in; repeatable.")
@click.option("--user-data", metavar="FILE", help="cloud-init's user data.")
@click.option("--vendor-data", metavar="FILE", help="cloud-init's vendor data.")
@click.option("--hostname", default="", help="In the guest; default: the name.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NET[,OPTION]...",
    help="user, none, bridge:NAME, tap:NAME, macvtap:DEVICE, ovs:BRIDGE or NAME of a libvirt network, with ,mac= ,model= or ,tag= behind it; "
    "default: as configured; repeatable.",
)
@click.option(
    "--ip",
    "ips",
    multiple=True,
    metavar="ADDRESS/SIZE[,GATEWAY]",
    help="The IP address it uses there, such as 10.0.0.5/24; repeatable, one for each --network.",
)
@click.option(
    "-p",
    "--publish",
    multiple=True,
    metavar="HOST:GUEST",
    help="Port forward, such as 2222:22 or 5353:53/udp; repeatable.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME",
    shell_complete=group_names,
    help="Security group of its interfaces; repeatable.",
)
@click.option(
    "--backend",
    default="",
    metavar="NAME",
    shell_complete=backend_names,
    help="Where its disks live: qcow2, raw, ploop, lvm or rbd (see cowshed backends); default: as configured.",
)
@click.option(
    "--disk-backend",
    "disk_backends",
    multiple=True,
    metavar="DISK=NAME",
    help="Where one disk lives: root, swap, ephemeral or cdrom, such as swap=raw; repeatable.",
)
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="DIR[:TAG][:ro]",
    shell_complete=directories,
    help="A directory that the guest mounts (mount -t virtiofs TAG /mnt), as for cowshed share attach; repeatable.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt its disks, each with a key of its own.")
@click.option("--ephemeral", "ephemeral_disk", default="0", metavar="SIZE", help="An empty disk with a file system.")
@click.option("--swap", default="0", metavar="SIZE", help="A swap disk.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), help="Default: the image's, else bios.")
@click.option("--secure-boot", is_flag=True, help="UEFI that starts nothing but what Microsoft's keys have signed.")
@click.option("--tpm", is_flag=True, help="With a TPM 2.0.")
@click.option("--machine", metavar="TYPE", help="q35 or pc; default: the image's, else q35.")
@click.option(
    "--disk-bus", type=click.Choice(["virtio", "scsi", "sata", "ide"]), help="Default: the image's, else virtio."
)
@click.option("--kernel", metavar="IMAGE", shell_complete=image_names, help="Boot this kernel directly.")
@click.option("--initrd", metavar="IMAGE", shell_complete=image_names, help="The kernel's ramdisk.")
@click.option("--cmdline", metavar="TEXT", help="The kernel's command line.")
@click.option(
    "--datasource",
    type=click.Choice(["nocloud", "configdrive"]),
    default=None,
    help="How cloud-init gets its data; default: as configured.",
)
@click.option(
    "--property", "properties", multiple=True, metavar="KEY=VALUE", help="Image property for this instance; repeatable."
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KEY=VALUE",
    help="Such as disk_read_iops_sec=500, disk_total_iops_sec@swap=100 or cpu_shares=512; repeatable.",
)
@click.option("--wait", "condition", metavar="FOR", help="Also wait for log:TEXT, ssh, address, agent or a state.")
@click.option("--timeout", metavar="TIME", help=f"How long to wait, with --wait; default: {_PATIENCE}.")
@verb
def run(session: Session, image: str, **options: Any) -> None:
    """Make an instance from IMAGE and start it.

    IMAGE is the name or id of an image, or the path or URL of one, which is brought into the store first.

    Until it runs nothing of it is kept: an error or ^C leaves the host as it was.

    VOLUME is written as for cowshed volume attach, and its options behind it with commas:
    /srv/root.qcow2,format=qcow2 or nbd://store/data,read-only or rbd:pool/image,device=vdc.
    Nothing of a volume is removed with the instance.
    """
    from cowshed.cli.instances import describe

    _check(session, options)
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
            groups=options["groups"],
            ips=options["ips"],
            root_volume=wanted(options["root_volume"]) if options["root_volume"] else None,
            volumes=[wanted(word) for word in options["volumes"]],
            backend=options["backend"],
            disk_backends=pairs(options["disk_backends"], example="swap=raw"),
            shares=options["shares"],
            encrypt=options["encrypt"],
            kernel=options["kernel"],
            initrd=options["initrd"],
            cmdline=options["cmdline"] or "",
            properties=_properties(options),
            extra_specs=_limits(options),
            datasource=options["datasource"] or "",
        )
        session.tell_brought()
        try:
            if options["condition"]:
                machine.wait(options["condition"], timeout=parse_duration(options["timeout"] or _PATIENCE))
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


def _check(session: Session, options: dict[str, Any]) -> None:
    """What can be refused before anything is made."""
    if options["timeout"] is not None:
        parse_duration(options["timeout"])
        if not options["condition"]:
            raise InvalidRequest(
                reason="--timeout limits waiting, and nothing is waited for", hint="add --wait, such as --wait ssh"
            )
    _limits(options)
    if options["secure_boot"] and options["firmware"] == "bios":
        raise InvalidRequest(reason="a BIOS has no secure boot", hint="leave --firmware bios or --secure-boot out")
    _properties(options)
    if options["condition"]:
        session.host.check_wait(options["condition"], options["networks"], options["publish"])


def _properties(options: dict[str, Any]) -> dict[str, str]:
    """Those that are given, and those that options stand for.

    :raises InvalidRequest: an option and a property contradict each other
    """
    found = pairs(options["properties"])
    for option, key, value in _stand_for(options):
        if found.setdefault(key, value) != value:
            raise InvalidRequest(
                reason=f"{option} contradicts --property {key}={found[key]}", hint="leave one of them out"
            )
    if options["tpm"]:
        found.setdefault("hw_tpm_version", "2.0")
    return found


def _stand_for(options: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each option that is given as it was written, with the property that it stands for."""
    if options["secure_boot"]:
        yield "--secure-boot", "hw_firmware_type", "uefi"
        yield "--secure-boot", "os_secure_boot", "required"
    for option, key in (
        ("firmware", "hw_firmware_type"),
        ("machine", "hw_machine_type"),
        ("disk_bus", "hw_disk_bus"),
        ("cmdline", "os_command_line"),
    ):
        if value := options[option]:
            yield f"--{option.replace('_', '-')} {value}", key, value


def _limits(options: dict[str, Any]) -> dict[str, str]:
    """As extra specs of a flavor, where an unknown one would be passed over.

    :raises InvalidRequest: an unknown one
    """
    import difflib

    found = pairs(options["limits"])
    for key in found:
        if key.partition("@")[0] not in (known := _known_limits()):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidRequest(reason=f"unknown limit {key}", hint=hint)
    return {f"quota:{key}": value for key, value in found.items()}


def _known_limits() -> list[str]:
    import dataclasses

    from cowshed.model.disk import IoTune

    disk = [f"disk_{field.name}" for field in dataclasses.fields(IoTune)]
    vif = [f"vif_{way}_{kind}" for way in ("inbound", "outbound") for kind in ("average", "peak", "burst")]
    return [*disk, "cpu_shares", "cpu_period", "cpu_quota", *vif]
