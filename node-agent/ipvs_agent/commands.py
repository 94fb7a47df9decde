"""What each subcommand of ``ipvs-agent`` does."""

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ipvs_agent.store import Store, StoreError

if TYPE_CHECKING:
    from ipvs_agent.sources.cluster import ClusterSource
    from ipvs_agent.sources.manifests import ManifestsSource


class CommandError(Exception):
    """Ends a subcommand with a message for the person who called it."""


STATE_FILE = "state.db"


def run(options: argparse.Namespace) -> int:
    """The agent itself, until SIGTERM or SIGINT."""
    import asyncio
    from functools import partial

    from ipvs_agent.agent import Agent
    from ipvs_agent.loop import Loop

    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    _must_be_root()
    with _lock(options.state_dir):
        store = _open(options.state_dir)
        cluster = _cluster(options, store) if options.kubernetes else None
        agent = Agent(options.node, cluster or _manifests(options, store), store, options.sysctl_root)
        tell_lacking = partial(_tell_lacking, cluster) if cluster is not None else None
        asyncio.run(Loop(agent, options.socket, options.health_port, tell_lacking).run())
    return 0


def _tell_lacking(source: "ClusterSource", words: str) -> bool:
    """The kernel lacks a module: who looks at the IPVSNode learns it too, since this agent can do nothing else. False
    where it could not be told: there may be no IPVSNode yet, or no API server."""
    from ipvs_agent.agent import wall_clock
    from ipvs_agent.kernel.host import boot_id
    from ipvs_agent.report import report_lacking
    from ipvs_kube.errors import ApiError

    try:
        source.tell(lambda before: report_lacking(words, os.uname().release, boot_id(), before, wall_clock()))
    except (ApiError, ValueError) as error:
        logging.getLogger(__name__).warning("report: %s", error)
        return False
    return True


def plan(options: argparse.Namespace) -> int:
    """What ``run`` would change now."""
    from ipvs_agent.agent import Agent
    from ipvs_agent.show import show_preview

    _must_be_root()
    store = _copy(options.state_dir)
    source = _read_once(_cluster(options, store)) if options.kubernetes else _manifests(options, store)
    agent = Agent(options.node, source, store)
    with agent.looking():
        agent.read_source()
        changes = agent.preview()
        print(show_preview(agent.node, changes, options.output, source.condition.lower()), end="")
        for error in agent.errors:
            print(error, file=sys.stderr)
    return 1 if agent.errors else 0


def status(options: argparse.Namespace) -> int:
    """What the running agent reports; without one, what the kernel and the last plans say."""
    from ipvs_agent.show import show_status
    from ipvs_agent.view import ask_agent, look

    view = ask_agent(options.socket)
    if view is None:
        _must_be_root()
        path = options.state_dir / STATE_FILE
        if not path.exists():
            raise CommandError(f"no agent answers on {options.socket} and there is no {path}: nothing of ours is here")
        view = look(_copy(options.state_dir))
    print(show_status(view, options.output), end="")
    return 0


def release(options: argparse.Namespace) -> int:
    """Take away all that is ours."""
    from ipvs_agent.kernel.genetlink import FamilyMissingError
    from ipvs_agent.kernel.whole import Kernel
    from ipvs_agent.release import release as take_away

    _must_be_root()
    path = options.state_dir / STATE_FILE
    remembered, found, failed = path.exists(), False, False
    with _lock(options.state_dir):
        store = _open(options.state_dir)
        try:
            with closing(Kernel(options.sysctl_root)) as kernel:
                for released in take_away(kernel, store):
                    print(released, file=sys.stderr if released.failed else sys.stdout)
                    found, failed = True, failed or released.failed
        except FamilyMissingError as missing:
            print(missing.strerror)  # so no agent has done anything to it
        finally:
            store.close()
        if not failed:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    if not found:
        print("nothing of ours is here")
    elif not remembered:
        raise CommandError(
            f"there was no {path}, which knows our IPVS services and what switches were before: they are as they were. "
            "If the agent ran with another --state-dir, run this again with that"
        )
    if failed:
        raise CommandError("not everything could be taken away; mend what is told above and run it again")
    return 0


def load_modules(options: argparse.Namespace) -> int:
    """Load what can be loaded."""
    from ipvs_agent.kernel.modules import load

    for name in options.names:
        problem = load(name)
        print(f"{name}: not loaded: {problem}" if problem else f"{name}: is there")
    return 0


def _manifests(options: argparse.Namespace, store: Store) -> "ManifestsSource":
    from ipvs_agent.sources.manifests import ManifestsSource

    return ManifestsSource(options.manifests, options.node, dict(store.plans()), store.node_spec())


def _cluster(options: argparse.Namespace, store: Store) -> "ClusterSource":
    from ipvs_agent.sources.cluster import ClusterSource
    from ipvs_kube.api import KubeConfigError, connect

    try:
        api = connect(options.kubeconfig, options.context, user_agent="ipvs-agent")
    except KubeConfigError as error:
        raise CommandError(str(error)) from error
    stored = [owner for owner, _ in store.plans()]
    return ClusterSource(api, options.node, options.namespace, stored, store.node_spec())


def _read_once(source: "ClusterSource") -> "ClusterSource":
    from ipvs_kube.errors import ApiError

    try:
        source.read()
    except ApiError as error:
        raise CommandError(str(error)) from error
    return source


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise CommandError("needs root (CAP_NET_ADMIN and CAP_NET_RAW in the initial user namespace)")


def _open(directory: Path) -> Store:
    try:
        return Store(directory / STATE_FILE)
    except StoreError as error:
        raise CommandError(str(error)) from error


def _copy(directory: Path) -> Store:
    """The state database in memory: what is tried on it leaves no trace."""
    try:
        return Store.copy_of(directory / STATE_FILE)
    except StoreError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _lock(directory: Path) -> Iterator[IO[str]]:
    """One agent (or release) for one state directory."""
    path = directory / "lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise CommandError(f"state directory {directory}: {error.strerror}; choose another with --state-dir") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another ipvs-agent is at work with {directory}; stop it first (systemctl stop ipvs-agent)"
            ) from None
        yield handle
