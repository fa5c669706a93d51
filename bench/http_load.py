"""One HTTP server under wrk: how much CPU a request cost it, counted by the kernel."""

import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS_MAX = 30.0
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw, and what it cost the server."""

    requests: int
    cpu_us: float
    per_second: float
    p50_us: float
    p99_us: float


@dataclass
class Server:
    """A server process of a contender."""

    port: int
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """User and system time of the server and its children, ended ones included."""
        return sum(int(field) for fields in self._stats() for field in fields[11:15]) / TICKS

    def resident_mb(self) -> float:
        """Memory of the server and its children that is in use, shared pages once for each."""
        return sum(int(fields[21]) for fields in self._stats()) * PAGE / 1e6

    def _stats(self) -> Iterator[list[str]]:
        """What the kernel says of each process in the session, which the server leads."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if int(fields[3]) == self.process.pid:
                yield fields


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bytes | None:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


@contextmanager
def serving(
    command: Sequence[str | Path],
    port: int,
    path: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that answers `path`, in its own session; stopped at the end."""
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while _answers(port, path) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(port, process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def _microseconds(percentile: str, text: str) -> float:
    match = re.search(rf"^\s*{percentile}%\s+([\d.]+)(us|ms|s)", text, re.MULTILINE)
    assert match is not None, text
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Request:
    """What is sent, again and again."""

    path: str
    method: str = "GET"
    body: str = ""
    headers: tuple[str, ...] = ()
    pipelined: bool = False
    """Sixteen in one write."""
    refused: bool = False
    """Nearly every answer is to be a refusal; otherwise all are 200."""


def drive(server: Server, request: Request, seconds: int) -> Load:
    """Load a server for some seconds from one thread of wrk over kept-alive connections."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    command += ["-s", str(FOLDER / "request.lua")]
    for header in request.headers:
        command += ["-H", header]
    command += [f"http://{HOST}:{server.port}", "--"]
    command += ["x16"] if request.pipelined else []
    command += [request.method, request.path, request.body or "-"]
    before = server.cpu_seconds()
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = server.cpu_seconds() - before
    counted = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", told)
    assert counted is not None, told
    requests = int(counted[1])
    others = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    share = int(others[1]) / requests if others else 0.0
    if "Socket errors" in told or (share < 0.99 if request.refused else share > 0):
        raise RuntimeError(
            f"{request.path} on port {server.port} did not answer as it should:\n{told}"
        )
    return Load(
        requests,
        spent * 1e6 / requests,
        requests / seconds,
        _microseconds("50", told),
        _microseconds("99", told),
    )
