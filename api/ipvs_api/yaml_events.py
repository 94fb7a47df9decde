"""The events of a YAML text: from libyaml's parser where PyYAML has it, else from PyYAML's own.

That one is 15 times slower, and takes no tabs between the tokens of JSON.
"""

from collections.abc import Callable
from typing import NamedTuple

from yaml.events import Event
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

Path = tuple[str | int, ...]
"""Keys and indices from a document's root to a node."""

NextEvent = Callable[[], Event | None]
"""The next event at every call, None after the last; raises ``yaml.YAMLError`` for what is no YAML.

Marks count from 0, ``index`` and ``column`` in characters.
"""


class Place(NamedTuple):
    """In a text, both from 1."""

    line: int
    column: int


class _PythonParser(Reader, Scanner, Parser):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def python_events(text: str) -> NextEvent:
    return _PythonParser(text).get_event


try:
    from yaml._yaml import CParser
except ImportError:
    events = python_events
else:

    def events(text: str) -> NextEvent:
        return CParser(text).get_event
