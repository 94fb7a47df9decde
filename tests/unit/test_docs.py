"""Documents and examples that must not rot: examples are accepted, tables name what the code has, links lead somewhere.

The field tables of docs/manifests.md are written by `python tests/unit/test_docs.py`.
"""

import ast
import configparser
import inspect
import re
import shlex
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ipvs_agent import main as agent_command
from ipvs_agent import report
from ipvs_agent.desired.share import Reason as HostReason
from ipvs_api.manifests import Severity, merge, read_manifest
from ipvs_api.meta import ObjectKey
from ipvs_api.objects import Declared
from ipvs_api.schemas import openapi_schema
from ipvs_api.virtualservice import Forwarding, Protocol, ReturnPath, TunnelType
from ipvs_lab import example
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.reasons import WITHDRAWN
from ipvs_planner.reasons import Reason as PlanReason
from ipvs_planner.snapshot import Snapshot

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "docs" / "manifests.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("lab/*.md")])
EXAMPLES = sorted(
    {path.parent for path in ROOT.glob("examples/**/*.yaml")}
    - {ROOT / "examples" / name for name in ("kubernetes", "gitops/argocd", "gitops/flux")}
)
"""Directories that are whole; those for a cluster are applied to one in tests/apiserver."""
UNIT = ROOT / "examples" / "systemd" / "ipvs-agent.service"


# Field tables, made from the CRDs.


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field below a schema: path, its schema, whether it must be there."""
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, part, name in schema.get("required", [])
        yield from fields(part, here)
        if "items" in part:
            yield from fields(part["items"], f"{here}[]")


def kind_of(part: dict[str, Any]) -> str:
    """A field's type, in a word or two."""
    if "enum" in part:
        return ", ".join(part["enum"])
    if "items" in part:
        inner = kind_of(part["items"])
        return f"list of {inner}" if part["items"]["type"] != "string" or "enum" in part["items"] else "list of text"
    if part.get("x-kubernetes-int-or-string"):
        return "name or number"
    words = {"integer": "number", "boolean": "true, false", "string": "text", "object": "object"}
    return "map of text" if "additionalProperties" in part else words[part["type"]]


