"""`make soak`: a million mixed requests to `runbolt`, its memory meanwhile, and reloads under load.

Exits with 1 when memory grows by more than the bound, when an answer is another one than it
should be, or when a request is lost over a reload.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.progress import Progress
from bench.soak_clients import Kinds, http1, http2
from tests.bolt.load import load
from tests.bolt.project import Project, Served
from tests.bolt.wire import certificate, get, wire
from tests.waiting import wait

API = """
import asyncio
import os
from pathlib import Path
from typing import Annotated

import msgspec

from tollway.bolt import BoltAPI, FileResponse, StreamingResponse, UploadFile, rate_limit
from tollway.bolt.params import File, Form

api = BoltAPI()
FILE = Path(__file__).parent / "file.bin"


class Order(msgspec.Struct):
    name: str
    count: int


@api.get("/version")
async def version():
    return {"version": 1, "pid": os.getpid()}


@api.get("/json/{number}")
async def as_json(number: int, q: str = ""):
    return {"number": number, "q": q, "list": list(range(20))}


@api.get("/plain")
def plain():
    return {"ok": True}


@api.post("/order")
async def order(order: Order):
    await asyncio.sleep(0)
    return order


@api.post("/form")
async def form(name: Annotated[str, Form()], file: Annotated[UploadFile, File()]):
    return {"name": name, "size": len(await file.aread())}


@api.get("/file")
async def file():
    return FileResponse(FILE)


@api.get("/stream")
async def stream():
    async def pieces():
        for _ in range(5):
            yield b"x" * 1000
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


@api.get("/limited")
@rate_limit("1/d", key="global")
async def limited():
    return {}


@api.get("/fails")
async def fails():
    raise ValueError("on purpose")


@api.get("/never")
async def never():
    await asyncio.Event().wait()
"""

SETTINGS = """
DATABASES = {}
LOGGING = {"version": 1, "loggers": {"tollway": {"level": "CRITICAL"}}}
BOLT_MAX_BODY_BYTES = 10_000
BOLT_REQUEST_IDS = True
"""

SAMPLES = 60
"""Looks at the memory of a run."""
WARM = 0.2
"""The part of a run in which buffers and caches grow to their size."""
BOUND = 8.0
"""MiB by which memory may be more at the end than after that."""
SHARE_HTTP2 = 0.1
THREADS = 4
BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Run:
    """What one server was asked, and its memory meanwhile."""

    title: str
    samples: list[tuple[int, float]] = field(default_factory=list)
    """Requests so far and MiB."""
    kinds: Kinds = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """MiB between the first tenth after the warm-up and the last tenth."""
        sizes = [size for _, size in self.samples]
        warm, part = int(len(sizes) * WARM), max(1, len(sizes) // 10)
        return median(sizes[-part:]) - median(sizes[warm : warm + part])

    def as_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "requests": sum(self.kinds.values()),
            "kinds": dict(self.kinds),
            "seconds": round(self.seconds, 1),
            "growth_mib": round(self.growth, 2),
            "rss_mib": [[done, round(size, 2)] for done, size in self.samples],
            "wrong": self.wrong[:20],
        }


def measure(
    run: Run, served: Served, clients: Sequence[Callable[[Run, int], None]], count: int
) -> Run:
    """Let `clients` ask `count` requests, and look at the server's memory all the while."""
    began = time.monotonic()
    share = count // len(clients)
    with ThreadPoolExecutor(len(clients)) as threads, Progress() as progress:
        running = [threads.submit(client, run, share) for client in clients]
        while not all(one.done() for one in running):
            done = sum(run.kinds.values())
            if done >= len(run.samples) * count / SAMPLES:
                run.samples.append((done, served.memory() / 1_048_576))
                progress.at("soak", f"{run.title}, {done * 10 // count * 10} %")
            time.sleep(0.005)
        for one in running:
            one.result()
    run.samples.append((sum(run.kinds.values()), served.memory() / 1_048_576))
    run.seconds = time.monotonic() - began
    return run


