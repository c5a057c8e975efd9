"""Shares: directories that a guest mounts through virtiofs. Not in the reference; the newest Nova has three of the calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from cowshed.model.instance import Instance
from cowshed.model.share import Share


class Shares(ABC):
    """What a driver can that shares directories with its guests.

    The shares of an instance are remembered with it: every later start gives them to the guest.
    """

    @abstractmethod
    def mount_share(self, context: Any, instance: Instance, share_mapping: Share) -> None:
        """Make a share ready on this host, and give it to the instance from its next start on. May be repeated.

        :raises InvalidRequest: tag, path or what is there cannot be :raises NotFound: there is no such directory
        :raises NameTaken: the instance has another share of this tag
        :raises UnsupportedOperation: this host cannot share it with a guest; nothing was done
        """

    @abstractmethod
    def umount_share(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        """Take a share from an instance that does not use it now; was this host's last use of it ended?

        Already gone is success. False: another instance has it still, and it stays mounted.

        :raises InvalidState: the instance runs with it
        """

    @abstractmethod
    def is_share_mounted(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        """Has the instance this share, and is it ready on this host?"""

    @abstractmethod
    def give_shares(self, context: Any, instance: Instance, share_info: Sequence[Share]) -> None:
        """These and no others are the shares of an instance, from its next start on; also of one not spawned yet.

        :raises InvalidRequest: :raises NotFound: :raises UnsupportedOperation: as :meth:`mount_share`; nothing was changed
        :raises InvalidState: it is suspended, and its saved memory knows other shares
        """