def default_of(part: dict[str, Any], *, required: bool) -> str:
    """What stands there when nothing is written."""
    if required:
        return "required"
    default = part.get("default")
    if default in (None, {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        return f"`{{{', '.join(f'{key}: {value}' for key, value in default.items())}}}`"
    return f"`{default}`"


def rules(schema: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, str]]:
    """Every CEL rule's message, with the field that it is about."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield path + rule.get("fieldPath", ""), rule["message"]
    for name, part in schema.get("properties", {}).items():
        yield from rules(part, f"{path}.{name}")
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[]")


def tables(kind: str) -> str:
    """The fields of a kind's spec, and the rules between them."""
    spec = openapi_schema(kind)["properties"]["spec"]
    rows = ["| field of `spec` | type | default | meaning |", "|---|---|---|---|"]
    for path, part, required in fields(spec):
        meaning = " ".join(part["description"].split()).replace("|", "\\|")
        rows.append(f"| `{path}` | {kind_of(part)} | {default_of(part, required=required)} | {meaning} |")
    rows += ["", "Refused:", "", "| field | because |", "|---|---|"]
    rows += [f"| `{path}` | {message} |" for path, message in dict.fromkeys(rules(spec))]
    return "\n".join(rows) + "\n"


def with_tables(text: str) -> str:
    """The document with its tables made anew."""
    pattern = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{tables(found[2])}{found[3]}", text)


def test_manifests_document_names_every_field_with_its_default_and_meaning() -> None:
    text = MANIFESTS.read_text()
    assert text.count("<!-- fields: ") == 2
    assert text == with_tables(text), "the CRDs have changed: run python tests/unit/test_docs.py"


def test_field_tables_reach_fields_of_fields() -> None:
    text = tables("VirtualService")
    assert "| `ports[].protocol` | TCP, UDP, SCTP | `TCP` | Transport protocol. |" in text
    assert "`backends.static[].maxConnections`" in text
    assert "| `spec.onePacket` | needs every port to be UDP |" in text


# Reasons, and the command line.


def reason_rows(heading: str) -> dict[str, str]:
    """Reasons in the table below a heading of docs/agent.md, with their rows."""
    section = (ROOT / "docs" / "agent.md").read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    return {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` \|.*$", section, re.MULTILINE)}


def test_agent_document_has_every_reason_of_a_host() -> None:
    assert sorted(reason_rows("Reasons of the host")) == sorted(reason.value for reason in HostReason)


def test_agent_document_has_every_reason_of_the_planner() -> None:
    assert sorted(reason_rows("Reasons of the plan")) == sorted(reason.value for reason in PlanReason)


def test_agent_document_says_which_refusals_drain() -> None:
    drained = {reason for reason, row in reason_rows("Reasons of the plan").items() if "**Drained**" in row}
    assert drained == {reason.value for reason in WITHDRAWN}


def test_agent_document_explains_every_word_of_the_node_conditions() -> None:
    tree = ast.parse(Path(inspect.getfile(report)).read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    words = {text for text in texts if re.fullmatch(r"([A-Z][a-z]+)+", text) and text != "Draining"}
    assert {"Ready", "Networking", "SeeConditions", "Invalid"} <= words
    section = (ROOT / "docs" / "agent.md").read_text().partition("## The node's conditions\n")[2].partition("\n### ")[0]
    assert words == {word for word in words if f"`{word}`" in section}


def commands_in(text: str) -> Iterator[list[str]]:
    """Every `ipvs-agent …` in a document that has arguments, as a shell would split it."""
    for found in re.finditer(r"(?:^|[`/ ])ipvs-agent ((?:run|plan|status|release)\b[^`\n#]*)", text, re.MULTILINE):
        yield shlex.split(found[1].strip().rstrip("&").replace("…", "x"))


@pytest.mark.parametrize("document", [*DOCUMENTS, UNIT], ids=lambda path: path.name)
def test_commands_in_documents_are_understood(document: Path) -> None:
    for command in commands_in(document.read_text()):
        if command[0] in ("run", "plan") and len(command) == 1:
            continue  # in a sentence, without its arguments
        if command[0] in ("status", "release") and not any(word.startswith("-") for word in command[1:]):
            command = command[:1]  # prose goes on behind it
        agent_command.parser().parse_args(command)


def test_readme_shows_a_whole_run() -> None:
    verbs = {command[0] for command in commands_in((ROOT / "README.md").read_text())}
    assert verbs == {"run", "plan", "status", "release"}


# Links.


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


# Examples.


def declared(directory: Path) -> dict[ObjectKey, Declared]:
    """The objects of a directory; its files must be without a fault."""
    merged = merge(read_manifest(path.read_bytes(), path.name) for path in sorted(directory.glob("*.yaml")))
    assert [str(error) for error in merged.errors if error.severity is Severity.ERROR] == []
    return {key: located.object for key, located in merged.objects.items()}


def compiled(directory: Path) -> list[Compiled]:
    """What the planner makes of a directory's virtual services."""
    snapshot = Snapshot(trusted=True)
    for item in declared(directory).values():
        snapshot.put(item)
    return [compile_virtual_service(snapshot, key) for key in sorted(snapshot.keys())]


@pytest.mark.parametrize("directory", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_accepted(directory: Path) -> None:
    results = compiled(directory)
    assert results
    for result in results:
        assert [str(finding) for finding in result.refusals] == [], str(result.key)
        assert result.outcome is Outcome.PLANNED


def test_readme_example_is_accepted(tmp_path: Path) -> None:
    found = re.search(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    (tmp_path / "readme.yaml").write_text(found[1])
    (result,) = compiled(tmp_path)
    assert result.outcome is Outcome.PLANNED, [str(finding) for finding in result.refusals]


def test_the_lab_shows_the_example_for_a_cluster_with_its_own_addresses_and_image() -> None:
    text, vip = example.example(IPv4Network("10.0.0.16/28"))
    found = read_manifest(text.encode(), "example")
    assert [str(error) for error in found.errors if error.severity is Severity.ERROR] == []
    specs = {type(located.object).__name__: located.object.spec for located in found.objects}
    assert specs["DirectorGroup"].addresses == ("10.0.0.16/28",)
    assert specs["VirtualService"].addresses == (vip,) == ("10.0.0.26",)
    assert example.IMAGE not in text


def test_features_show_every_way_to_forward() -> None:
    specs = [plan.spec for result in compiled(ROOT / "examples" / "features") for plan in result.plans]
    assert {spec.forwarding for spec in specs} == set(Forwarding)
    assert {spec.return_path for spec in specs} == set(ReturnPath)
    assert {port.protocol for spec in specs for port in spec.ports} == set(Protocol)
    assert TunnelType.GUE in {spec.tunnel.type for spec in specs}
    assert any(spec.persistence for spec in specs)
    assert any(spec.allowed_sources for spec in specs)
    assert any(spec.one_packet for spec in specs)


def test_unit_runs_the_agent_and_keeps_what_the_kernel_has() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    options = agent_command.parser().parse_args(arguments)
    assert Path(program).name == "ipvs-agent"
    assert (options.verb, options.node, str(options.manifests)) == ("run", "%H", "/etc/ipvs")
    assert options.state_dir == Path("/var/lib") / service["StateDirectory"]
    assert options.socket.parent == Path("/run") / service["RuntimeDirectory"]
    assert set(service["CapabilityBoundingSet"].split()) == {"CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert service["Restart"] == "always"
    assert not {"ExecStop", "ExecStopPost", "ProtectKernelTunables", "PrivateNetwork"} & set(service)


if __name__ == "__main__":
    MANIFESTS.write_text(with_tables(MANIFESTS.read_text()))
