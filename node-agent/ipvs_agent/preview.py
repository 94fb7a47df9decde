"""What a pass would do, told before it is done."""

from typing import NamedTuple


class Preview(NamedTuple):
    """One change that a pass would make. ``action``: add, change, drain or remove."""

    action: str
    what: str
    detail: str = ""