def mixed(project: Project, count: int) -> list[Run]:
    """Plain HTTP/1.1 in one server, TLS and HTTP/2 in another."""
    two = int(count * SHARE_HTTP2)
    with project.serve() as served:
        with wire(served.url) as first:
            # The only one that the limit lets pass.
            first.send(get("/limited")).answer()
        clients = [http1(served.url, seed) for seed in range(THREADS)]
        runs = [measure(Run("HTTP/1.1"), served, clients, count - two)]
    files = certificate(project.folder)
    with project.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served:
        clients = [http2(served, files, seed) for seed in range(2)]
        runs.append(measure(Run("TLS, HTTP/2"), served, clients, two))
    return runs


@dataclass
class Reloads:
    """What clients saw while the program was loaded again."""

    wanted: int
    done: int = 0
    answered: int = 0
    lost: list[str] = field(default_factory=list)


def are_new(pid: int, before: set[int]) -> bool:
    """Whether two processes serve, both others than before."""
    now = children(pid)
    return len(now) == 2 and not before & now


def reloads(project: Project, wanted: int) -> Reloads:
    """Two processes, clients that never stop asking, and one SIGHUP after the other."""
    found = Reloads(wanted)
    with project.serve("--processes", "2") as served, load(served.url) as clients:
        for _ in range(wanted):
            before = children(served.process.pid)
            served.process.send_signal(signal.SIGHUP)
            replaced = partial(are_new, served.process.pid, before)
            wait("the program is loaded again", replaced, told=lambda: served.lines[-1])
            found.done += 1
        asked = clients.answered
        while clients.answered < asked + 100 and not clients.failures:
            time.sleep(0.02)
    found.answered, found.lost = clients.answered, clients.failures
    return found


def children(pid: int) -> set[int]:
    """The processes that serve."""
    with contextlib.suppress(FileNotFoundError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return {int(child) for child in text.split() if is_server(int(child))}
    return set()


def is_server(pid: int) -> bool:
    """Not the check that comes before a reload."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"--check" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def bars(run: Run) -> str:
    sizes = [size for _, size in run.samples]
    low, high = min(sizes), max(sizes)
    span = max(high - low, 1.0)
    return "".join(BARS[min(int((size - low) / span * 8), 7)] for size in sizes)


def show(console: Console, runs: list[Run], found: Reloads | None, bound: float) -> None:
    for run in runs:
        total = sum(run.kinds.values())
        rate = f"{total / run.seconds:,.0f}/s"
        console.print(f"{run.title}: {total:,} requests in {run.seconds:.0f} s ({rate})")
        table = Table(box=SIMPLE_HEAD)
        table.add_column("kind")
        table.add_column("requests", justify="right")
        for kind, count in sorted(run.kinds.items()):
            table.add_row(kind, f"{count:,}")
        console.print(table)
        sizes = [size for _, size in run.samples]
        console.print(f"RSS {min(sizes):.1f} to {max(sizes):.1f} MiB {bars(run)}")
        told = "within" if run.growth <= bound else "ABOVE"
        console.print(f"growth after the warm-up: {run.growth:+.2f} MiB, {told} {bound:g} MiB")
        for line in run.wrong[:5]:
            console.print(f"WRONG: {line}")
    if found:
        console.print(
            f"{found.done} reloads of 2 processes, {found.answered:,} requests meanwhile, "
            f"{len(found.lost)} lost"
        )


@contextlib.contextmanager
def soaked() -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="tollway-soak-") as folder:
        project = Project(Path(folder))
        project.write("shop/api.py", API)
        (project.folder / "shop" / "file.bin").write_bytes(os.urandom(40_000))
        project.settings(SETTINGS)
        yield project


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--bound", type=float, default=BOUND, help="MiB (default %(default)g)")
    parser.add_argument("--json", action="store_true", help="one document for a machine")
    options = parser.parse_args()
    threading.stack_size(512 * 1024)
    with soaked() as project:
        runs = mixed(project, options.requests) if options.requests else []
        found = reloads(project, options.reloads) if options.reloads else None
    bad = any(run.growth > options.bound or run.wrong for run in runs)
    bad = bad or bool(found and found.lost)
    if options.json:
        told = {
            "bound_mib": options.bound,
            "runs": [run.as_json() for run in runs],
            "reloads": found.__dict__ if found else None,
            "passed": not bad,
        }
        print(json.dumps(told, indent=2))
    else:
        show(Console(), runs, found, options.bound)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
