"""Commands of the documents, read so that tests run what stands there.

A fenced block without a language holds commands; what is none (a drawing) says `text`. With `$ ` prompts, what has no
prompt is output of the command above it. A backslash at the end of a line joins it with the next, `# …` is dropped.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "$ "
ADDRESS = r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+(?:/\d+)?\b"
"""RFC 5737: nobody has these, so whoever follows a document writes others."""
WORD = r"\b[A-Z][A-Z_]+\b"
COMMENT = re.compile(r"(^|\s+)#( .*)?$")


class DocumentError(Exception):
    """A document has not what was asked for, or has a placeholder that nobody knows."""


@dataclass(frozen=True)
class Command:
    """``output``: the lines shown below it, without those that are empty."""

    text: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block. ``number``: of those of one kind below this very heading, from 0."""

    document: str
    heading: str
    language: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}, {self.heading}, block {self.number} of {self.language or 'commands'}"

    @property
    def commands(self) -> tuple[Command, ...]:
        lines = re.sub(r"\\\n *", "", self.text).splitlines()
        prompts = any(line.startswith(PROMPT) for line in lines)
        made: list[Command] = []
        for line in lines:
            text = COMMENT.sub("", line.removeprefix(PROMPT))
            if prompts and not line.startswith(PROMPT):
                if not made:
                    raise DocumentError(f"{self}: output before any command")
                if line.strip():
                    made[-1] = Command(made[-1].text, (*made[-1].output, line))
            elif text:
                made.append(Command(text))
        return tuple(made)


def blocks(document: str, text: str | None = None) -> Iterator[Block]:
    """All fenced blocks of a document, named by its path below the checkout, or of a ``text`` instead of it."""
    heading, language, lines = "", None, list[str]()
    numbers: dict[tuple[str, str], int] = {}
    for line in ((ROOT / document).read_text() if text is None else text).splitlines():
        if line.startswith("```") and language is None:
            language, lines = line.removeprefix("```").strip(), []
        elif line.startswith("```") and language is not None:
            number = numbers.get((heading, language), 0)
            numbers[heading, language] = number + 1
            yield Block(document, heading, language, number, "\n".join(lines) + "\n")
            language = None
        elif language is not None:
            lines.append(line)
        elif found := re.fullmatch(r"#+ (.+)", line):
            heading = found[1]


def block(document: str, heading: str, number: int = 0, language: str = "") -> Block:
    """One block by the heading above it. DocumentError: there is none."""
    wanted = (heading, language, number)
    for one in blocks(document):
        if (one.heading, one.language, one.number) == wanted:
            return one
    raise DocumentError(f"{document} has no block {number} of {language or 'commands'} below the heading {heading!r}")


def shown(command: Command, addresses: Mapping[str, str], varying: Mapping[str, str]) -> re.Pattern[str]:
    """What the output of a command is searched for: the lines of the document, one after the other, whatever the space
    between words. ``addresses``: a pattern for each. ``varying``: words that differ from run to run, as patterns of the
    document's words and of a run's. DocumentError: an address is in none."""

    def word(text: str) -> str:
        mark = text[-1] if text[-1] in ";,." else ""
        for documented, real in varying.items():
            if re.fullmatch(documented, text.removesuffix(mark)):
                return real + re.escape(mark)
        parts = re.split(f"({ADDRESS})", text)
        if unknown := [part for part in parts[1::2] if part not in addresses]:
            raise DocumentError(f"nobody says what output has for {unknown[0]}")
        return "".join(addresses[part] if number % 2 else re.escape(part) for number, part in enumerate(parts))

    lines = (r"\s+".join(map(word, line.split())) for line in command.output)
    return re.compile("\n".join(rf"^\s*{line}\s*$" for line in lines), re.MULTILINE)


def substituted(text: str, table: Mapping[str, str], placeholders: str = f"{WORD}|{ADDRESS}") -> str:
    """``text`` with another word for each placeholder. DocumentError: one is not in the table."""

    def other(found: re.Match[str]) -> str:
        if found[0] not in table:
            raise DocumentError(f"nobody says what stands for {found[0]} in: {text}")
        return table[found[0]]

    return re.sub(placeholders, other, text)
