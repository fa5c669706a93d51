"""The arrows between the crates, as ARCHITECTURE.md draws them."""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]

# Which of our crates each crate may use when it is built for others (tests may use more).
ARROWS = {
    "tollway-core": set(),
    "tollway-mapping": set(),
    "tollway-stores": {"tollway-core", "tollway-mapping"},
    "tollway": {"tollway-core"},
    "tollway-http": {"tollway-core", "tollway"},
    "tollway-auth": {"tollway-core", "tollway", "tollway-http"},
    "tollway-server": {"tollway-core", "tollway", "tollway-http"},
    "tollway-python": {
        *("tollway-core", "tollway-stores", "tollway", "tollway-http", "tollway-auth"),
        "tollway-server",
    },
}

# What cannot be written without `unsafe`: the C API of Python, and memory shared by processes.
UNSAFE = {"tollway-python", "tollway-mapping"}


@cache
def packages() -> dict[str, dict[str, Any]]:
    """Our own crates, as cargo describes them."""
    told = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    )
    return {package["name"]: package for package in json.loads(told.stdout)["packages"]}


def tree(crate: str, *arguments: str) -> set[str]:
    """Names of everything in the dependency tree of `crate`, without what only its tests use."""
    told = subprocess.run(
        [
            *("cargo", "tree", "--locked", "--package", crate, "--edges", "normal,build"),
            *("--prefix", "none", "--format", "{p}", *arguments),
        ],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    )
    return {line.split()[0] for line in told.stdout.splitlines() if line}


def test_every_crate_has_its_arrows_written_down() -> None:
    assert set(packages()) == set(ARROWS)


@pytest.mark.parametrize("crate", ARROWS)
def test_a_crate_uses_only_what_its_arrows_allow(crate: str) -> None:
    used = {
        dependency["name"]
        for dependency in packages()[crate]["dependencies"]
        if dependency["kind"] is None and dependency["name"] in ARROWS
    }
    assert used <= ARROWS[crate]


def test_the_core_has_no_runtime_no_network_and_no_http() -> None:
    forbidden = {
        *("tokio", "mio", "async-std", "smol", "futures", "socket2", "http", "hyper", "redis"),
        "pyo3",
    }
    found = tree("tollway-core", "--all-features")
    assert "tollway-core" in found
    assert not found & forbidden


def test_the_limiter_reaches_no_driver_and_the_server_no_runtime() -> None:
    assert not tree("tollway", "--all-features") & {"redis", "http", "hyper", "pyo3"}
    assert not tree("tollway-server", "--all-features") & {"redis", "pyo3"}
    # hyper brings tokio's synchronisation types along; the server itself may not reach for more.
    direct = {
        dependency["name"]
        for dependency in packages()["tollway-server"]["dependencies"]
        if dependency["kind"] is None
    }
    assert "tokio" not in direct


def test_python_is_named_in_one_crate() -> None:
    names = {
        crate
        for crate, package in packages().items()
        if any(dependency["name"].startswith("pyo3") for dependency in package["dependencies"])
    }
    assert names == {"tollway-python"}


@pytest.mark.parametrize("crate", sorted(set(ARROWS) - UNSAFE))
def test_unsafe_code_is_forbidden_where_it_is_not_needed(crate: str) -> None:
    root = TOP / "crates" / crate / "src" / "lib.rs"
    assert "#![forbid(unsafe_code)]" in root.read_text()


@pytest.mark.parametrize("crate", sorted(UNSAFE))
def test_unsafe_code_says_why_it_is_sound(crate: str) -> None:
    bare = []
    for path in sorted((TOP / "crates" / crate).rglob("*.rs")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            code = line.split("//")[0]
            if re.search(r"\bunsafe\s*(\{|impl\b)", code):
                above = "\n".join(lines[max(0, number - 6) : number + 1])
                if "SAFETY:" not in above:
                    bare.append(f"{path.relative_to(TOP)}:{number + 1}")
    assert bare == []


def test_the_core_may_not_read_a_clock(tmp_path: Path) -> None:
    """Clippy with the core's own configuration refuses a function that reads one."""
    methods = (TOP / "crates" / "tollway-core" / "clippy.toml").read_text()
    assert "std::time::Instant::now" in methods
    assert "std::time::SystemTime::now" in methods
    (tmp_path / "clippy.toml").write_text(methods)
    (tmp_path / "src").mkdir()
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "peeker"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
    )
    (tmp_path / "src" / "lib.rs").write_text(
        "pub fn now() -> std::time::Instant { std::time::Instant::now() }\n"
    )
    told = subprocess.run(
        ["cargo", "clippy", "--quiet", "--", "--deny", "clippy::disallowed_methods"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode != 0
    assert "disallowed method `std::time::Instant::now`" in told.stderr


def test_every_dependency_has_its_reason_written_down() -> None:
    design = (TOP / "DESIGN.md").read_text()
    named = set(re.findall(r"`([a-z0-9_-]+)`", design.split("## Dependencies", 1)[1]))
    workspace = tomllib.loads((TOP / "Cargo.toml").read_text())["workspace"]["dependencies"]
    assert {name for name in workspace if not name.startswith("tollway")} <= named
