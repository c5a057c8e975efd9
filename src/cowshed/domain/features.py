"""What the machine offers beside its devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, present, switch, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Features(Element):
    """``<features>``: what the machine has beside its devices."""

    TAG: ClassVar[str] = "features"

    acpi: bool = present("acpi")
    apic: bool = present("apic")
    smm: bool | None = switch("smm/@state")
    pmu: bool | None = switch("pmu/@state")
    vmport: bool | None = switch("vmport/@state")
    kvm_hidden: bool | None = switch("kvm/hidden/@state")
    hyperv_relaxed: bool | None = switch("hyperv/relaxed/@state")
    hyperv_vapic: bool | None = switch("hyperv/vapic/@state")
    hyperv_spinlocks: bool | None = switch("hyperv/spinlocks/@state")
    hyperv_retries: int | None = value("hyperv/spinlocks/@retries")
    hyperv_vpindex: bool | None = switch("hyperv/vpindex/@state")
    hyperv_runtime: bool | None = switch("hyperv/runtime/@state")
    hyperv_synic: bool | None = switch("hyperv/synic/@state")
    hyperv_stimer: bool | None = switch("hyperv/stimer/@state")
    hyperv_reset: bool | None = switch("hyperv/reset/@state")
    hyperv_frequencies: bool | None = switch("hyperv/frequencies/@state")


def features(*, kvm: bool, windows: bool, secure_boot: bool, pmu: bool | None, hidden: bool) -> Features:
    """Windows gets the interfaces it knows from Hyper-V; they exist under KVM only.

    ``vmport`` off: a port of another hypervisor that nobody here needs.
    """
    on = True if windows and kvm else None
    return Features(
        acpi=True,
        apic=True,
        smm=True if secure_boot else None,
        pmu=pmu,
        vmport=False,
        kvm_hidden=True if hidden and kvm else None,
        hyperv_relaxed=on,
        hyperv_vapic=on,
        hyperv_spinlocks=on,
        hyperv_retries=8191 if on else None,
        hyperv_vpindex=on,
        hyperv_runtime=on,
        hyperv_synic=on,
        hyperv_stimer=on,
        hyperv_reset=on,
        hyperv_frequencies=on,
    )
