"""`python -m ipvs_lab.demo [--manifests DIR]`, which is `make demo [MANIFESTS=DIR]`."""

import argparse
import compileall
import os
import sys
import time
from pathlib import Path

from ipvs_lab import tools
from ipvs_lab.demo.page import DIM, Page
from ipvs_lab.machine import Job, LabError, environment, inside
from ipvs_lab.run import choose_kernel, run_job

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("api", "planner", "node-agent", "lab")
LONGEST = 300.0  # seconds after which a demo that hangs is ended
OWN = """make demo MANIFESTS=dir                  the same network with the YAML files of a directory
make demo MANIFESTS=examples/features    more to look at, and to copy from
.venv/bin/ipvs-lab shell one             walk around in such a network

Nodes are called director, rs1, rs2 and rs3, as in examples/demo. What can be written is in docs/manifests.md."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("make demo", description="The agent on real hosts of a lab kernel, with traffic.")
    top.add_argument("--manifests", type=Path, metavar="DIR", help="your own manifests instead of the story")
    top.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    top.add_argument("--colour", action="store_true", help=argparse.SUPPRESS)
    return top


def main() -> int:
    """Outside a lab: boot a kernel with this inside. 0 when everything was as it should be."""
    options = parser().parse_args()
    if inside():
        return perform(options)
    directory: Path | None = options.manifests
    if directory is not None and not directory.is_dir():
        raise LabError(f"--manifests {directory} is not a directory")
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    page = Page(options.began, colour=colour)
    page.line("ipvs-operator: the Linux Virtual Server, on real kernels with real traffic")
    page.line("booting a lab kernel ...", DIM)
    tools.ensure(tools.RUN)
    # A dozen processes import the agent, on one processor: compiled beforehand that takes half as long. An editable
    # install is not compiled by pip, and PYTHONDONTWRITEBYTECODE, if set, is about what happens by the way.
    for package in PACKAGES:
        compileall.compile_dir(ROOT / package, quiet=2)
    arguments = ["--began", str(options.began), *(["--colour"] if colour else [])]
    keep = []
    if directory is not None:
        arguments += ["--manifests", str(directory.resolve())]
        keep.append(str(directory.resolve()))
    job = Job([sys.executable, "-m", "ipvs_lab.demo", *arguments], str(Path.cwd()), environment("kernel"), keep)
    return run_job(job, choose_kernel(native=False), memory="2G", virtual_time=False, timeout=LONGEST)


def perform(options: argparse.Namespace) -> int:
    """Inside a lab: tell it. A step that fails is told in words, and the status is 1."""
    from ipvs_lab.demo import story, yours
    from ipvs_lab.demo.stage import DemoError

    page = Page(options.began, colour=options.colour)
    try:
        if options.manifests is not None:
            return yours.tell(page, options.manifests, options.manifests.name)
        status = story.tell(page)
    except (DemoError, AssertionError, OSError) as failure:
        page.line()
        first, _, more = str(failure).partition("\n")
        page.problem(f"the demo ends here: {first}")
        for line in more.splitlines():
            page.line(f"  {line}")
        return 1
    page.heading("That was all. Your own manifests")
    for line in OWN.splitlines():
        page.line(line)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
