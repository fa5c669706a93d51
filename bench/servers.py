"""CPU per request of small HTTP servers: Bolt, django-bolt, and hyper as the floor."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import crate
from bench.http_load import Load, Server, drive, free_port, serving
from bench.progress import Progress
from bench.results import Row, Section, interleaved

TOP = Path(__file__).resolve().parent.parent
APPS = TOP / "bench" / "apps"
ITEM = "/items/42"
LIMITED = "/limited/42"
SUSPENDING = "/suspending/42"
REFUSED = "/refused/42"
WARM_SECONDS = 1
RUN_SECONDS = 3

# Case, path, pipelined.
CASES = [
    ("JSON", ITEM, False),
    ("JSON, limited", LIMITED, False),
    ("refused with 429", REFUSED, False),
    ("JSON, one await", SUSPENDING, False),
    ("JSON, 16 pipelined", ITEM, True),
]


def newer_pythons() -> Iterator[Path]:
    """Interpreters of 3.12 or 3.13 on PATH and under pyenv, which django-bolt needs."""
    for version in ("3.12", "3.13"):
        found = shutil.which(f"python{version}")
        if found is not None and not found.endswith("/shims/" + f"python{version}"):
            yield Path(found)
        root = shutil.which("pyenv")
        if root is not None:
            told = subprocess.run(["pyenv", "root"], capture_output=True, text=True)
            versions = Path(told.stdout.strip()) / "versions"
            yield from sorted(versions.glob(f"{version}*/bin/python{version}"))


def newer_python() -> Path | None:
    """The first of them that runs."""
    for python in newer_pythons():
        if subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return python
    return None


def environment(python: Path) -> Path:
    """A virtual environment for both Bolts, so that they meet on the same interpreter."""
    home = TOP / "bench" / f".venv-{python.name}"
    stamp = home / "ready"
    wheel = TOP / ".make" / "wheel"
    pins = TOP / "requirements" / "peers.txt"
    wanted = wheel.read_text() + pins.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return home / "bin" / "python"
    print(f"bench: building a wheel and an environment for {python}", file=sys.stderr, flush=True)
    if not (home / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", home], check=True)
    out = TOP / "target" / "wheels" / python.name
    shutil.rmtree(out, ignore_errors=True)
    maturin: list[str | Path] = [
        TOP / ".venv" / "bin" / "maturin",
        "build",
        "--quiet",
        "--release",
        "--locked",
    ]
    subprocess.run([*maturin, "--interpreter", python, "--out", out], cwd=TOP, check=True)
    pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", pins], check=True)
    (built,) = out.glob("tollway-*.whl")
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", built], check=True)
    stamp.write_text(wanted)
    return home / "bin" / "python"


def commands(python: Path, peers: bool) -> dict[str, tuple[list[str | Path], set[str]]]:
    """How each contender is started (the port comes last), and which paths it serves."""
    every = {ITEM, LIMITED, SUSPENDING, REFUSED}
    bolt: list[str | Path] = ["runbolt", "--host", "127.0.0.1", "--processes", "1", "--port"]
    found: dict[str, tuple[list[str | Path], set[str]]] = {
        "tollway": ([python, APPS / "ours" / "manage.py", *bolt], every)
    }
    if peers:
        found["django-bolt"] = ([python, APPS / "django_bolt" / "manage.py", *bolt], every)
    found["hyper"] = ([crate.program("static_server")], {ITEM})
    return found


def add(row: Row, load: Load, pipelined: bool) -> None:
    row.rounds.append(load.cpu_us)
    told = {"req/s": load.per_second}
    if not pipelined:  # wrk times whole batches of sixteen, which says nothing of a request
        told |= {"p50 us": load.p50_us, "p99 us": load.p99_us}
    for name, value in told.items():
        row.extra.setdefault(name, []).append(value)


def measure(rounds: int, progress: Progress) -> Section:
    section = Section("An HTTP request, one process, 64 connections", "CPU us")
    progress.at(section.title, "preparing the servers")
    peer = newer_python()
    if peer is None:
        section.notes.append(
            "django-bolt 0.13 skipped: it needs Python 3.12 or newer, and neither PATH nor pyenv "
            "has one"
        )
        python = Path(sys.executable)
    else:
        python = environment(peer)
    found = commands(python, peers=peer is not None)
    section.notes += [
        f"tollway.bolt and django-bolt 0.13.0 on {version(python)}, both without an access log and",
        "compression; hyper on tokio sends the same bytes each time and calls no Python.",
        "CPU is the server's user and system time by /proc, a request.",
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, (command, _) in found.items():
            port = free_port()
            running = serving([*command, str(port)], port, ITEM, Path(folder))
            servers[name] = stack.enter_context(running)
        for case, path, pipelined in CASES:
            names = [name for name, (_, paths) in found.items() if path in paths]
            rows = {name: Row(case, name, []) for name in names}
            for name in names:
                drive(servers[name], path, WARM_SECONDS, pipelined, path == REFUSED)
            for number, name in interleaved(rounds, names):
                progress.at(section.title, case, f"{name}, round {number + 1} of {rounds}")
                load = drive(servers[name], path, RUN_SECONDS, pipelined, path == REFUSED)
                add(rows[name], load, pipelined)
            section.rows.extend(rows.values())
    return section


def version(python: Path) -> str:
    told = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
    return told.stdout.strip()
