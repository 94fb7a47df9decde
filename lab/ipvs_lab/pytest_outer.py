"""The pytest outside: hands tests to kernels, watches over them, and retells what they report."""

import json
import shutil
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from ipvs_lab import tools
from ipvs_lab.batches import Batch, Case, Setting, split
from ipvs_lab.kubernetes.beside import api_beside
from ipvs_lab.kubernetes.programs import find_programs
from ipvs_lab.machine import Job, LabError, Machine, Outcome, environment
from ipvs_lab.pytest_inner import evidence_directory
from ipvs_lab.replay import Order, Reader, Record
from ipvs_lab.run import choose_kernel

POLL = 0.03  # seconds between two looks at the kernels
START_LIMIT = 120.0  # seconds a kernel has to boot, import and collect
VIRTUAL_LIMIT = 6 * 3600.0  # seconds of a kernel's virtual time that a test may take
KERNELS = {"kernel": Setting.VIRTUAL, "bench": Setting.REAL, "cluster": Setting.CLUSTER, "apiserver": None, "e2e": None}
"""By directory, the innermost counts: the kernel that a test runs in, None for this machine's own."""
PIECES = 3  # kernels one after the other for each worker: durations are not known before the first run
GRACE = 15.0  # seconds more that the kernel has, for the test inside to fail by itself
DURATIONS = "lab/durations"  # in pytest's cache


@dataclass
class Worker:
    """Kernels that run one after the other. ``batches``: still to run, by whichever worker comes first."""

    batches: list[Batch]
    machine: Machine | None = None
    reader: Reader | None = None
    output: IO[bytes] | None = None
    todo: list[Case] = field(default_factory=list)
    running: str = ""
    setting: Setting = Setting.VIRTUAL
    since: float = 0.0
    beside: ExitStack = field(default_factory=ExitStack)
    """What is to be closed when the kernel has ended."""


def directories(item: pytest.Item) -> list[str]:
    """Names of the directories below pytest's root that a test is in."""
    return item.nodeid.split("::")[0].split("/")[:-1]


