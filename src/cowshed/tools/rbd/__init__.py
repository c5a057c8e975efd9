"""Ceph block devices through librbd: the only importer of ``rados`` and ``rbd``, and only when used.

One connection per process and user, shared by its threads; no process is ever started.
"""

from cowshed.tools.rbd.cluster import Access, Cluster, cluster
from cowshed.tools.rbd.content import RbdLayer, RbdSink
from cowshed.tools.rbd.pool import Pool
from cowshed.tools.rbd.url import ImageSpec, Url, parse_url

__all__ = ["Access", "Cluster", "ImageSpec", "Pool", "RbdLayer", "RbdSink", "Url", "cluster", "parse_url"]
