"""Notices of changes in a directory (inotify), for an asyncio loop."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

log = logging.getLogger(__name__)

_CHANGES = (
    flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ATTRIB
)
"""Finished writes only: a file that an editor is still writing is no news."""


class DirectoryWatch:
    """Calls ``changed`` on the running loop with the names of files, or None where any may have changed.

    Where the directory is not there the regular audit looks again.
    """

    def __init__(self, path: Path, changed: Callable[[frozenset[str] | None], None]) -> None:
        self._path, self._changed = path, changed
        self._inotify = INotify(nonblocking=True)
        self._watching = False
        self.renew()
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._told)

    def renew(self) -> None:
        """Watch the directory (again): it may have vanished and come back as another one."""
        try:
            self._inotify.add_watch(self._path, _CHANGES)
            self._watching = True
        except OSError as error:
            if self._watching:
                log.warning("directory %s cannot be watched: %s; it is looked at with every audit", self._path, error)
            self._watching = False

    def _told(self) -> None:
        events = self._inotify.read(timeout=0)
        if any(not event.name for event in events):  # the directory itself, or more than the queue held
            self._changed(None)
        elif events:
            self._changed(frozenset(event.name for event in events))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()
