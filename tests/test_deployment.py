"""The files in deploy/ and the page about them: what can be checked without a second machine."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hdev_memory.backends.base import EVERYTHING
from hdev_memory.backends.sqlite import SqliteBackend
from hdev_memory.core.entry import Normalisation
from hdev_memory.server.run import GRACE_SECONDS
from tests.conftest import put_entry
from tests.test_docs import fenced

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs/deployment.md"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
UNIT = (DEPLOY / "hdev-memory.service").read_text()
IMAGE = (DEPLOY / "Containerfile").read_text()


def seconds(flags, name):
    return float(flags[flags.index(name) + 1])


def flags_of_unit():
    (command,) = re.findall(r"^ExecStart=\S+ memory-server (.*?[^\\])\n", UNIT, re.M | re.S)
    return command.replace("\\\n", " ").split()


def flags_of_image():
    entry = re.findall(r"ENTRYPOINT \[(.*)\]", IMAGE)[0]
    return re.findall(r'"([^"]*)"', entry)[2:] + SERVICES["server-1"]["command"]


@pytest.mark.parametrize("flags", [flags_of_unit(), flags_of_image()], ids=["unit", "image"])
def test_every_flag_is_one_of_the_server(hdev, flags):
    """Whatever it then says of the place that is not here, it is no error of usage."""
    known = hdev("memory-server", "--help").out

    assert {flag for flag in flags if flag.startswith("--")} <= set(re.findall(r"--[a-z-]+", known))
    assert seconds(flags, "--grace") >= GRACE_SECONDS


def test_a_server_has_the_time_to_end_that_it_asks_for():
    unit, image = flags_of_unit(), flags_of_image()
    stop = float(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[0])
    grace = float(SERVICES["server-1"]["stop_grace_period"].removesuffix("s"))

    assert seconds(unit, "--drain") + seconds(unit, "--grace") < stop
    assert seconds(image, "--drain") + seconds(image, "--grace") < grace


def test_the_unit_shuts_the_server_in():
    lines = set(UNIT.splitlines())

    assert lines >= {
        "User=hdev-memory", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes",
        "CapabilityBoundingSet=", "UMask=0077", "StateDirectoryMode=0700",
    }  # fmt: skip
    assert "/var/lib/hdev-memory/" in UNIT  # the folder that StateDirectory lets it write to


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path):
    """With programs in their places, which are not installed here."""
    unit = re.sub(r"^(User|Group)=.*$", "", UNIT, flags=re.M)
    unit = unit.replace("/opt/hdev-memory/bin/hdev", "/bin/true")
    (tmp_path / "hdev-memory.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "hdev-memory.service"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


def test_the_composition_is_two_servers_of_one_database_behind_a_proxy():
    one, two, proxy = (SERVICES[name] for name in ("server-1", "server-2", "proxy"))

    assert set(SERVICES) == {"database", "server-1", "server-2", "proxy"}
    assert one == two
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["proxy"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    (subnet,) = (each["subnet"] for each in COMPOSE["networks"]["inside"]["ipam"]["config"])
    assert one["command"][one["command"].index("--trusted-proxy") + 1] == subnet
    assert "server server-1:8080" in (DEPLOY / "nginx.conf").read_text()
    assert "server server-2:8080" in (DEPLOY / "nginx.conf").read_text()
    assert "./nginx.conf:/etc/nginx/nginx.conf:ro" in proxy["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_and_takes_its_secrets_from_files(name):
    service = SERVICES[name]
    named = {use: COMPOSE["secrets"][use]["file"] for use in service["secrets"]}

    assert re.fullmatch(r".*:\d+(\.\d+)+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(file.startswith("./secrets/") for file in named.values())
    for variable, value in service.get("environment", {}).items():
        if re.search("KEY|PASSWORD", variable):
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in named
    if name != "database":
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_secrets_are_kept_out_of_git_and_of_the_image():
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "--no-index", "deploy/secrets/api_key"], cwd=ROOT
    )

    assert ignored.returncode == 0
    copied = re.findall(r"^COPY (?!--from)(.*)$", IMAGE, re.M)
    assert copied == ["pyproject.toml README.md LICENSE constraints.txt ./", "src ./src"]
    assert all((ROOT / name).exists() for line in copied for name in line.split()[:-1])


def test_the_image_is_pinned_runs_as_nobody_special_and_is_watched():
    assert re.findall(r"^FROM (\S+)", IMAGE, re.M) == ["docker.io/library/python:3.13-slim"] * 2
    assert re.findall(r"^USER (.*)$", IMAGE, re.M) == ["10001"]
    assert "/healthz" in re.findall(r"HEALTHCHECK (?:[^\n]|\\\n)*\n.*", IMAGE)[0]


def test_the_backup_of_sqlite_is_a_memory_with_everything_in_it(hdev, home, tmp_path):
    (block,) = (text for text in fenced(PAGE, "bash") if "VACUUM INTO" in text)
    for number in range(5):
        put_entry(tmp_path / "source", f"n{number}", f"{number}")
    memory, backup = tmp_path / "memory.sqlite", tmp_path / "backup.sqlite"
    place = f"filesystem:{tmp_path}/source", f"sqlite:{memory}"
    assert hdev("plan", *place, "-o", "p").status == hdev("apply", "p").status == 0
    subprocess.run(
        ["bash", "-euc", block], check=True, timeout=60,
        env={**os.environ, "MEMORY": str(memory), "BACKUP": str(backup)},
    )  # fmt: skip

    def held(path):
        with SqliteBackend(str(path), must_exist=True) as backend:
            return backend.endpoint.store, list(backend.snapshot(EVERYTHING, Normalisation()))

    assert held(backup) == held(memory)
    assert len(held(backup)[1]) == 5
    assert backup.stat().st_mode & 0o077 == 0


def test_the_commands_of_the_page_name_files_and_flags_that_exist(hdev):
    text = "\n".join(fenced(PAGE, "bash"))
    known = hdev("memory-server", "keys", "add", "--help").out

    assert set(re.findall(r"--(?:role|keys-file)", text)) <= set(re.findall(r"--[a-z-]+", known))
    for name in re.findall(r"deploy/[\w.-]+\.\w+", text):
        assert (ROOT / name).exists(), name
