"""The capability flags of the newest Nova, 35 of them: what a driver says that it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cowshed.contract.promise import is_fulfilled
from cowshed.contract.shares import Shares

# flag: the trait of a resource provider that says the same (os-traits), "" where there is none
FLAGS: Final[Mapping[str, str]] = {
    "has_imagecache": "",
    "supports_evacuate": "",
    "supports_migrate_to_same_host": "COMPUTE_SAME_HOST_COLD_MIGRATE",
    "supports_attach_interface": "COMPUTE_NET_ATTACH_INTERFACE",
    "supports_device_tagging": "COMPUTE_DEVICE_TAGGING",
    "supports_tagged_attach_interface": "COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG",
    "supports_tagged_attach_volume": "COMPUTE_VOLUME_ATTACH_WITH_TAG",
    "supports_extend_volume": "COMPUTE_VOLUME_EXTEND",
    "supports_multiattach": "COMPUTE_VOLUME_MULTI_ATTACH",
    "supports_trusted_certs": "COMPUTE_TRUSTED_CERTS",
    "supports_pcpus": "",
    "supports_accelerators": "COMPUTE_ACCELERATORS",
    "supports_bfv_rescue": "COMPUTE_RESCUE_BFV",
    "supports_vtpm": "",
    "supports_secure_boot": "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
    "supports_socket_pci_numa_affinity": "COMPUTE_SOCKET_PCI_NUMA_AFFINITY",
    "supports_remote_managed_ports": "COMPUTE_REMOTE_MANAGED_PORTS",
    "supports_ephemeral_encryption": "COMPUTE_EPHEMERAL_ENCRYPTION",
    "supports_ephemeral_encryption_luks": "COMPUTE_EPHEMERAL_ENCRYPTION_LUKS",
    "supports_ephemeral_encryption_plain": "COMPUTE_EPHEMERAL_ENCRYPTION_PLAIN",
    "supports_address_space_passthrough": "COMPUTE_ADDRESS_SPACE_PASSTHROUGH",
    "supports_address_space_emulated": "COMPUTE_ADDRESS_SPACE_EMULATED",
    "supports_virtio_fs": "COMPUTE_STORAGE_VIRTIO_FS",
    "supports_mem_backing_file": "COMPUTE_MEM_BACKING_FILE",
    "supports_image_type_aki": "COMPUTE_IMAGE_TYPE_AKI",
    "supports_image_type_ami": "COMPUTE_IMAGE_TYPE_AMI",
    "supports_image_type_ari": "COMPUTE_IMAGE_TYPE_ARI",
    "supports_image_type_iso": "COMPUTE_IMAGE_TYPE_ISO",
    "supports_image_type_ploop": "COMPUTE_IMAGE_TYPE_PLOOP",
    "supports_image_type_qcow2": "COMPUTE_IMAGE_TYPE_QCOW2",
    "supports_image_type_raw": "COMPUTE_IMAGE_TYPE_RAW",
    "supports_image_type_vdi": "COMPUTE_IMAGE_TYPE_VDI",
    "supports_image_type_vhd": "COMPUTE_IMAGE_TYPE_VHD",
    "supports_image_type_vhdx": "COMPUTE_IMAGE_TYPE_VHDX",
    "supports_image_type_vmdk": "COMPUTE_IMAGE_TYPE_VMDK",
}


def flags_of(driver: Any) -> dict[str, bool]:
    """What ``driver`` can do: from the calls that it fulfils, and what it says itself (``more_flags()``)."""
    kind, known = type(driver), type(driver).capabilities
    extends = callable(getattr(driver, "extend_volume", None))
    more: Callable[[], Mapping[str, bool]] = getattr(driver, "more_flags", dict)
    return {
        **dict.fromkeys(FLAGS, False),
        "has_imagecache": known["has_imagecache"] and is_fulfilled(kind, "manage_image_cache"),
        "supports_evacuate": known["supports_recreate"] and is_fulfilled(kind, "rebuild"),
        "supports_migrate_to_same_host": known["supports_migrate_to_same_host"]
        and is_fulfilled(kind, "migrate_disk_and_power_off"),
        "supports_attach_interface": is_fulfilled(kind, "attach_interface"),
        "supports_extend_volume": extends,
        "supports_virtio_fs": isinstance(driver, Shares),
        **more(),
    }


def traits_of(flags: Mapping[str, bool]) -> dict[str, bool]:
    """Trait to whether it holds; the flags without a trait are left out."""
    return {FLAGS[name]: holds for name, holds in flags.items() if FLAGS[name]}
