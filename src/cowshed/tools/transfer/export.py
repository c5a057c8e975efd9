"""The whole content of a disk to a standalone file."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import InternalError, InvalidRequest
from cowshed.model.disk import DiskFormat, DiskSource
from cowshed.tools import filesystem, reflink
from cowshed.tools.transfer.layers import Layer, Qcow2Layer, RawLayer
from cowshed.tools.transfer.pump import pump
from cowshed.tools.transfer.sinks import Qcow2Sink, RawSink


def export(
    source: DiskSource, target: Path, format: DiskFormat, *, compress: bool = False, progress: Progress = SILENT
) -> None:
    """Write ``source``, with its parents as ``source.backing`` names them, to ``target``.

    :raises InvalidRequest: the format cannot be written, or raw is to be compressed
    :raises NameTaken: ``target`` exists
    :raises NoSpace: nothing is left at ``target``
    """
    check_export(format, compress=compress)
    with ExitStack() as stack:
        export_layer(open_layer(source, stack), target, format, compress=compress, progress=progress)


def export_layer(
    layer: Layer, target: Path, format: DiskFormat, *, compress: bool = False, progress: Progress = SILENT
) -> None:
    """The same for a layer that is open already, which need not be a file."""
    check_export(format, compress=compress)
    with filesystem.publish(target, unnamed=True) as publication:
        progress.phase("extract", layer.size)
        if format == DiskFormat.RAW:
            _to_raw(layer, publication.fd, progress)
            return
        _to_qcow2(layer, publication.fd, compress=compress, progress=progress)


def check_export(format: DiskFormat, *, compress: bool) -> None:
    """:raises InvalidRequest: the format cannot be written, or raw is to be compressed"""
    if format not in (DiskFormat.RAW, DiskFormat.QCOW2):
        raise InvalidRequest(reason=f"a disk cannot be written as {format}", hint="raw or qcow2")
    if compress and format == DiskFormat.RAW:
        raise InvalidRequest(reason="raw files cannot be compressed", hint="use qcow2")


def to_qcow2(source: int, target: int) -> None:
    """Write the raw file ``source`` to the empty file ``target``; zeros are left out."""
    _to_qcow2(RawLayer(source), target, compress=False, progress=SILENT)


def to_ploop(layer: Layer, target: int, size: int, *, progress: Progress = SILENT) -> None:
    """Write ``layer``, grown to ``size``, to the empty file ``target`` as an expanded ploop data file."""
    from cowshed.tools.ploop import Mapped

    with closing(Mapped(target, size)) as sink:
        pump(layer, sink, progress=progress)
        sink.finish()


def to_raw(layer: Layer, target: int, *, progress: Progress = SILENT) -> None:
    """Write ``layer`` to the empty file ``target``, blocks of zeros left out."""
    _to_raw(layer, target, progress)


def _to_qcow2(layer: Layer, target: int, *, compress: bool, progress: Progress) -> None:
    with closing(Qcow2Sink(target, layer.size, compress=compress)) as sink:
        pump(layer, sink, progress=progress)
        sink.finish()


def _to_raw(layer: Layer, target: int, progress: Progress) -> None:
    if isinstance(layer, RawLayer) and reflink.clone(layer.fd, target):
        return
    with closing(RawSink(target, layer.size, digest=False)) as sink:
        pump(layer, sink, progress=progress)


def open_layer(source: DiskSource, stack: ExitStack) -> Layer:
    """Open the file of ``source`` and of every parent; ``stack`` closes them."""
    if source.path is None:
        raise InternalError(reason=f"{source.name or source.type} is not a file")
    with filesystem.errors_of(source.path, "read"):
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    if source.format == DiskFormat.QCOW2:
        below = open_layer(source.backing, stack) if source.backing else None
        return Qcow2Layer(fd, below, name=str(source.path))
    if source.format == DiskFormat.PLOOP:
        from cowshed.tools.transfer.ploop_layer import PloopLayer

        return PloopLayer(fd, name=str(source.path))
    return RawLayer(fd)
