"""What types say and msgspec's decoding does not check: no field that is unknown, no list item twice.

Only whether something is wrong, as fast as may be; ``explain`` finds out what.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from msgspec import inspect

from ipvs_api.meta import Shape

Check = Callable[[Any], bool]
"""Of plain values that msgspec has converted to the type already, fields that are null left out."""


@cache
def is_closed(type_: type[Shape]) -> Check:
    """The check for one type: every ``Shape`` in it has known fields only, every ``SET`` and ``keyed`` list is one."""
    return _check(inspect.type_info(type_)) or _anything


def _anything(_: Any) -> bool:
    return True


def _check(type_: inspect.Type) -> Check | None:
    """None for what needs none."""
    match type_:
        case inspect.Metadata():
            return _marked(_check(type_.type), type_.extra_json_schema or {})
        case inspect.StructType() if issubclass(type_.cls, Shape):
            return _fields({field.encode_name: _check(field.type) for field in type_.fields})
        case inspect.VarTupleType():
            return _each(_check(type_.item_type))
        case inspect.UnionType():
            checks = [check for member in type_.types if (check := _check(member)) is not None]
            return checks[0] if checks else None
        case _:
            return None


def _fields(fields: Mapping[str, Check | None]) -> Check:
    def check(value: dict[str, Any]) -> bool:
        for key, item in value.items():
            if key not in fields:
                return False
            inner = fields[key]
            if inner is not None and item is not None and not inner(item):
                return False
        return True

    return check


def _each(inner: Check | None) -> Check | None:
    return None if inner is None else lambda value: all(map(inner, value))


def _marked(inner: Check | None, marks: Mapping[str, Any]) -> Check | None:
    match marks.get("x-kubernetes-list-type"):
        case "set":
            return lambda value: len(set(value)) == len(value)
        case "map":
            (key,) = marks["x-kubernetes-list-map-keys"]
            return lambda value: len({item[key] for item in value}) == len(value) and (inner is None or inner(value))
        case _:
            return inner
