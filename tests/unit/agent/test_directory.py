"""A directory of manifests: what appears is taken at once, what disappears only when it is really gone."""

from pathlib import Path

import pytest

from ipvs_agent.sources.directory import SETTLE, Changes, ManifestDirectory
from ipvs_api.meta import ObjectKey

WEB = ObjectKey("VirtualService", "default", "web")
MAIL = ObjectKey("VirtualService", "default", "mail")


def service(name: str, port: object = 80) -> str:
    return f"""---
apiVersion: ipvs.dev/v1alpha1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  directorGroup: default
  addresses: [192.0.2.10]
  ports: [{{name: http, port: {port}}}]
  backends: {{static: [{{address: 10.0.0.1}}]}}
"""


class Watched:
    """A directory and the looks at it, a second of virtual time apart."""

    def __init__(self, path: Path, *known: ObjectKey) -> None:
        self.path, self.now = path, 100.0
        self.directory = ManifestDirectory(path, known)

    def write(self, name: str, text: str) -> None:
        new = self.path / f".{name}.new"
        new.write_text(text)
        new.rename(self.path / name)

    def look(self, after: float = 0.0, *names: str) -> Changes:
        self.now += after
        return self.directory.look(self.now, frozenset(names) if names else None)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def names(changes: Changes) -> list[str]:
    return [declared.metadata.name for declared in changes.put]


def test_objects_are_taken_once_and_again_when_they_change(watched: Watched) -> None:
    watched.write("a.yaml", service("web") + service("mail"))
    assert names(watched.look()) == ["mail", "web"]
    assert names(watched.look()) == []
    watched.write("a.yaml", service("web", 81) + service("mail"))
    assert names(watched.look()) == ["web"]


def test_only_named_files_are_looked_at(watched: Watched) -> None:
    watched.write("a.yaml", service("web"))
    watched.write("b.yaml", service("mail"))
    watched.look()
    watched.write("a.yaml", service("web", 81))
    watched.write("b.yaml", service("mail", 81))
    assert names(watched.look(0, "b.yaml")) == ["mail"]
    assert names(watched.look()) == ["web"]


def test_a_removed_object_goes_when_it_stayed_away(watched: Watched) -> None:
    watched.write("a.yaml", service("web") + service("mail"))
    watched.look()
    watched.write("a.yaml", service("web"))
    first = watched.look()
    assert first.removed == ()
    assert first.recheck == SETTLE
    assert watched.look(SETTLE).removed == (MAIL,)
    assert watched.look(SETTLE) == Changes(complete=True)


def test_an_object_that_moves_to_another_file_is_not_removed(watched: Watched) -> None:
    watched.write("a.yaml", service("web") + service("mail"))
    watched.look()
    watched.write("a.yaml", service("web"))
    watched.look()
    watched.write("b.yaml", service("mail"))
    assert watched.look(SETTLE).removed == ()
    assert watched.look(SETTLE).removed == ()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: [file.unlink() for file in path.iterdir()],
        lambda path: (path / "a.yaml").write_text("spec: [unclosed"),
        lambda path: path.rename(path.with_name("elsewhere")),
    ],
    ids=["empty", "unreadable YAML", "vanished"],
)
def test_what_cannot_be_read_removes_nothing(watched: Watched, break_it: object) -> None:
    watched.write("a.yaml", service("web"))
    watched.look()
    assert callable(break_it)
    break_it(watched.path)
    for _ in range(3):
        changes = watched.look(SETTLE)
        assert changes.removed == ()
        assert not changes.complete
        assert changes.errors


def test_a_broken_file_keeps_what_other_files_lack(watched: Watched) -> None:
    watched.write("a.yaml", service("web"))
    watched.write("b.yaml", service("mail"))
    watched.look()
    watched.write("a.yaml", "a: b: c")
    (watched.path / "b.yaml").unlink()
    watched.look(SETTLE)
    assert watched.look(SETTLE).removed == ()
    watched.write("a.yaml", service("web"))
    watched.look()
    assert watched.look(SETTLE).removed == (MAIL,)


def test_an_object_with_a_mistake_is_told_and_stays(watched: Watched) -> None:
    watched.write("a.yaml", service("web") + service("mail"))
    watched.look()
    watched.write("a.yaml", service("web", 99999))
    watched.look()
    changes = watched.look(SETTLE)
    assert changes.removed == (MAIL,)
    (error,) = changes.errors
    assert str(error).startswith(f"{watched.path}/a.yaml:8:30: VirtualService default/web: ")
    assert "spec.ports[0].port" in str(error)


def test_an_object_in_two_files_counts_once_and_is_told(watched: Watched) -> None:
    watched.write("a.yaml", service("web", 80))
    watched.write("b.yaml", service("web", 81))
    changes = watched.look()
    assert [declared.spec.ports[0].port for declared in changes.put] == [80]  # type: ignore[union-attr]
    assert "a.yaml line" in str(changes.errors[0])
    (watched.path / "a.yaml").unlink()
    watched.look()
    again = watched.look()
    assert [declared.spec.ports[0].port for declared in again.put] == [81]  # type: ignore[union-attr]
    assert again.errors == ()


def test_what_is_known_from_before_goes_only_from_a_readable_set(tmp_path: Path) -> None:
    watched = Watched(tmp_path, WEB, MAIL)
    for _ in range(3):
        assert watched.look(SETTLE).removed == ()
    watched.write("a.yaml", service("web"))
    watched.look()
    assert watched.look(SETTLE).removed == (MAIL,)


def test_other_files_and_hidden_ones_do_not_count(watched: Watched) -> None:
    watched.write("a.yaml", service("web"))
    (watched.path / "a.yaml~").write_text(service("mail"))
    (watched.path / ".b.yaml").write_text(service("mail"))
    (watched.path / "c.yaml").mkdir()
    assert names(watched.look()) == ["web"]
