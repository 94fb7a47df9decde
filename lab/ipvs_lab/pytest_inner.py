"""The pytest inside a lab kernel: runs the tests it is told to and reports each step to the one outside."""

import json
import re
import shutil
import signal
import warnings
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ipvs_lab.net import evidence
from ipvs_lab.replay import append

EVIDENCE = Path("build/lab")  # below pytest's root directory


def evidence_directory(root: Path, nodeid: str) -> Path:
    """Where evidence of a failed test goes."""
    return root / EVIDENCE / re.sub(r"[^\w.=-]+", "_", nodeid).strip("_")[:180]


class TookTooLongError(Exception):
    """A test was not done in its time, by the clock of the kernel it ran in."""


class Inner:
    """Hooks of the inner pytest. The orders are `orders.json`: node ids with their limits in seconds; reports go to
    `reports` beside it."""

    def __init__(self, config: pytest.Config, directory: Path) -> None:
        self.config = config
        self.limits: dict[str, float] = json.loads((directory / "orders.json").read_text())
        self.reports = directory / "reports"

    def tell(self, kind: str, nodeid: str, **more: Any) -> None:
        """One record for the outside."""
        append(self.reports, {"kind": kind, "nodeid": nodeid, **more})

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Exactly the tests ordered, in that order."""
        found = {item.nodeid: item for item in items}
        items[:] = [found[nodeid] for nodeid in self.limits if nodeid in found]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that can be collected outside but not in here."""
        if report.failed:
            self.tell("error", report.nodeid, text=str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self.tell("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test is over."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.tell("report", report.nodeid, data=data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over."""
        self.tell("finish", nodeid)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        """A warning that was not made an error."""
        self.tell(
            "warning",
            nodeid,
            message=str(warning_message.message),
            category=warning_message.category.__name__,
            filename=warning_message.filename,
            lineno=warning_message.lineno,
            when=when,
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Say where evidence of this test goes, and forget that of an earlier run."""
        evidence.directory = evidence_directory(self.config.rootpath, item.nodeid)
        shutil.rmtree(evidence.directory, ignore_errors=True)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Interrupt a test that hangs, so that it fails with the line where it hung and not with a dead kernel."""
        limit = self.limits[item.nodeid]

        def interrupt(number: int, frame: FrameType | None) -> None:
            __tracebackhide__ = True
            raise TookTooLongError(f"not done after {limit:g} s")

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep what the networks of a failed test can tell, while they are there, and say where."""
        report = yield
        if report.failed:
            evidence.keep_all()
            if evidence.directory is not None and evidence.directory.exists():
                where = evidence.directory.relative_to(self.config.rootpath)
                names = ", ".join(sorted(path.name for path in evidence.directory.iterdir()))
                report.sections.append(("lab evidence", f"{where}: {names}"))
        return report
