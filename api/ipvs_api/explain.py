"""Everything that is wrong with an object that a person wrote, from its schema, in words.

Slow (jsonschema alone takes longer to import than a thousand good manifests to read), so only for objects that the
types have refused.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from ipvs_api import bounds
from ipvs_api.schemas import CRD_FILES, json_schema, openapi_schema
from ipvs_api.yaml_events import Path, Place

MAX_FAULTS = 100
"""At most so many are told of one object."""


class Fault(NamedTuple):
    """``of_key``: the fault is the field's name, not its value. ``place``: in the text, where that is known already."""

    path: Path
    message: str
    of_key: bool = False
    place: Place | None = None


def faults(kind: str, value: dict[str, Any]) -> list[Fault]:
    """What is wrong with an object of one of our kinds or a ``Node``, each fault once; empty: nothing."""
    found = dict.fromkeys(_schema_faults(kind, without_nulls(value)))
    if kind in CRD_FILES:
        schema = openapi_schema(kind)
        properties = {name: {} for name in schema["properties"]} | {"spec": schema["properties"]["spec"]}
        found |= dict.fromkeys(_closed_faults({"type": "object", "properties": properties}, value, ()))
    if len(found) > MAX_FAULTS:
        more = Fault((), f"{len(found) - MAX_FAULTS} more faults of this object are not listed")
        return [*list(found)[:MAX_FAULTS], more]
    return list(found)


def without_nulls(value: Any) -> Any:
    """A copy without the fields that are null, as an API server reads an object whose fields are not nullable."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _closed_faults(schema: dict[str, Any], value: Any, path: Path) -> Iterator[Fault]:
    """Fields that the schema does not have, and what occurs twice in a list that is a set or a map."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for key, item in value.items():
            if key in properties:
                yield from _closed_faults(properties[key], item, (*path, key))
            elif schema.get("type") == "object" and "additionalProperties" not in schema:
                yield Fault((*path, key), f"unknown field{_suggestion(key, list(properties))}", of_key=True)
    elif isinstance(value, list) and "items" in schema:
        yield from _repetitions(schema, value, path)
        for index, item in enumerate(value):
            yield from _closed_faults(schema["items"], item, (*path, index))


def _repetitions(schema: dict[str, Any], items: list[Any], path: Path) -> Iterator[Fault]:
    keys = schema.get("x-kubernetes-list-map-keys", [])
    if not keys and schema.get("x-kubernetes-list-type") != "set":
        return
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        identity = item.get(keys[0]) if keys and isinstance(item, dict) else item
        if identity is None:
            continue
        earlier = first.setdefault(json.dumps(identity, default=str, sort_keys=True), index)
        if earlier != index:
            where = field_text((*path, earlier, *keys))
            yield Fault((*path, index, *keys), f"found {_shown(identity)} again, it is {where} already")


def _suggestion(found: str, known: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(found.lower(), lowered, n=1, cutoff=0.7)
    if close:
        return f'; did you mean "{lowered[close[0]]}"?'
    return f"; allowed here: {', '.join(known) or 'none'}"


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    extend: Callable[..., Any] = validators.extend
    return extend(Draft202012Validator, type_checker=types)(json_schema(kind))


def _schema_faults(kind: str, value: Any) -> Iterator[Fault]:
    for error in _validator(kind).iter_errors(value):
        path = tuple(error.absolute_path)
        if error.validator == "required":
            for name in error.validator_value:
                if name not in error.instance:
                    yield Fault(path, f'field "{name}" is missing')
        else:
            words = _WORDS[error.validator]
            yield Fault(path, words(error.instance, error.validator_value, error.schema))


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_PATTERNS = {
    bounds.DNS_LABEL: "lower-case letters, digits and '-', with a letter or digit at both ends",
    bounds.DNS_SUBDOMAIN: "lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    bounds.ADDRESS: "an IPv4 or IPv6 address",
    bounds.PREFIX: "a prefix such as 192.0.2.0/24 or 2001:db8::/64",
    bounds.RANGE: "an address, a prefix (192.0.2.0/28) or a range (192.0.2.32-192.0.2.40)",
    bounds.INTERFACE: "the name of a network interface",
}


def _wrong_type(value: Any, allowed: str | list[str], _: Any) -> str:
    expected = [allowed] if isinstance(allowed, str) else allowed
    hint = ""
    if "integer" in expected and isinstance(value, str) and value.isdecimal():
        hint = " (without quotes and leading zeros)"
    elif "string" in expected and isinstance(value, bool | int | float):
        hint = f" (in quotes: {json.dumps(json.dumps(value))})"
    return f"found {_shown(value)}, expected {' or '.join(_TYPES[name] for name in expected)}{hint}"


def _not_listed(value: Any, allowed: list[str], _: Any) -> str:
    same = [name for name in allowed if isinstance(value, str) and name.lower() == value.lower()]
    hint = f'; did you mean "{same[0]}"?' if same else ""
    return f"found {_shown(value)}, allowed: {', '.join(allowed)}{hint}"


def _out_of_bounds(value: Any, _: Any, schema: dict[str, Any]) -> str:
    return f"found {_shown(value)}, allowed: {_range(schema.get('minimum'), schema.get('maximum'))}"


def _wrong_length(value: str, _: Any, schema: dict[str, Any]) -> str:
    allowed = _range(schema.get("minLength"), schema.get("maxLength"))
    return f"found {len(value)} characters, allowed: {allowed}"


def _wrong_size(value: Any, _: Any, schema: dict[str, Any]) -> str:
    least = schema.get("minItems", schema.get("minProperties"))
    most = schema.get("maxItems", schema.get("maxProperties"))
    return f"found {len(value)} entries, allowed: {_range(least, most)}"


def _wrong_pattern(value: str, pattern: str, _: Any) -> str:
    return f"found {_shown(value)}, expected {_PATTERNS.get(pattern, 'what matches ' + pattern)}"


def _no_multiple(value: Any, factor: Any, _: Any) -> str:
    return f"found {_shown(value)}, expected a multiple of {factor}"


_WORDS: dict[str, Callable[[Any, Any, Any], str]] = {
    "type": _wrong_type,
    "enum": _not_listed,
    "minimum": _out_of_bounds,
    "maximum": _out_of_bounds,
    "minLength": _wrong_length,
    "maxLength": _wrong_length,
    "minItems": _wrong_size,
    "maxItems": _wrong_size,
    "minProperties": _wrong_size,
    "maxProperties": _wrong_size,
    "pattern": _wrong_pattern,
    "multipleOf": _no_multiple,
}


def _range(least: int | None, most: int | None) -> str:
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing (null)"
        case str():
            text = value if len(value) <= 60 else value[:57] + "..."
            return json.dumps(text, ensure_ascii=False)
        case _:
            return json.dumps(value)


def field_text(path: Path) -> str:
    """``spec.ports[0].port``; keys that are no plain words in brackets: ``metadata.labels["a/b"]``."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text
