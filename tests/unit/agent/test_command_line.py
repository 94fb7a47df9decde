"""``ipvs-agent``'s options: where what is wanted comes from, and what does not go together."""

import argparse
import subprocess
import sys

import pytest

from ipvs_agent import commands
from ipvs_agent.kernel.modules import LOADED
from ipvs_agent.main import main


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    monkeypatch.delenv("SYSCTL_ROOT", raising=False)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Options that subcommands were called with."""
    found: list[argparse.Namespace] = []

    def take(options: argparse.Namespace) -> int:
        found.append(options)
        return 0

    for verb in ("run", "plan", "release"):
        monkeypatch.setattr(commands, verb, take)
    return found


REFUSED = {
    "no source": (["run", "--node", "n"], "one of the arguments --manifests --kubernetes is required"),
    "two sources": (["run", "--manifests", "d", "--kubernetes", "--node", "n"], "not allowed with argument"),
    "no node": (["run", "--kubernetes"], "no node is known: say --node, or set NODE_NAME"),
    "no node for a plan": (["plan", "--manifests", "d"], "no node is known: say --node, or set NODE_NAME"),
    "a kubeconfig": (["run", "--manifests", "d", "--node", "n", "--kubeconfig", "f"], "--kubeconfig goes with"),
    "a context": (["plan", "--manifests", "d", "--node", "n", "--context", "c"], "--context goes with --kubernetes"),
    "a namespace": (["run", "--manifests", "d", "--node", "n", "--namespace", "s"], "--namespace goes with"),
    "a port": (["run", "--kubernetes", "--node", "n", "--health-port", "65536"], "a number from 0 to 65535"),
    "no module": (["load-modules"], "the following arguments are required: MODULE"),
    "a port for a plan": (["plan", "--kubernetes", "--node", "n", "--health-port", "80"], "unrecognized arguments"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_a_usage_error(
    name: str, taken: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    words, told = REFUSED[name]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert taken == []


@pytest.mark.parametrize("words", [["run", "--kubernetes", "--node", "n"], ["release"]], ids=["run", "release"])
def test_switches_are_written_where_an_option_or_the_environment_says(
    words: list[str], taken: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words) == 0
    monkeypatch.setenv("SYSCTL_ROOT", "/host/proc/sys")
    assert main(words) == 0
    assert main([*words, "--sysctl-root=/elsewhere"]) == 0
    assert [str(options.sysctl_root) for options in taken] == ["/proc/sys", "/host/proc/sys", "/elsewhere"]


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_node_is_the_environments_where_no_option_names_it(
    verb: str, taken: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "worker-1")
    main([verb, "--kubernetes"])
    main([verb, "--kubernetes", "--node", "worker-2"])
    assert [options.node for options in taken] == ["worker-1", "worker-2"]


def test_the_namespace_is_the_pods_or_the_usual_one(
    taken: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--kubernetes", "--node", "n"]
    main(words)
    monkeypatch.setenv("POD_NAMESPACE", "lvs")
    main(words)
    main([*words, "--namespace", "other"])
    assert [options.namespace for options in taken] == ["ipvs-system", "lvs", "other"]


def test_an_api_server_that_is_not_configured_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert main(["plan", "--kubernetes", "--node", "n", "--kubeconfig", "/nowhere", "--state-dir", "/nowhere"]) == 1
    assert "ipvs-agent plan: no API server is configured: kubeconfig /nowhere: " in capsys.readouterr().err


def test_a_module_that_cannot_be_loaded_is_told_and_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    there = next(LOADED.iterdir()).name
    assert main(["load-modules", "no_such_module", there]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no_such_module: not loaded: modprobe cannot be run: No such file or directory",
        f"{there}: is there",
    ]


@pytest.mark.slow
def test_help_and_manifests_need_no_kubernetes() -> None:
    script = """
import sys
from ipvs_agent.main import main
try:
    main(["--help"])
except SystemExit:
    pass
import ipvs_agent.loop, ipvs_agent.commands, ipvs_agent.sources.manifests
print(sorted(name for name in sys.modules if name.split(".")[0] in ("kubernetes", "urllib3")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
