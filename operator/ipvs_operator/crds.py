"""Whether the definitions of our resources are there, served, and of a schema that this version can write."""

import msgspec

from ipvs_api.meta import ObjectMeta
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import CRDS, OURS

REVISION_ANNOTATION = "ipvs.dev/schema-revision"
REVISION = 2
"""Of the schemas in ``crds/``; it grows when they get a field that this operator writes or reads."""
REMEDY = "kubectl apply --server-side -f crds/"


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class Definition(msgspec.Struct):
    """``apiextensions.k8s.io/v1`` CustomResourceDefinition, as far as it is looked at."""

    metadata: ObjectMeta
    status: _Status = msgspec.field(default_factory=_Status)


_DEFINITIONS = msgspec.json.Decoder(Definition)


def problems(api: Api) -> list[str]:
    """What is wrong with the definitions, in words with a remedy; empty: all is well. ApiError for anything else."""
    return [words for resource in OURS if (words := judge(str(resource), _read(api, str(resource))))]


def _read(api: Api, name: str) -> Definition | None:
    try:
        return _DEFINITIONS.decode(api.get(CRDS, "", name))
    except ApiError as error:
        if error.not_found:
            return None
        raise


def judge(name: str, definition: Definition | None) -> str:
    """What is wrong with one definition, None where it is not there; empty: nothing."""
    if definition is None:
        return f"CustomResourceDefinition {name} is not there: {REMEDY}"
    revision = definition.metadata.annotations.get(REVISION_ANNOTATION, "")
    if not revision.isdecimal() or int(revision) < REVISION:
        return (
            f"CustomResourceDefinition {name} is of another version: its annotation {REVISION_ANNOTATION} is "
            f"{revision or 'not set'}, wanted is {REVISION} or more: {REMEDY}"
        )
    if definition.metadata.deletion_timestamp:
        return f"CustomResourceDefinition {name} is being deleted; when it is gone: {REMEDY}"
    conditions = definition.status.conditions or []
    if not any(each.type == "Established" and each.status == "True" for each in conditions):
        return f"CustomResourceDefinition {name} is not established yet: kubectl describe crd {name}"
    return ""
