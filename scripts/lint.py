"""Every check that reads the code without running it: what `make lint` does.

All of them run, whatever the first ones say; the last lines name those that found something.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BIN = TOP / ".venv" / "bin"
# Stores of one kind each: what is built alone has nothing in it that only others use.
STORES = ("memory", "shm", "sqlite")
PYTHON_FOLDERS = ("python", "tests", "scripts", "examples", "bench", "docs")


def deny(checks: str) -> list[str]:
    own = TOP / ".make" / "tools" / "bin" / "cargo-deny"
    program = str(own) if own.exists() else shutil.which("cargo-deny") or "cargo-deny"
    return [program, "--workspace", "check", *checks.split()]


def checks() -> dict[str, list[str]]:
    """Name of each check and its command; `make lint` runs them in this order."""
    python = [folder for folder in PYTHON_FOLDERS if (TOP / folder).exists()]
    return {
        "rustfmt": ["cargo", "fmt", "--all", "--check"],
        "clippy": [
            *("cargo", "clippy", "--workspace", "--all-targets", "--all-features", "--locked"),
            *("--quiet", "--", "--deny", "warnings"),
        ],
        **{
            f"clippy-{store}": [
                *("cargo", "clippy", "--package", "tollway-stores", "--no-default-features"),
                *("--features", store, "--locked", "--quiet", "--", "--deny", "warnings"),
            ]
            for store in STORES
        },
        "rustdoc": [
            *("cargo", "doc", "--workspace", "--no-deps", "--all-features", "--locked", "--quiet")
        ],
        "ruff check": [str(BIN / "ruff"), "check", "--quiet", *python],
        "ruff format": [str(BIN / "ruff"), "format", "--check", "--quiet", *python],
        "mypy": [str(BIN / "mypy")],
        "stubtest": [str(BIN / "stubtest"), "--concise", "tollway._tollway"],
        "cargo deny": deny("bans licenses sources"),
        "sizes": [str(BIN / "python"), "scripts/sizes.py"],
    }


def run(name: str, command: list[str]) -> bool:
    began = time.monotonic()
    print(f"lint: {name} ...", end=" ", flush=True)
    environment = os.environ | {"RUSTDOCFLAGS": "--deny warnings"}
    done = subprocess.run(
        command,
        cwd=TOP,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print("clean" if done.returncode == 0 else "FOUND", f"({time.monotonic() - began:.1f} s)")
    if done.returncode != 0:
        print(done.stdout.rstrip(), flush=True)
    return done.returncode == 0


def advisories() -> bool:
    """Known vulnerabilities, when the database can be had; being offline is not a finding."""
    done = subprocess.run(
        deny("advisories"), cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0 and "failed to fetch advisory database" in done.stdout:
        print("lint: advisories not checked: their database cannot be reached from here")
        return True
    print("lint: advisories", "clean" if done.returncode == 0 else f"FOUND\n{done.stdout}")
    return done.returncode == 0


def main() -> int:
    wanted = sys.argv[1:]
    known = checks()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"lint: no check is called {unknown[0]!r}; there are: {', '.join(known)}")
        return 2
    found = [
        name
        for name, command in known.items()
        if (not wanted or name in wanted) and not run(name, command)
    ]
    if not wanted and not advisories():
        found.append("advisories")
    print(f"lint: look at {', '.join(found)}" if found else "lint: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
