"""The root file system of an image: a virtual environment, the Python it belongs to, other files, and the shared
libraries that all of these link to, taken from the system this runs on.

    rootfs.py VENV ROOT [FILE...]

For Debian and its relatives. Packages that files come from are named below ``var/lib/dpkg/status.d``, where scanners of
images without a package manager look for them; their copyright files come along.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

UNUSED_STDLIB = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo")
UNUSED_PACKAGES = ("kubernetes/aio", "kubernetes/client/api", "*/tests")
"""Patterns in site-packages. kubernetes loads these by name, and we name none: requests and bodies are our own."""

NOT_COMPILED = re.compile(r"/kubernetes/client/models/")
"""A thousand modules that are loaded by name, of which we load four."""

USERS = "root:x:0:0:root:/root:/nonexistent\nnonroot:x:65532:65532:nonroot:/nonexistent:/nonexistent\n"
GROUPS = "root:x:0:\nnonroot:x:65532:\n"
USR_MERGE = ("bin", "lib", "lib64", "sbin")


class Root:
    """A directory that becomes an image, and the files of this system that went into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken: set[Path] = set()

    def take(self, file: Path) -> None:
        """A file, under its own name; a symbolic link with the file that it leads to."""
        place = file.parent.resolve() / file.name
        if place in self.taken:
            return
        self.taken.add(place)
        target = self.path / place.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place, target, follow_symlinks=False)
        if place.is_symlink() and not place.is_dir():
            self.take(place.parent / place.readlink())

    def take_tree(self, directory: Path, unused: Iterable[str] = ()) -> None:
        """All files below a directory but ``__pycache__`` and what is ``unused``, relative to it."""
        left_out = {directory / name for name in unused}
        for where, directories, files in os.walk(directory):
            here = Path(where)
            directories[:] = [d for d in directories if d != "__pycache__" and here / d not in left_out]
            links = [name for name in directories if (here / name).is_symlink()]
            for name in sorted([*files, *links]):
                self.take(here / name)

    def write(self, name: str, text: str) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def libraries(files: Iterable[Path]) -> Iterator[Path]:
    """The shared libraries that programs and libraries link to, and the loader."""
    for file in files:
        with file.open("rb") as opened:
            if opened.read(4) != b"\x7fELF":
                continue
        told = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
        if lost := re.findall(r"(\S+) => not found", told):
            sys.exit(f"{file} links to {', '.join(lost)}, which this system lacks")
        yield from map(Path, re.findall(r"(/\S+) \(0x", told))


def packages(files: Iterable[Path]) -> set[str]:
    """The Debian packages that files come from. dpkg knows some files by the names they had before /usr was merged."""
    names = sorted({str(file) for file in files} | {str(file).removeprefix("/usr") for file in files})
    found = set()
    for start in range(0, len(names), 500):
        command = ["dpkg-query", "--search", *names[start : start + 500]]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found |= {line.partition(": ")[0] for line in told.splitlines() if ", " not in line.partition(": ")[0]}
    return {name for name in found if not name.startswith("diversion ")}


def assemble(venv: Path, root: Root, files: list[Path]) -> None:
    """Everything into ``root``."""
    (site,) = venv.glob("lib/python3*/site-packages")
    root.take_tree(Path(sysconfig.get_path("stdlib")), UNUSED_STDLIB)
    unused = [path for pattern in UNUSED_PACKAGES for path in site.glob(pattern)]
    root.take_tree(venv, [str(path.relative_to(venv)) for path in unused])
    for file in (Path("/usr/bin/python3"), *files):
        root.take(file)
    for library in sorted(set(libraries(sorted(file for file in root.taken if not file.is_symlink())))):
        root.take(library)
    for name in USR_MERGE:
        if (link := Path("/", name)).is_symlink():
            (root.path / name).symlink_to(link.readlink())
            (root.path / link.readlink()).mkdir(parents=True, exist_ok=True)
    for package in sorted(packages(root.taken)):
        name = package.partition(":")[0]
        told = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=True).stdout
        root.write(f"var/lib/dpkg/status.d/{name}", told)
        if (copyright_file := Path(f"/usr/share/doc/{name}/copyright")).exists():
            root.take(copyright_file)
    root.take(Path("/etc/os-release"))
    root.write("etc/passwd", USERS)
    root.write("etc/group", GROUPS)
    (root.path / "tmp").mkdir()
    (root.path / "tmp").chmod(0o1777)


def compile_modules(root: Path) -> None:
    """Compiled modules that do not ask for their source's time, which the image's layers do not keep."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for directory in (root / "usr/lib", root / "opt"):
        compileall.compile_dir(
            directory, maxlevels=50, quiet=2, rx=NOT_COMPILED, stripdir=str(root), invalidation_mode=unchecked
        )


def main(arguments: list[str]) -> None:
    venv, path, *files = map(Path, arguments)
    path.mkdir()
    assemble(venv, Root(path), files)
    compile_modules(path)


if __name__ == "__main__":
    main(sys.argv[1:])
