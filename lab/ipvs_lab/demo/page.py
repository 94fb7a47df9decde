"""How the demo looks: headings with the time, commands with their output, edits of a manifest, bars."""

import textwrap
import time
from collections.abc import Iterable, Mapping

WIDTH = 110
BAR = 40  # characters of the longest bar
BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"


class Page:
    """Writes to standard output, line by line. `began`: when the demo did, by the wall clock."""

    def __init__(self, began: float, *, colour: bool) -> None:
        self.began = began
        self.colour = colour
        self.chapter = 0

    def paint(self, text: str, *codes: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\033[{';'.join(codes)}m{text}\033[0m" if self.colour and codes else text

    def line(self, text: str = "", *codes: str) -> None:
        """One line as it is, indented."""
        print(f"   {self.paint(text, *codes)}" if text else "", flush=True)

    def heading(self, title: str) -> None:
        """The next chapter."""
        self.chapter += 1
        elapsed = f"{time.time() - self.began:.1f} s"
        text = f"{self.chapter}  {title}"
        print(f"\n{self.paint(text, BOLD)}{self.paint(elapsed.rjust(max(2, WIDTH - len(text))), DIM)}\n", flush=True)

    def say(self, text: str) -> None:
        """A paragraph."""
        for part in textwrap.wrap(text, WIDTH - 3, break_on_hyphens=False):
            self.line(part)

    def fact(self, text: str) -> None:
        """Something that was measured and is as it should be."""
        first, *more = textwrap.wrap(text, WIDTH - 5, break_on_hyphens=False)
        self.line(f"{self.paint('✓', GREEN)} {first}")
        for part in more:
            self.line(f"  {part}")

    def problem(self, text: str) -> None:
        """Something that is not."""
        first, *more = textwrap.wrap(text, WIDTH - 5, break_on_hyphens=False) or [""]
        self.line(f"{self.paint('✗', RED)} {self.paint(first, RED)}")
        for part in more:
            self.line(f"  {part}", RED)

    def command(self, host: str, command: str, output: str) -> None:
        """A command on a host and what it wrote."""
        self.line(f"{self.paint(f'{host}#', CYAN)} {self.paint(command, BOLD)}")
        for line in output.rstrip().splitlines():
            for part in textwrap.wrap(line, WIDTH - 3, subsequent_indent="    ", break_on_hyphens=False) or [""]:
                self.line(part)

    def listing(self, name: str, text: str) -> None:
        """A file."""
        self.line(f"{name}:", DIM)
        for line in text.rstrip().splitlines():
            self.line(f"  {line}")

    def edit(self, name: str, removed: Iterable[str], added: Iterable[str]) -> None:
        """What changes in a file."""
        self.line(f"{name}:", DIM)
        for sign, lines, code in (("-", removed, RED), ("+", added, GREEN)):
            for line in lines:
                self.line(f"{sign} {line}", code)

    def bars(self, counts: Mapping[str, int]) -> None:
        """A bar for each, as long as its count is large."""
        width = max(map(len, counts), default=0)
        longest = max(counts.values(), default=0)
        for name, count in counts.items():
            bar = "█" * (max(1, round(count / longest * BAR)) if count else 0)
            self.line(f"{name:{width}}  {self.paint(bar, CYAN)} {count}")
