"""Waiting for something to become true."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def await_condition(look: Callable[[], T], timeout: float = 30, what: str = "", every: float = 0.02) -> T:
    """Call `look` every `every` seconds until what it returns is true, and return that.

    AssertionError after `timeout` seconds, with `what` was awaited and the last value seen. A `look` that raises
    AssertionError has not seen it yet.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = look()
            seen = repr(value)
            if value:
                return value
        except AssertionError as failure:
            seen = str(failure)
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what or look.__name__}: not within {timeout:g} s; last seen: {seen}")
        time.sleep(every)