class Outer:
    """Hooks of the outer pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.items: dict[str, pytest.Item] = {}
        self.durations: dict[str, float] = {}
        self.kernel = Path()
        self.stray: list[str] = []

    def setting(self, item: pytest.Item) -> Setting | None:
        """The lab kernel that a test belongs into; None: it does not."""
        found = next((KERNELS[name] for name in reversed(directories(item)) if name in KERNELS), None)
        virtual = found is Setting.VIRTUAL and not self.config.option.lab_native
        return Setting.REAL if virtual and item.get_closest_marker("realtime") is not None else found

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run everything else here first, then the lab's tests in their kernels."""
        lab = [item for item in session.items if self.setting(item) is not None]
        if not lab or session.config.option.collectonly:
            return None
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None
        here = [item for item in session.items if self.setting(item) is None]
        for number, item in enumerate(here, 1):
            following = here[number] if number < len(here) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.check_stop(session)
        self.items = {item.nodeid: item for item in lab}
        self.run_lab(session)
        return True

    def check_stop(self, session: pytest.Session) -> None:
        """Stop where pytest's own loop would: after `-x`, or when something asked for it."""
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)

    def run_lab(self, session: pytest.Session) -> None:
        """All the lab's tests."""
        settings = {nodeid: self.setting(item) for nodeid, item in self.items.items()}
        cases = [Case(nodeid, setting) for nodeid, setting in settings.items() if setting is not None]
        capture = self.config.pluginmanager.getplugin("capturemanager")
        try:
            with capture.global_and_fixture_disabled():  # a kernel that has to be built shows its progress
                tools.ensure(tools.RUN)
                self.kernel = choose_kernel(native=self.config.option.lab_native)
                if any(case.setting is Setting.CLUSTER for case in cases):
                    find_programs()
        except LabError as error:
            raise pytest.UsageError(str(error)) from None
        cache = getattr(self.config, "cache", None)  # absent with -p no:cacheprovider
        known: dict[str, float] = cache.get(DURATIONS, {}) if cache else {}
        order = Order(self.items)
        try:
            for setting in Setting:
                # Whose time runs by itself runs alone: a busy neighbour would spoil what it measures.
                several = max(1, self.config.option.lab_workers) if setting is Setting.VIRTUAL else 1
                pieces = several * PIECES if several > 1 else 1
                parts = split([case for case in cases if case.setting is setting], pieces, known)
                batches = [batch for part in parts for batch in part]  # whoever is done takes the next one
                self.run_workers(session, [Worker(batches) for _ in range(several)], order)
            for record in order.rest():
                self.retell(record)
            self.check_stop(session)
        finally:
            if cache:
                cache.set(DURATIONS, known | self.durations)

    def run_workers(self, session: pytest.Session, workers: list[Worker], order: Order) -> None:
        """All of their batches, to the end; what is still running when something stops us ends with us."""
        try:
            while any(worker.machine or worker.batches for worker in workers):
                for worker in workers:
                    for record in self.advance(worker):
                        for one in order.feed(record):
                            self.retell(one)
                            self.check_stop(session)
                time.sleep(POLL)
        finally:
            for worker in workers:
                if worker.machine is not None:
                    worker.machine.__exit__()
                worker.beside.close()

    def advance(self, worker: Worker) -> list[Record]:
        """Look after one worker: what its kernel has reported since, and what follows from its end or its silence."""
        if worker.machine is None:
            if worker.batches:
                self.boot(worker)
            return []
        assert worker.reader is not None
        ended = worker.machine.process.poll() is not None
        records = worker.reader.read()
        for record in records:
            self.note(worker, record)
        if worker.output is not None:
            sys.stdout.buffer.write(worker.output.read())
            sys.stdout.flush()
        if ended:
            return records + self.bury(worker, worker.machine.outcome())
        limit = self.limit(worker.running) + GRACE if worker.running else START_LIMIT
        if time.monotonic() - worker.since > limit:
            outcome = worker.machine.wait(0.01)
            reason = f"reported nothing for {limit:g} s and was killed"
            return records + self.bury(worker, Outcome(None, reason, outcome.last_words))
        return records

    def limit(self, nodeid: str) -> float:
        """Seconds of this machine's time that a test may take."""
        mark = self.items[nodeid].get_closest_marker("lab_timeout")
        return float(mark.args[0] if mark else self.config.option.lab_timeout)

    def boot(self, worker: Worker) -> None:
        """Start the kernel of the worker's next batch."""
        batch = worker.batches.pop(0)
        worker.todo, worker.setting, worker.running = list(batch.cases), batch.setting, ""
        modules = list(dict.fromkeys(str(self.items[case.nodeid].path) for case in batch.cases))
        kernel = choose_kernel(native=False) if batch.setting is Setting.CLUSTER else self.kernel
        virtual = batch.setting is Setting.VIRTUAL and kernel != Path()
        root = str(self.config.rootpath)
        argv = [sys.executable, "-m", "pytest", *self.arguments(), *modules]
        variables = environment("kernel" if kernel != Path() else "native", PYTEST_ADDOPTS="")
        orders = {case.nodeid: VIRTUAL_LIMIT if virtual else self.limit(case.nodeid) for case in batch.cases}
        job, nic = Job(argv, root, variables, keep=[root]), None
        if batch.setting is Setting.CLUSTER:
            job, nic, _ = worker.beside.enter_context(api_beside(job))
        worker.machine = Machine(
            kernel,
            job,
            virtual_time=virtual,
            files={"orders.json": json.dumps(orders)},
            directory_variable="IPVS_LAB_ORDERS",
            nic=nic,
        )
        worker.reader = Reader(worker.machine.directory / "reports")
        if self.config.option.capture == "no":
            worker.output = (worker.machine.directory / "stdout").open("rb")
        worker.since = time.monotonic()

    def arguments(self) -> list[str]:
        """The options of this pytest that say how tests run and how failures read; which tests run is ordered."""
        option = self.config.option
        arguments = ["-p", "no:cacheprovider", f"--rootdir={self.config.rootpath}", f"--tb={option.tbstyle}"]
        if self.config.inipath:
            arguments += ["-c", str(self.config.inipath)]
        arguments += ["-v"] * max(0, option.verbose)
        arguments += ["-l"] * bool(option.showlocals) + ["--runxfail"] * bool(option.runxfail)
        arguments += ["-s"] * (option.capture == "no")
        for value in option.override_ini or []:
            arguments += ["-o", value]
        for value in option.pythonwarnings or []:
            arguments += ["-W", value]
        # Property tests work without Hypothesis' plugin, whose import takes 1.5 s in there; only a seed needs it.
        if (seed := getattr(option, "hypothesis_seed", None)) is not None:
            arguments.append(f"--hypothesis-seed={seed}")
        else:
            arguments += ["-p", "no:hypothesispytest"]
        return arguments

    def note(self, worker: Worker, record: Record) -> None:
        """Follow what the kernel is at."""
        now = time.monotonic()
        if record["kind"] == "start":
            worker.running, worker.since = record["nodeid"], now
        elif record["kind"] == "finish":
            self.durations[worker.running] = round(now - worker.since, 2)
            worker.todo = [case for case in worker.todo if case.nodeid != worker.running]
            worker.running, worker.since = "", now

    def bury(self, worker: Worker, outcome: Outcome) -> list[Record]:
        """A kernel has ended. A test that it took along fails with its last words; tests it did not come to are run
        in a fresh kernel, unless it got nowhere at all, when they fail too."""
        machine, running, todo = worker.machine, worker.running, worker.todo
        assert machine is not None
        output = "".join((machine.directory / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        machine.__exit__()
        worker.beside.close()
        worker.machine = worker.reader = None
        if worker.output is not None:
            worker.output.close()
            worker.output = None
        if not todo:
            return []
        what = "pytest in the lab kernel" if outcome.status is not None else "the lab kernel"
        how = f"ended with status {outcome.status}" if outcome.status is not None else outcome.reason
        text = f"{what} {how}"
        sections = [("last words of the kernel", outcome.last_words), ("output of pytest inside", output[-4000:])]
        if running:
            rest = tuple(case for case in todo if case.nodeid != running)
            if rest:
                worker.batches.insert(0, Batch(worker.setting, rest))
            return self.failure(running, f"{text} while it ran this test", sections, started=True)
        return [
            record
            for case in todo
            for record in self.failure(case.nodeid, f"{text} before it ran this test", sections, started=False)
        ]

    def failure(self, nodeid: str, text: str, sections: list[tuple[str, str]], *, started: bool) -> list[Record]:
        """The records of a test that cannot speak for itself any more."""
        item = self.items[nodeid]
        told = [(name, body) for name, body in sections if body.strip()]
        directory = evidence_directory(self.config.rootpath, nodeid)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "kernel.txt").write_text("\n\n".join(f"# {name}\n{body}" for name, body in told) + "\n")
        report = pytest.TestReport(
            nodeid=nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed",
            longrepr=text,
            when="call",
            sections=told,
        )
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        records: list[Record] = [] if started else [{"kind": "start", "nodeid": nodeid}]
        return [*records, {"kind": "report", "nodeid": nodeid, "data": data}, {"kind": "finish", "nodeid": nodeid}]

    def retell(self, record: Record) -> None:
        """Do what pytest would do had it happened here."""
        hook, nodeid = self.config.hook, record["nodeid"]
        match record["kind"]:
            case "start":
                hook.pytest_runtest_logstart(nodeid=nodeid, location=self.items[nodeid].location)
            case "report":
                report = hook.pytest_report_from_serializable(config=self.config, data=record["data"])
                hook.pytest_runtest_logreport(report=report)
            case "finish":
                hook.pytest_runtest_logfinish(nodeid=nodeid, location=self.items[nodeid].location)
            case "warning":
                category = getattr(__import__("builtins"), record["category"], UserWarning)
                message = warnings.WarningMessage(
                    category(record["message"]), category, record["filename"], record["lineno"]
                )
                hook.pytest_warning_recorded.call_historic(
                    kwargs={"warning_message": message, "when": record["when"], "nodeid": nodeid, "location": None}
                )
            case "error":
                self.stray.append(record["text"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What went wrong inside, outside any test."""
        for text in self.stray:
            terminalreporter.section("in the lab kernel")
            terminalreporter.write_line(text)
