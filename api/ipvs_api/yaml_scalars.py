"""What a YAML scalar means here: null, true, false, a decimal number or text, and nothing else."""

import re
from typing import Any

TAG = "tag:yaml.org,2002:"

_CONSTANTS: dict[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})?\.[0-9]{1,18}(?:[eE][-+]?[0-9]{1,3})?")
_NUMBER_STARTS = frozenset("+-.0123456789")

_TAGGED_TYPES = {TAG + "null": type(None), TAG + "bool": bool, TAG + "int": int, TAG + "float": float}


def plain(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] in _NUMBER_STARTS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
    return text


def tagged(text: str, tag: str) -> Any:
    """What a scalar with an explicit tag means. Raises ``ValueError`` for a tag that is not known or does not fit."""
    if tag in ("!", TAG + "str"):
        return text
    if tag not in _TAGGED_TYPES:
        raise ValueError(f"tag {tag} is not known here")
    value = plain(text)
    if type(value) is not _TAGGED_TYPES[tag]:
        raise ValueError(f"{text!r} is no {tag.removeprefix(TAG)}")
    return value
