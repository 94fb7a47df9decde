"""Commands of documents: how they are read, and that none goes untested."""

import pytest
from tests.documents import ROOT, Block, Command, DocumentError, block, blocks, shown, substituted
from tests.e2e import steps

WALKS = [ROOT / "tests" / name for name in ("e2e/test_documents.py", "apiserver/test_gitops_health.py")]


def read(*lines: str) -> tuple[Command, ...]:
    return Block("docs/one.md", "One", "", 0, "".join(f"{line}\n" for line in lines)).commands


def test_without_prompts_every_line_is_a_command() -> None:
    assert read("one a", "", "two b      # why") == (Command("one a"), Command("two b"))


def test_prompts_tell_commands_from_their_output() -> None:
    assert read("$ one a   # why", "NAME  # AGE", "", "x     5s", "$ two") == (
        Command("one a", ("NAME  # AGE", "x     5s")),
        Command("two"),
    )
    with pytest.raises(DocumentError, match="output before any command"):
        read("NAME", "$ one")


def test_a_backslash_joins_lines_and_a_hash_in_a_word_is_none_of_ours() -> None:
    assert read("one \\", "  --two \\", "  three") == (Command("one --two three"),)
    assert read("sed 's#a#b#' file") == (Command("sed 's#a#b#' file"),)


def test_blocks_are_found_by_heading_language_and_number() -> None:
    text = "# A\n```\na\n```\n```yaml\nb: 1\n```\n## B\n```\nb\n```\n```\n# no heading\nc\n```\n"
    assert [(one.heading, one.language, one.number, one.text) for one in blocks("x.md", text)] == [
        ("A", "", 0, "a\n"),
        ("A", "yaml", 0, "b: 1\n"),
        ("B", "", 0, "b\n"),
        ("B", "", 1, "# no heading\nc\n"),
    ]


def test_a_heading_that_vanished_fails() -> None:
    assert block("docs/install.md", "Helm").commands
    with pytest.raises(DocumentError, match="below the heading 'Helmet'"):
        block("docs/install.md", "Helmet")
    with pytest.raises(DocumentError, match="no block 9"):
        block("docs/install.md", "Helm", 9)


def test_placeholders_are_substituted_and_one_that_nobody_knows_fails() -> None:
    table = {"REGISTRY": "registry", "192.0.2.10": "10.0.0.1"}
    assert substituted("curl http://192.0.2.10/ REGISTRY/a:0.1.0", table) == "curl http://10.0.0.1/ registry/a:0.1.0"
    for unknown in ("label node NAME", "curl http://192.0.2.1/", "ping 198.51.100.0/24"):
        with pytest.raises(DocumentError, match="nobody says what stands for"):
            substituted(unknown, table)


def test_output_is_as_shown_but_for_what_no_two_runs_have_in_common() -> None:
    command = Command("kubectl get ivs web", ("NAME  VIP         AGE", "web   192.0.2.10  5s"))
    pattern = shown(command, {"192.0.2.10": r"10\.0\.0\.1"}, {r"\d+s": r"\d+[sm]"})
    assert pattern.search("NAME   VIP        AGE\nweb    10.0.0.1   2m\n")
    assert not pattern.search("NAME   VIP        AGE\nweb    10.0.0.12  2m\n")
    assert not pattern.search("NAME   VIP        READY   AGE\nweb    10.0.0.1   True    2m\n")
    assert shown(Command("true"), {}, {}).search("")
    with pytest.raises(DocumentError, match="nobody says what output has for 192"):
        shown(command, {}, {})


def test_every_block_of_commands_is_run_by_the_suite_or_has_a_reason() -> None:
    parts = (steps.run(), set(steps.SAME), set(steps.NOT_RUN))
    assert set[Block]().union(*parts) == steps.every()
    assert sum(map(len, parts)) == len(steps.every()), "a block is in two of them"


def test_every_block_that_is_run_is_run() -> None:
    text = "".join(path.read_text() for path in WALKS)
    names = [name for name, value in vars(steps).items() if isinstance(value, Block)]
    assert [name for name in names if f"steps.{name}" not in text] == []


def test_the_readme_has_the_commands_that_are_run() -> None:
    for one, commands in steps.SAME.items():
        assert one.commands == commands, str(one)
