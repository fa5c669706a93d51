"""`make demo` as a stranger meets it: the three doors, a taken port, a server that fails."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def free_ports(count: int = 3) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for first in range(20_000, 30_000, count):
        with _listening(*range(first, first + count)) as free:
            if free:
                return first
    raise AssertionError("no three free ports in a row between 20000 and 30000")


@contextmanager
def _listening(*ports: int) -> Iterator[bool]:
    sockets: list[socket.socket] = []
    free = True
    try:
        for port in ports:
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", port))
            sockets[-1].listen()
    except OSError:
        free = False
    try:
        yield free
    finally:
        for opened in sockets:
            opened.close()


@contextmanager
def demo(tmp_path: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.doors.tour", *arguments],
        cwd=TOP,
        env=os.environ | {"DOORS_DATABASE": str(tmp_path / "db.sqlite3")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def test_the_tour_finds_three_exact_doors(tmp_path: Path) -> None:
    with demo(tmp_path, "--once", "--port", str(free_ports())) as tour:
        output, errors = tour.communicate(timeout=100)
    assert (tour.returncode, errors) == (0, ""), output + errors
    for door in ("Bolt", "Django", "FastAPI"):
        (row,) = (line for line in output.splitlines() if line.strip().startswith(door))
        assert " 5 " in row
        assert " 2+100 " in row
        assert " 2 s " in row
        assert "exact" in row


def test_a_taken_port_is_named_in_one_sentence(tmp_path: Path) -> None:
    first = free_ports()
    with _listening(first + 1) as free:
        assert free
        with demo(tmp_path, "--once", "--port", str(first)) as tour:
            output, errors = tour.communicate(timeout=60)
    assert tour.returncode == 1
    assert output == ""
    assert errors == (
        f"demo: port {first + 1} on 127.0.0.1 cannot be used (address already in use): stop what "
        f"listens there, or choose three others with `make demo PORT={first + 1001}`\n"
    )


def test_it_serves_until_it_is_stopped_and_leaves_nothing_behind(tmp_path: Path) -> None:
    first = free_ports()
    with demo(tmp_path, "--port", str(first)) as tour:
        assert tour.stdout is not None
        assert tour.stderr is not None
        for line in tour.stdout:
            if "Serving until Ctrl-C" in line:
                break
        for port in (first, first + 1):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/items", timeout=10) as answer:
                assert b"Lantern" in answer.read()
        tour.send_signal(signal.SIGINT)
        output, errors = tour.stdout.read(), tour.stderr.read()
    assert (tour.returncode, errors) == (0, "")
    assert f"curl -i http://127.0.0.1:{first}/ping" in output
    for port in range(first, first + 3):
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)


def test_a_server_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "uvicorn.py").write_text("raise SystemExit('uvicorn is broken here')\n")
    arguments = ("--once", "--port", str(free_ports()))
    with demo(tmp_path, *arguments, PYTHONPATH=str(broken)) as tour:
        _, errors = tour.communicate(timeout=60)
    assert tour.returncode == 1
    assert errors.startswith("demo: the FastAPI server stopped at once; the end of ")
    assert "uvicorn is broken here" in errors
    assert "Traceback" not in errors
