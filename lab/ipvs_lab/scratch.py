"""Directories that live as long as the process that made them: what a killed one leaves, the next one removes."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class Scratch:
    """A private directory among the temporary ones, `path`, until `close`.

    A lock on the directory itself says that it is in use. It is taken before the directory has the name by which
    others look for what is left over.
    """

    def __init__(self, kind: str) -> None:
        """`kind`: the beginning of the directory's name, as in `ipvs-control-plane`. What processes that are no more
        left of this kind is removed."""
        for left in Path(tempfile.gettempdir()).glob(f"{kind}-*"):
            remove_abandoned(left)
        made = Path(tempfile.mkdtemp(prefix=f".{kind}-"))
        self._held = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self.path = made.rename(made.with_name(made.name.removeprefix(".")))

    def close(self) -> None:
        """Remove the directory and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


def remove_abandoned(directory: Path) -> bool:
    """Remove a directory that no process holds; False, and nothing is done, if one does or it is not ours."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
            return True
        finally:
            os.close(descriptor)
    return False
