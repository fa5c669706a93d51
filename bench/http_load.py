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
        total = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if int(fields[3]) == self.process.pid:  # its session, which the server leads
                total += sum(int(field) for field in fields[11:15])
        return total / TICKS


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


def drive(
    server: Server, path: str, seconds: int, pipelined: bool = False, refused: bool = False
) -> Load:
    """Load `path` for some seconds from one thread of wrk over kept-alive connections.

    Every answer must be a 200, or with `refused` nearly every one a refusal.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    command += ["-s", str(FOLDER / "pipeline.lua")] if pipelined else []
    command += [f"http://{HOST}:{server.port}{path}"]
    command += ["--", path] if pipelined else []
    before = server.cpu_seconds()
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = server.cpu_seconds() - before
    counted = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", told)
    assert counted is not None, told
    requests = int(counted[1])
    others = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    share = int(others[1]) / requests if others else 0.0
    if "Socket errors" in told or (share < 0.99 if refused else share > 0):
        raise RuntimeError(f"{path} on port {server.port} did not answer as it should:\n{told}")
    return Load(
        requests,
        spent * 1e6 / requests,
        requests / seconds,
        _microseconds("50", told),
        _microseconds("99", told),
    )
