"""Names that are made of other names: labels of plans, and the plans' own."""

from hashlib import sha256

NODE_LABEL_PREFIX = "node.ipvs.dev/"
LABEL_NAME_LENGTH = 63
"""Of the part of a label's key behind the slash (``k8s.io/apimachinery/pkg/util/validation``)."""
OBJECT_NAME_LENGTH = 253
_DIGEST_LENGTH = 16


def node_label(node: str) -> str:
    """The key of the label that a plan has for every node that it concerns; agents watch for its existence."""
    return NODE_LABEL_PREFIX + shortened(node, LABEL_NAME_LENGTH)


def plan_name(namespace: str, name: str, slice_: int) -> str:
    """The name of one slice of a VirtualService's plan: ``<namespace>.<name>.<n>``.

    Unique, as a namespace has no dot in it.
    """
    ending = f".{slice_}"
    return shortened(f"{namespace}.{name}", OBJECT_NAME_LENGTH - len(ending)) + ending


def shortened(name: str, length: int) -> str:
    """``name`` where it fits, else its beginning and a hash of the whole, ``length`` characters at most.

    Characters that a name may not have before a dash are left out, so that the result is a name again.
    """
    if len(name) <= length:
        return name
    beginning = name[: length - _DIGEST_LENGTH - 1].rstrip("-._")
    return f"{beginning}-{sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]}"
