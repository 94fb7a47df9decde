"""Label selectors, as ``k8s.io/apimachinery/pkg/labels`` decides them."""

from collections.abc import Mapping

from ipvs_api.meta import LabelSelector, LabelSelectorRequirement, SelectorOperator

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The one label that every Namespace has: its name."""


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """All of ``matchLabels`` and ``matchExpressions`` hold; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def _holds(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    if requirement.operator == SelectorOperator.EXISTS:
        return value is not None
    if requirement.operator == SelectorOperator.DOES_NOT_EXIST:
        return value is None
    if requirement.operator == SelectorOperator.IN:
        return value in requirement.values
    return value not in requirement.values


def keys(selector: LabelSelector) -> set[str]:
    """The labels a selector looks at."""
    return {*selector.match_labels, *(requirement.key for requirement in selector.match_expressions)}


def faults(selector: LabelSelector, field: str) -> list[str]:
    """What ``metav1.LabelSelector`` forbids: values missing or too many for the operator."""
    found = []
    for index, requirement in enumerate(selector.match_expressions):
        needs_values = requirement.operator in (SelectorOperator.IN, SelectorOperator.NOT_IN)
        if needs_values and not requirement.values:
            found.append(f"{field}.matchExpressions[{index}].values: found none, {requirement.operator} needs one")
        elif not needs_values and requirement.values:
            found.append(
                f"{field}.matchExpressions[{index}].values: found {', '.join(requirement.values)}, "
                f"{requirement.operator} takes none"
            )
    return found


def words(selector: LabelSelector | None) -> str:
    """As ``kubectl --selector`` writes it."""
    if selector is None:
        return "everything"
    found = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    for requirement in selector.match_expressions:
        values = f"({','.join(requirement.values)})"
        found.append(
            {
                SelectorOperator.IN: f"{requirement.key} in {values}",
                SelectorOperator.NOT_IN: f"{requirement.key} notin {values}",
                SelectorOperator.EXISTS: requirement.key,
                SelectorOperator.DOES_NOT_EXIST: f"!{requirement.key}",
            }[requirement.operator]
        )
    return ", ".join(found) or "everything"
