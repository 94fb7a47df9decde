"""How far each node is with one VirtualService's plans, judged by its report."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from ipvs_api.node import IPVSNodeStatus, PlanFailure
from ipvs_planner.compiled import Compiled
from ipvs_planner.reasons import Reason
from ipvs_planner.reports import Void
from ipvs_planner.servers import concerned


class Stage(StrEnum):
    PROGRAMMED = "Programmed"
    """In the kernel, read back, all of it."""
    PARTLY = "Partly"
    """All but some real servers."""
    FAILED = "Failed"
    """The node said that it could not."""
    LAGGING = "Lagging"
    """The node has not said anything about the current plan."""
    UNKNOWN = "Unknown"
    """The node's report cannot be seen, or does not name all that failed."""


class Progress(NamedTuple):
    node: str
    stage: Stage
    reason: str = ""
    message: str = ""


def progress_of(
    compiled: Compiled, reports: Mapping[str, IPVSNodeStatus], here: str, voids: Mapping[str, Void]
) -> dict[str, Progress]:
    """By node, for every node that the plans concern, sorted by name. ``voids``: whose report does not count."""
    versions: dict[str, list[str]] = {}
    for plan in compiled.plans:
        for node in concerned(plan.spec):
            versions.setdefault(node, []).append(plan.metadata.resource_version)
    servers = sum(len(backend.servers) for plan in compiled.plans for backend in plan.spec.backends)
    return {
        node: Progress(node, Stage.UNKNOWN, *voids[node])
        if node in voids
        else _progress(compiled, node, versions[node], servers, reports, here)
        for node in sorted(versions)
    }


def _progress(
    compiled: Compiled,
    node: str,
    versions: list[str],
    servers: int,
    reports: Mapping[str, IPVSNodeStatus],
    here: str,
) -> Progress:
    report = reports.get(node)
    if report is None:
        if here and node != here:
            message = f"Reports of {node} are not seen on {here}; ask there."
            return Progress(node, Stage.UNKNOWN, Reason.NOT_SEEN_HERE, message)
        return Progress(node, Stage.LAGGING, Reason.PENDING, f"{node} has not reported.")
    if not all(_reached(report.observed_resource_version, version) for version in versions):
        return Progress(node, Stage.LAGGING, Reason.PENDING, f"{node} has not reported the current plan.")
    failures = [failure for failure in report.failures if (failure.namespace, failure.name) == compiled.key]
    whole = [failure for failure in failures if not failure.real_server]
    if whole:
        return Progress(node, Stage.FAILED, _reason(whole[0]), f"{node}: {whole[0].message}")
    if failures:
        first = failures[0]
        failing = len({failure.real_server for failure in failures})
        more = f" (and {failing - 1} more real servers)" if failing > 1 else ""
        stage = Stage.FAILED if failing >= servers else Stage.PARTLY
        about = f"real server {first.real_server}: "
        words = first.message if first.message.startswith(about) else about + first.message
        return Progress(node, stage, _reason(first), f"{node}: {words}{more}")
    if _failures_cut_off(report):
        message = f"{node} has {report.counts.failures} failures and names {len(report.failures)}."
        return Progress(node, Stage.UNKNOWN, Reason.REPORT_TRUNCATED, message)
    return Progress(node, Stage.PROGRAMMED)


def _reason(failure: PlanFailure) -> str:
    """The node's own word where it can be a condition's reason."""
    return failure.reason if failure.reason.isascii() and failure.reason.isidentifier() else Reason.PROGRAMMING_FAILED


def _reached(observed: str, version: str) -> bool:
    """Resource versions are decimal and grow (Kubernetes 1.35, KEP-5504); where they are not, only equal ones count.

    A plan without one was never stored: then the report is the reporter's word on exactly this plan.
    """
    if not version or observed == version:
        return True
    if not (observed.isdecimal() and version.isdecimal()):
        return False
    return (len(observed.lstrip("0")), observed.lstrip("0")) >= (len(version.lstrip("0")), version.lstrip("0"))


def _failures_cut_off(report: IPVSNodeStatus) -> bool:
    """A truncated report in which no other list explains the truncation is taken to have lost failures."""
    if not report.truncated:
        return False
    counts = report.counts
    others = counts.draining > len(report.draining) or counts.unhealthy > len(report.unhealthy)
    return counts.failures > len(report.failures) or not others
