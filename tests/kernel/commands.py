"""``ipvs-agent``'s commands as a person at a host sees them, and what dumps say of others' things."""

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.kernel.conftest import Site, run_agent

from ipvs_lab.net import Host, await_condition
from ipvs_lab.net.dumps import Dump

STATE = Path("/var/lib/ipvs-operator")


class Said(NamedTuple):
    """How a command ended: exit status, standard output, standard error."""

    status: int
    output: str
    errors: str


def ipvs_agent(host: Host, *arguments: str, prelude: Callable[[], None] | None = None) -> Said:
    """Run ``ipvs-agent ARGUMENTS`` on a host to its end. ``prelude``: called before, in its process."""
    errors = host.directory / f"{host.name}.stderr"

    def command() -> int:
        with errors.open("w") as stream, contextlib.redirect_stderr(stream):
            if prelude is not None:
                prelude()
            return run_agent(*arguments)

    child = host.fork(command, name=f"ipvs-agent-{arguments[0] if arguments else ''}")
    status = child.wait()
    return Said(status, child.output(), errors.read_text())


def manifests_of(lvs: Site, name: str) -> tuple[str, ...]:
    """The options that ``run`` and ``plan`` need on a host of a site."""
    return "--manifests", str(lvs.directory), "--node", name


def status_says(lvs: Site, name: str, *words: str, timeout: float = 90) -> str:
    """Wait until ``ipvs-agent status`` on a host has all of these (an audit and more may pass); the whole text."""

    def said() -> str:
        text = lvs.agent(name, "status")
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in:\n{text}"
        return text

    return await_condition(said, timeout, f"status of {name}", every=1)


def status_lacks(lvs: Site, name: str, *words: str, timeout: float = 90) -> str:
    """Wait until ``ipvs-agent status`` on a host has none of these any more; the whole text."""

    def said() -> str:
        text = lvs.agent(name, "status")
        present = [word for word in words if word in text]
        assert not present, f"{present} in:\n{text}"
        return text

    return await_condition(said, timeout, f"status of {name}", every=1)


def dumps(lvs: Site, names: Sequence[str]) -> dict[str, Dump]:
    """Dumps of hosts whose own addresses are in force: the kernel is a moment late with IPv6 routes to itself."""
    for name in names:
        await_condition(lambda host=lvs[name]: _has_own_routes(host), 5, f"{name}'s own routes")  # type: ignore[misc]
    return {name: lvs[name].dump() for name in names}


def _has_own_routes(host: Host) -> bool:
    there = host.run("ip", "-6", "route", "show", "table", "local").stdout.split()
    own = {address.split("/")[0] for port in host.plan.ports for address in port.addresses if ":" in address}
    return own <= set(there)


def differences(before: dict[str, Dump], lvs: Site) -> str:
    """What is not as it was on these hosts; "" when all are."""
    found = [dump.difference(lvs[name].dump()) for name, dump in before.items()]
    return "\n".join(text for text in found if text)


def release_all(lvs: Site, names: Sequence[str]) -> None:
    """Stop the agents and release every host."""
    lvs.stop(*names)
    for name in names:
        said = ipvs_agent(lvs[name], "release")
        assert said.status == 0, f"{name}: {said}"


def state_files(host: Host) -> list[str]:
    """What is in the host's state directory."""
    with host.inside():
        return sorted(path.name for path in STATE.iterdir()) if STATE.exists() else []


def section(host: Host, name: str, *patterns: str) -> list[str]:
    """Lines of one section of the host's dump in which one of ``patterns`` (regular expressions) is found."""
    return [line for line in host.dump().sections[name] if any(re.search(pattern, line) for pattern in patterns)]
