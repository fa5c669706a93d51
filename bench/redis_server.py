"""A Redis of this run, and the very script call that Tollway sends to it."""

import codecs
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.http_load import HOST, free_port

START_SECONDS_MAX = 20.0
WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


def _ask(port: int, command: bytes) -> bytes:
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(4096)


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of a `redis-server` that keeps nothing on disk; stopped at the end."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is missing; install it with: apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            with suppress(OSError):
                if _ask(port, b"PING") == b"+PONG\r\n":
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server: {(folder / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def spoken(port: int, call: Callable[[], object]) -> list[bytes]:
    """The first EVALSHA that `call` sends: its words, the command itself left out."""
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(b"MONITOR\r\n")
        lines = connection.makefile("rb")
        assert lines.readline() == b"+OK\r\n"
        call()
        for line in lines:
            # What a script does itself is shown as well, marked `lua`.
            words = [codecs.escape_decode(word)[0] for word in WORD.findall(line)]
            if words and words[0].upper() == b"EVALSHA" and b" lua]" not in line:
                return [bytes(word) for word in words[1:]]
    raise RuntimeError("no script was called")
