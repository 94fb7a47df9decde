"""The machine of whoever follows a document: a copy of the checkout to edit, and the programs that commands name.

`curl` runs on the client host; `ipvs-agent`, and `ipvs-operator` where HOST is set, on the host that it names.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.documents import ADDRESS, ROOT, Block, Command, DocumentError, shown, substituted
from tests.e2e.lab import LabTestbed
from tests.e2e.testbed import CLIENT

from ipvs_lab.cluster.state import state_directory
from ipvs_lab.net.waiting import await_condition

PARTS = ("charts", "crds", "deploy", "examples", "kustomization.yaml")
VARYING = {r"\d+[smhd]": r"\d+[smhd](?:\d+[smhd])?", r"node\d": r"node\d", r"10\.96\.\d+\.\d+": r"10\.96\.\d+\.\d+"}
"""What no two runs have in common: words of a document, as patterns, and of a run. Ages, who was chosen."""
SHOWN_SECONDS = 120


class Workstation:
    """``table``: what stands for the placeholders of commands; ``addresses``: patterns, for those in output."""

    def __init__(
        self, testbed: LabTestbed, helm: Path, directory: Path, table: dict[str, str], addresses: dict[str, str]
    ) -> None:
        self.testbed, self.checkout = testbed, directory / "checkout"
        self.table, self.addresses = table, addresses
        for name in PARTS:
            source, target = ROOT / name, self.checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        programs = directory / "bin"
        programs.mkdir()
        here = Path(sys.executable).parent
        on = shlex.join([str(here / "ipvs-lab"), "exec", f"--name={testbed.cluster.name}", "--node"])
        scripts = {
            "kubectl": shlex.join(testbed.cluster.kubectl_command()[:1]),
            "helm": str(helm),
            "ipvs-operator": f'${{HOST:+{on} "$HOST" --}} {here / "ipvs-operator"}',
            "ipvs-agent": f'{on} "$HOST" -- {here / "ipvs-agent"}',
            "curl": f"{on} {CLIENT} -- curl --silent --show-error --fail --max-time 10",
        }
        for name, script in scripts.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {script} "$@"\n')
            (programs / name).chmod(0o755)
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(testbed.kubeconfig.read_text())
        # Somebody else's repository is this copy, to git.
        repository = {
            "KEY_0": f"url.file://{self.checkout}.insteadOf",
            "VALUE_0": "https://github.com/owner/ipvs-operator",
        }
        self.environment = testbed.cluster.kubectl_environment() | {
            "HOME": str(directory),
            "XDG_STATE_HOME": str(state_directory().parent),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.kubeconfig),
            "GIT_CONFIG_COUNT": "1",
        }
        self.environment |= {f"GIT_CONFIG_{key}": value for key, value in repository.items()}

    def edit(self, path: str, changes: Mapping[str, str]) -> None:
        """Write something else for what stands in a file of the copy."""
        file = self.checkout / path
        text = file.read_text()
        for old, new in changes.items():
            if old not in text:
                raise DocumentError(f"{path} has no {old} any more")
            text = text.replace(old, new)
        file.write_text(text)

    def written(self, one: Block) -> str:
        """A block that is no commands, as whoever follows the document writes it."""
        return substituted(one.text, self.table, "REGISTRY|OWNER|" + ADDRESS)

    def run(self, one: Block, *, more: Mapping[str, str] | None = None) -> None:
        """All commands of a block: each succeeds, and shows what the document shows. ``more``: arguments to add to the
        command that begins so."""
        lacking = dict(more or {})
        for command in one.commands:
            added = next((start for start in lacking if command.text.startswith(start)), None)
            extra = lacking.pop(added) if added else ""
            self.command(command, extra)
        assert not lacking, f"{one} has no command {lacking}"

    def command(self, command: Command, extra: str = "") -> None:
        text = f"{self.text(command)} {extra}".rstrip()
        pattern = shown(command, self.addresses, VARYING)

        def looks_so() -> bool:
            told = self.shell(text)
            assert pattern.search(told), told
            return True

        if text.startswith("kubectl get "):  # what is looked at comes to be as the document shows it
            await_condition(looks_so, SHOWN_SECONDS, f"{text} shows {command.output}", 0.5)
        else:
            looks_so()

    def text(self, command: Command, **other: str) -> str:
        """A command with its placeholders substituted, some of them by ``other`` words than usual."""
        return substituted(command.text, self.table | other)

    def shell(self, text: str, **variables: str) -> str:
        """What a command writes, run in the copy; it must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.checkout, env=self.environment | variables, timeout=500, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            kinds = self.testbed.kubectl("get", "pods,ipvsnodes,ivs", "--all-namespaces", check=False).stdout
            pytest.fail(f"{text}: status {done.returncode}: {done.stdout}{done.stderr}\n{kinds}")
        return done.stdout

    @contextlib.contextmanager
    def running(self, text: str, log: Path, **variables: str) -> Iterator[None]:
        """A command that goes on, and does so until the context ends."""
        with log.open("wb") as told:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"], cwd=self.checkout, env=self.environment | variables,
                stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            )  # fmt: skip
        with process:
            try:
                yield
                assert process.poll() is None, f"{text}: {log.read_text()}"
            finally:
                process.terminate()
