"""The files that a plan is judged by come from one commit, whatever the checkout holds."""

import os
import subprocess
from pathlib import Path

import pytest

from hdev_memory import trust
from hdev_memory.errors import TrustError, UsageError

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}


class Repository:
    """A real git repository with one commit on `main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@x", "-c", "commit.gpgsign=false",
             *words],
            cwd=self.folder,
            env=ENVIRON,
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "repository")
    (made.folder / "keys").mkdir()
    (made.folder / "keys/signers").write_text("as on main\n")
    made.commit()
    return made


def test_a_file_is_read_as_it_was_committed(repository):
    path = repository.folder / "keys/signers"
    path.write_text("as in the checkout\n")
    commit = trust.Commit(repository.folder / "keys", "main", ENVIRON)

    assert commit.read(path) == b"as on main\n"
    assert commit.name(path) == "main:keys/signers"
    path.unlink()
    assert commit.read(path) == b"as on main\n"


def test_all_files_come_from_the_commit_that_the_ref_named_at_first(repository):
    commit = trust.Commit(repository.folder, "main", ENVIRON)
    (repository.folder / "keys/signers").write_text("later\n")
    repository.commit()

    assert commit.read(repository.folder / "keys/signers") == b"as on main\n"


def test_what_only_the_checkout_has_is_not_there(repository):
    (repository.folder / "new").write_text("x")

    assert trust.Commit(repository.folder, "main", ENVIRON).read(repository.folder / "new") is None
    with pytest.raises(TrustError, match="main:new: there is no such file"):
        trust.needed(trust.Commit(repository.folder, "main", ENVIRON), repository.folder / "new")


def test_a_link_of_the_checkout_leads_nowhere(repository):
    (repository.folder / "evil").mkdir()
    (repository.folder / "evil/signers").write_text("evil\n")
    (repository.folder / "keys/signers").unlink()
    (repository.folder / "keys").rmdir()
    (repository.folder / "keys").symlink_to("evil")

    commit = trust.Commit(repository.folder, "main", ENVIRON)
    assert commit.read(repository.folder / "keys/signers") == b"as on main\n"


def test_a_replaced_object_is_not_looked_at(repository):
    (repository.folder / "evil").write_text("evil\n")
    repository.git("add", "evil")
    good = repository.git("rev-parse", "main:keys/signers")
    repository.git("replace", good, repository.git("hash-object", "-w", "evil"))
    assert repository.git("show", "main:keys/signers") == "evil", "it was not replaced"

    commit = trust.Commit(repository.folder, "main", ENVIRON)
    assert commit.read(repository.folder / "keys/signers") == b"as on main\n"


def test_variables_do_not_lead_git_to_another_repository(repository, tmp_path):
    other = Repository(tmp_path / "other")
    (other.folder / "keys").mkdir()
    (other.folder / "keys/signers").write_text("other\n")
    other.commit()
    environ = {**ENVIRON, "GIT_DIR": str(other.folder / ".git"), "GIT_WORK_TREE": "/"}

    commit = trust.Commit(repository.folder, "main", environ)
    assert commit.read(repository.folder / "keys/signers") == b"as on main\n"


@pytest.mark.parametrize("ref", ["", "-x", "--help", "main:keys", "a b", "a\n", "é", "x" * 300])
def test_what_cannot_be_a_ref_is_a_usage_error(repository, ref):
    with pytest.raises(UsageError):
        trust.Commit(repository.folder, ref, ENVIRON)


@pytest.mark.parametrize("ref", ["gone", "main~9", "deadbeef"])
def test_a_ref_that_is_not_there(repository, ref):
    with pytest.raises(TrustError, match="no such branch, tag or commit"):
        trust.Commit(repository.folder, ref, ENVIRON)


def test_no_repository_and_no_git(repository, tmp_path):
    with pytest.raises(TrustError, match="is in no repository"):
        trust.Commit(tmp_path, "main", ENVIRON)
    with pytest.raises(TrustError, match="git cannot be run"):
        trust.Commit(repository.folder, "main", {"PATH": "/nowhere"})


def test_what_is_no_plain_file_in_the_commit_is_refused(repository):
    (repository.folder / "link").symlink_to("keys/signers")
    (repository.folder / "large").write_bytes(b"x" * (trust.MAX_BYTES + 1))
    repository.commit()
    commit = trust.Commit(repository.folder, "main", ENVIRON)

    for name, why in {
        "link": "no plain file",
        "keys": "no plain file",
        "large": "longer than",
        "../repository2/x": "outside of the repository",
    }.items():
        with pytest.raises(TrustError, match=why):
            commit.read(repository.folder / name)


def test_a_file_of_the_checkout_is_bounded_as_well(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (trust.MAX_BYTES + 1))
    checkout = trust.Checkout()

    assert checkout.read(tmp_path / "none") is None
    with pytest.raises(TrustError, match="longer than"):
        checkout.read(tmp_path / "large")
    with pytest.raises(TrustError, match="cannot be read"):
        checkout.read(tmp_path)
