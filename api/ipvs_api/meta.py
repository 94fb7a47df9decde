"""What every object of the API carries: metadata and conditions."""

from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, field

from ipvs_api.bounds import DNS_LABEL, Generation, Moment, ObjectName


class Shape(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of our own resources: immutable, camelCase outside.

    Decoding ignores unknown fields, since operator, agents and CRDs are never the same version at once. Where people
    hand us objects without an API server in between (``ipvs_api.manifests``), every unknown field of a ``Shape`` is
    refused by name.
    """


class Loose(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of what others own (metadata, Node): immutable, reads the fields we need and ignores the rest."""


class OwnerReference(Loose, frozen=True):
    """Whom an object goes with (``metav1.OwnerReference``)."""

    kind: str
    name: str
    uid: str
    api_version: str = field(name="apiVersion", default="")
    controller: bool = False


class ObjectMeta(Loose, frozen=True):
    """The part of Kubernetes' ObjectMeta that planning reads."""

    name: ObjectName
    namespace: Annotated[str, Meta(max_length=63, pattern=rf"^\Z|{DNS_LABEL}")] = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class ObjectKey(NamedTuple):
    """An object's identity; ``namespace`` is empty for what is cluster-scoped."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Shape, frozen=True):
    """``metav1.Condition``: ``reason`` is CamelCase for machines, ``message`` says what was found and what to do."""

    type: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])\Z",
        ),
    ]
    status: ConditionStatus
    reason: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?\Z")]
    message: Annotated[str, Meta(max_length=32768)] = ""
    observed_generation: Generation = 0
    last_transition_time: Moment = ""


class SelectorOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


LabelValue = Annotated[str, Meta(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?\Z")]


class LabelSelectorRequirement(Shape, frozen=True):
    """``values``: at least one for ``In`` and ``NotIn``, none for the others."""

    key: Annotated[str, Meta(min_length=1, max_length=317)]
    operator: SelectorOperator
    values: Annotated[tuple[LabelValue, ...], Meta(max_length=64)] = ()


class LabelSelector(Shape, frozen=True):
    """``metav1.LabelSelector``: all of ``matchLabels`` and ``matchExpressions`` must hold; empty selects everything."""

    match_labels: Annotated[dict[str, LabelValue], Meta(max_length=64)] = {}
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Meta(max_length=16)] = ()


def number_of(version: str) -> int:
    """A resource version as a number, which they are from Kubernetes 1.35 on (KEP-5504); -1 for anything else."""
    return int(version) if version.isdecimal() else -1
