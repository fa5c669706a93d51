"""Real servers for tests: on free ports, in temporary folders, gone afterwards."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

START_WITHIN = 20.0
INSTALL = "apt-get install -y redis-server"


class RedisServer:
    """A `redis-server` of its own. Use `redis_server()`, which also ends it."""

    def __init__(self, folder: Path, port: int, arguments: tuple[str, ...]) -> None:
        self.folder = folder
        self.port = port
        self.arguments = arguments
        self.process = self._spawn()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"redis+unix://{self.folder}/redis.sock"

    def _spawn(self) -> subprocess.Popen[bytes]:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError(f"redis-server is not installed: run `{INSTALL}`")
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--unixsocket", "redis.sock", "--dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, *words: str) -> bytes:
        """Send one command past the product; the first line of the answer."""
        request = f"*{len(words)}\r\n"
        request += "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request.encode())
            answer = b""
            while not answer.endswith(b"\r\n"):
                part = connection.recv(4096)
                if not part:
                    raise ConnectionError("redis-server closed the connection")
                answer += part
        return answer.split(b"\r\n", 1)[0]

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_WITHIN
        while True:
            with suppress(OSError):
                # A server that wants a password answers too: -NOAUTH.
                if self.ask("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"redis-server does not start on port {self.port}:\n{log}")
            time.sleep(0.01)

    def freeze(self) -> None:
        """Stop it from running without closing anything."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again, empty, on the same port."""
        self.kill()
        self.process = self._spawn()
        self.wait_until_ready()


@contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    """A real `redis-server` on a free port, started with these arguments more.

    Raises RuntimeError with the line to install it when it is absent.
    """
    with tempfile.TemporaryDirectory(prefix="tollway-redis-") as folder:
        server = _started(Path(folder), arguments)
        try:
            yield server
        finally:
            server.kill()


def _started(folder: Path, arguments: tuple[str, ...]) -> RedisServer:
    last: RuntimeError | None = None
    # A free port may be taken by somebody else before the server binds it.
    for _ in range(5):
        server = RedisServer(folder, free_port(), arguments)
        try:
            server.wait_until_ready()
        except RuntimeError as error:
            last = error
            server.kill()
        except BaseException:
            server.kill()
            raise
        else:
            return server
    assert last is not None
    raise last


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def redis_tls_server() -> Iterator[tuple[RedisServer, str, Path]]:
    """A `redis-server` that speaks TLS: itself, its `rediss://HOST:PORT`, and whom to trust."""
    with tempfile.TemporaryDirectory(prefix="tollway-tls-") as name:
        folder = Path(name)
        key, certificate = folder / "key.pem", folder / "cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=tollway"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        port = free_port()
        arguments = ["--tls-port", str(port), "--tls-cert-file", str(certificate)]
        arguments += ["--tls-key-file", str(key), "--tls-auth-clients", "no"]
        with redis_server(*arguments, "--tls-ca-cert-file", str(certificate)) as server:
            yield server, f"rediss://127.0.0.1:{port}", certificate


@contextmanager
def redis_cluster() -> Iterator[list[RedisServer]]:
    """Three nodes that serve all slots together."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(3):
            bus = str(free_port())
            server = redis_server("--cluster-enabled", "yes", "--cluster-port", bus)
            nodes.append(stack.enter_context(server))
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        command = ["redis-cli", "--cluster", "create", *places, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        end = time.monotonic() + START_WITHIN
        served = (b"$-1", b"-MOVED")
        while not all(node.ask("GET", key).startswith(served) for node in nodes for key in "abc"):
            if time.monotonic() > end:
                raise RuntimeError("the cluster does not serve all slots")
            time.sleep(0.02)
        yield nodes
