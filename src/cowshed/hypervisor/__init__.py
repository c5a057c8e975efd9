"""The only room that knows libvirt: connection, guests, events, agent. libvirt is imported at first use."""

from cowshed.hypervisor.connection import Hypervisor
from cowshed.hypervisor.events import EventKind, GuestEvent
from cowshed.hypervisor.guest import Guest
from cowshed.hypervisor.network import NetworkFact
from cowshed.hypervisor.node import NodeInfo

__all__ = ["EventKind", "Guest", "GuestEvent", "Hypervisor", "NetworkFact", "NodeInfo"]
