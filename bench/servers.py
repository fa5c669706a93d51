"""CPU per request of small HTTP servers: Bolt, django-bolt, and hyper as the floor."""

import base64
import hmac
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import crate
from bench.http_load import HOST, Load, Request, Server, drive, free_port, serving
from bench.progress import Progress
from bench.results import Row, Section, Target, interleaved

TOP = Path(__file__).resolve().parent.parent
APPS = TOP / "bench" / "apps"
WARM_SECONDS = 1
RUN_SECONDS = 2


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


@dataclass(frozen=True)
class Case:
    """One kind of request, and who answers it."""

    title: str
    request: Request
    setup: str = "plain"
    target: float | None = None
    """How many times ours django-bolt is to cost."""
    others: tuple[str, ...] = ()
    """Who answers it besides both Bolts."""


TOKEN = "Authorization: Bearer {token}"
ORDER = json.dumps({"customer": "ada", "lines": [{"item_id": n, "count": 2} for n in range(3)]})
BOTH = ("litestar on granian", "hyper")
CASES = [
    Case("JSON", Request("/items/42"), target=1.33, others=BOTH),
    Case(
        "path and query",
        Request("/search/upper?limit=20&exact=true&q=rope"),
        target=1.33,
        others=BOTH[:1],
    ),
    Case(
        "JSON body, checked and sent back",
        Request("/orders", "POST", ORDER),
        target=1.33,
        others=BOTH[:1],
    ),
    Case("behind a JWT", Request("/secret/42", headers=(TOKEN,)), target=1.33),
    Case("limited", Request("/limited/42")),
    Case("limited, one limit for 2 processes", Request("/limited/42"), "shared", 1.25),
    Case("refused with 429", Request("/refused/42", refused=True)),
    Case("one await that waits", Request("/suspending/42"), target=1.67, others=BOTH[:1]),
    Case("a def handler", Request("/plain/42"), target=1.11),
    Case("a def handler that never blocks", Request("/inline/42"), target=1.11),
    Case("Django's default middleware", Request("/items/42"), "stacked", 3.33),
    Case("10 rows from SQLite, async", Request("/rows"), target=1.25),
    Case("10 rows from SQLite, def", Request("/plain-rows"), target=1.25),
    Case("JSON, 16 pipelined", Request("/items/42", pipelined=True), others=BOTH[1:]),
]
SETUPS: dict[str, dict[str, str]] = {
    "plain": {},
    "shared": {},
    "stacked": {"BENCH_API": "project.api:stacked"},
}
OURS, PEER = "tollway", "django-bolt"


@dataclass
class Contenders:
    """Starts the servers of a set-up; `python` has both Bolts, unless there is no peer."""

    python: Path
    peers: bool
    folder: Path

    def environment(self, setup: str) -> dict[str, str]:
        return {"BENCH_DATABASE": str(self.folder / "stock.sqlite3"), **SETUPS[setup]}

    def manage(self, app: str) -> list[str | Path]:
        return [self.python, APPS / "stock" / "manage.py", app]

    def prepare(self) -> None:
        """The database that all read."""
        command = [*self.manage("ours"), "migrate", "--verbosity", "0"]
        environment = os.environ | self.environment("plain")
        subprocess.run(command, check=True, env=environment)

    def commands(self, setup: str) -> dict[str, list[str | Path]]:
        """How each contender is started; the port comes last."""
        count = "2" if setup == "shared" else "1"
        bolt: list[str | Path] = ["runbolt", "--host", HOST, "--processes", count, "--port"]
        found = {OURS: [*self.manage("ours"), *bolt]}
        if self.peers:
            found[PEER] = [*self.manage("django_bolt"), *bolt]
        if setup == "plain":
            if self.peers:
                granian = [self.python, "-m", "granian", "--interface", "asgi", "--no-ws"]
                granian += ["--no-access-log", "--workers", "1", "--working-dir", APPS]
                found[BOTH[0]] = [*granian, "litestar_app:app", "--host", HOST, "--port"]
            found["hyper"] = [crate.program("static_server")]
        return found

    @contextmanager
    def serving(self, setup: str) -> Iterator[dict[str, Server]]:
        """All of them, on ports of their own, while the block runs."""
        with ExitStack() as stack:
            running = {}
            for name, command in self.commands(setup).items():
                port = free_port()
                server = serving(
                    [*command, str(port)], port, "/items/42", self.folder, self.environment(setup)
                )
                running[name] = stack.enter_context(server)
            yield running


def token() -> str:
    """A JSON Web Token that both Bolts accept."""
    claims = {"sub": "42", "exp": int(time.time()) + 86_400, "iat": int(time.time())}
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps(claims)]
    head = b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)
    secret = b"only for measuring, and long enough to sign tokens with"
    signature = hmac.digest(secret, head, "sha256")
    return f"{head.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


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
    python = Path(sys.executable) if peer is None else environment(peer)
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        contenders = Contenders(python, peer is not None, Path(folder))
        contenders.prepare()
        for setup in SETUPS:
            with contenders.serving(setup) as servers:
                if setup == "plain":
                    section.notes.append(memory(servers))
                for case in CASES:
                    if case.setup == setup:
                        compare(section, case, servers, rounds, progress, loads)
    section.notes += [
        f"The machine's load meanwhile was {min(loads):.1f} to {max(loads):.1f}; a server and its "
        "client are 2.",
        f"tollway.bolt and django-bolt 0.13.0 on {version(python)}, both without access log, "
        "compression and security headers; hyper on tokio sends the same bytes each time and "
        "calls no Python.",
        "CPU is the server's user and system time by /proc, a request. Of limits, django-bolt "
        "keeps one for each process, and tells of them on refusals only; ours is one for both, in "
        "shared memory, and told on every answer. A def handler runs on a thread of ours unless "
        "it says that it never blocks; django-bolt decides by reading its source.",
    ]
    return section


def compare(
    section: Section,
    case: Case,
    servers: dict[str, Server],
    rounds: int,
    progress: Progress,
    loads: list[float],
) -> None:
    """Everybody who answers this kind of request, in interleaved rounds."""
    headers = tuple(header.format(token=token()) for header in case.request.headers)
    request = replace(case.request, headers=headers)
    names = [name for name in servers if name in (OURS, PEER, *case.others)]
    rows = {name: Row(case.title, name, []) for name in names}
    for name in names:
        drive(servers[name], request, WARM_SECONDS)
    for number, name in interleaved(rounds, names):
        progress.at(section.title, case.title, f"{name}, round {number + 1} of {rounds}")
        loads.append(os.getloadavg()[0])
        add(rows[name], drive(servers[name], request, RUN_SECONDS), request.pipelined)
    section.rows.extend(rows.values())
    if case.target is not None and PEER in rows:
        section.targets[case.title] = Target(ratio=case.target, against=(PEER,))


def memory(servers: dict[str, Server]) -> str:
    """What each takes before its first request but one."""
    found = {name: server.resident_mb() for name, server in servers.items()}
    told = ", ".join(f"{name} {size:.0f} MB" for name, size in found.items())
    if PEER not in found:
        return f"Resident memory after the start: {told}."
    share = found[OURS] / found[PEER]
    reached = "reached" if share <= 1 else "missed"
    return (
        f"Resident memory after the start: {told}; ours is {share:.2f} of {PEER}'s "
        f"(target 1: {reached})."
    )


def version(python: Path) -> str:
    told = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
    return told.stdout.strip()
