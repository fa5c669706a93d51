"""Real servers for tests: on free ports, in temporary folders, gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.editions import REDIS, server_program
from tests.waiting import wait

START_WITHIN = 20.0
FAKETIME = "apt-get install -y faketime"


class RedisServer:
    """A `redis-server` of its own. Use `redis_server()`, which also ends it."""

    def __init__(self, folder: Path, port: int, arguments: tuple[str, ...], edition: str) -> None:
        self.program = server_program(edition)
        self.folder = folder
        self.port = port
        self.arguments = arguments
        self.frozen = False
        self.process = self._spawn()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"redis+unix://{self.folder}/redis.sock"

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--unixsocket", "redis.sock", "--dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, *words: str) -> bytes:
        """Send one command past the product; the first line of the answer."""
        return ask(self.port, *words).split(b"\r\n", 1)[0]

    def read(self, *words: str) -> str:
        """Send one command past the product; the text of the answer."""
        return ask(self.port, *words).partition(b"\r\n")[2].decode()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_WITHIN
        while True:
            with suppress(OSError):
                # A server that wants a password answers too: -NOAUTH.
                if self.ask("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"{self.program} does not start on port {self.port}:\n{log}")
            time.sleep(0.01)

    def freeze(self) -> None:
        """Stop it from running without closing anything."""
        self.frozen = True
        stand_still(self.process.pid)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again, empty, on the same port."""
        self.kill()
        self.process = self._spawn()
        self.wait_until_ready()


class SkewedServer(RedisServer):
    """One whose clock can be set while it runs. Use `skewed_server()`."""

    def environment(self) -> dict[str, str]:
        set_clock(self.folder / "clock", 0)
        return skewed_environment(self.folder / "clock")

    def shift(self, seconds: float) -> None:
        """Let the server's clock be so many seconds off from now on."""
        set_clock(self.folder / "clock", seconds)

        def follows() -> bool:
            now = float(self.read("TIME").split()[1])
            return abs(now - time.time() - seconds) < 10

        wait("the server's clock is set", follows)


def set_clock(file: Path, seconds: float) -> None:
    """What the clock of the processes with `skewed_environment(file)` is off by from now on."""
    # Replaced and not rewritten: it is read all the time.
    other = file.with_suffix(".new")
    other.write_text(f"{seconds:+}\n")
    other.replace(file)


def skewed_environment(file: Path) -> dict[str, str]:
    """For processes whose wall clock is as far off as `file` says; waiting takes its time."""
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        raise RuntimeError(f"libfaketime is not installed: run `{FAKETIME}`")
    skew = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return os.environ | skew


Server = TypeVar("Server", bound=RedisServer)


def ask(port: int, *words: str) -> bytes:
    """Send one command to a server of 127.0.0.1; the answer as it came: a line, or a text."""
    request = f"*{len(words)}\r\n"
    request += "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.encode())
        answer = b""
        while not _complete(answer):
            part = connection.recv(65_536)
            if not part:
                raise ConnectionError(f"the server on port {port} closed the connection")
            answer += part
    return answer


def _complete(answer: bytes) -> bool:
    head, end, text = answer.partition(b"\r\n")
    if not end:
        return False
    length = int(head[1:]) if head.startswith(b"$") else -1
    return length < 0 or len(text) >= length + 2


def stand_still(pid: int) -> None:
    """Stop a process from running without closing anything.

    Waits until none of its threads runs: the signal alone comes back before that.
    """
    os.kill(pid, signal.SIGSTOP)

    def runs() -> bool:
        stats = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
        # Behind the name, which stands in parentheses: T for stopped, Z for gone.
        return any(stat.rpartition(") ")[2][0] not in "TZX" for stat in stats)

    wait(f"process {pid} stands still", lambda: not runs())


@contextmanager
def redis_server(*arguments: str, edition: str = REDIS) -> Iterator[RedisServer]:
    """A real server of an edition on a free port, started with these arguments more.

    Raises RuntimeError with the line to install it when it is absent.
    """
    with tempfile.TemporaryDirectory(prefix="tollway-redis-") as folder:
        server = _started(RedisServer, Path(folder), arguments, edition)
        try:
            yield server
        finally:
            server.kill()


def _started(kind: type[Server], folder: Path, arguments: tuple[str, ...], edition: str) -> Server:
    last: RuntimeError | None = None
    # A free port may be taken by somebody else before the server binds it.
    for _ in range(5):
        server = kind(folder, free_port(), arguments, edition)
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
    """A port of 127.0.0.1 that nobody listens on.

    Nor 10 000 above it, where a node of a Cluster talks to the others.
    """
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + 10_000))
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
def skewed_server() -> Iterator[SkewedServer]:
    """A real server whose clock can be set while it runs.

    It is Valkey, because Debian's `redis-server` does not start under libfaketime.
    """
    with tempfile.TemporaryDirectory(prefix="tollway-valkey-") as folder:
        server = _started(SkewedServer, Path(folder), (), "valkey")
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def redis_cluster(
    replicas: int = 0, node_timeout: int = 2000, edition: str = REDIS
) -> Iterator[list[RedisServer]]:
    """Three nodes that serve all slots together, and for each so many replicas in step with it."""
    with ExitStack() as stack:
        nodes: list[RedisServer] = []
        for _ in range(3 + 3 * replicas):
            node = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout))
            quick = ("--repl-diskless-sync-delay", "0")
            # Or the nodes that are left refuse their own slots too until one that died is replaced.
            alone = ("--cluster-require-full-coverage", "no")
            started = redis_server(*node, *quick, *alone, edition=edition)
            nodes.append(stack.enter_context(started))
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        command = ["redis-cli", "--cluster", "create", *places]
        command += ["--cluster-replicas", str(replicas), "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

        def ready() -> bool:
            if not all("cluster_state:ok" in node.read("CLUSTER", "INFO") for node in nodes):
                return False
            known = [node.read("CLUSTER", "NODES") for node in nodes]
            links = [node.read("INFO", "replication") for node in nodes]
            up = sum("master_link_status:up" in link for link in links)
            everybody = 3 * replicas
            return up == everybody and all(text.count("slave") == everybody for text in known)

        wait("the cluster serves all slots with its replicas in step", ready)
        yield nodes


class Watched:
    """A primary, its replica, and three sentinels that watch them. Use `watched_servers()`."""

    service = "tollway"

    def __init__(self, stack: ExitStack, folder: Path, edition: str) -> None:
        delay = ("--repl-diskless-sync-delay", "0")
        self.primary = stack.enter_context(redis_server(*delay, edition=edition))
        of = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica = stack.enter_context(redis_server(*of, *delay, edition=edition))
        # A sentinel that is told nothing else asks the primary for its replicas each ten seconds.
        self.wait_until_in_step()
        self.sentinels = []
        for _ in range(3):
            port = free_port()
            sentinel = subprocess.Popen(
                [server_program(edition), self._written(folder, port), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(sentinel.wait)
            stack.callback(sentinel.kill)
            self.sentinels.append((sentinel, port))
        for _, port in self.sentinels:
            wait("the sentinel listens", partial(self._listens, port))
            # Look five times a second instead of every ten seconds; Redis 6 does not know it.
            ask(port, "SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "300")
        for _, port in self.sentinels:
            wait("each sentinel knows everybody", partial(self._knows_everybody, port))

    def _written(self, folder: Path, port: int) -> str:
        file = folder / f"{port}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {self.service} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {self.service} 1000\n"
            f"sentinel failover-timeout {self.service} 3000\n"
        )
        return str(file)

    def _replication(self, server: RedisServer) -> str:
        return server.read("INFO", "replication")

    def _listens(self, port: int) -> bool:
        return ask(port, "PING").startswith(b"+PONG")

    def _knows_everybody(self, port: int) -> bool:
        wanted = (b"status=ok", b"slaves=1", b"sentinels=3")
        line = ask(port, "INFO", "sentinel")
        return all(part in line for part in wanted)

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{port}" for _, port in self.sentinels)
        return f"redis+sentinel://{places}/{self.service}"

    def wait_until_in_step(self) -> None:
        """Wait until the replica has all that the primary has."""

        def in_step() -> bool:
            told, known = self._replication(self.primary), self._replication(self.replica)
            offset = next(line for line in told.splitlines() if "master_repl_offset" in line)
            return "link_status:up" in known and offset in known

        wait("the replica is in step", in_step)

    def role(self, server: RedisServer) -> str:
        lines = self._replication(server).splitlines()
        return next(line.removeprefix("role:") for line in lines if line.startswith("role:"))

    def fail_over(self) -> None:
        """Have the sentinels swap the roles, with both alive, and wait until they did."""
        asked = 0.0

        def swapped() -> bool:
            nonlocal asked
            roles = (self.role(self.replica), self.role(self.primary))
            # A busy machine may let a failover lapse; nobody begins another by himself.
            if roles[0] == "slave" and time.monotonic() > asked + 5:
                said = ask(self.sentinels[2][1], "SENTINEL", "FAILOVER", self.service)
                # It may not have heard of the replica for a second.
                asked = time.monotonic() if said.startswith(b"+OK") else asked
            return roles == ("master", "slave")

        wait("the replica is the primary", swapped)


@contextmanager
def watched_servers(edition: str = REDIS) -> Iterator[Watched]:
    """A primary and a replica behind three sentinels, ready for a failover."""
    with tempfile.TemporaryDirectory(prefix="tollway-sentinel-") as name, ExitStack() as stack:
        yield Watched(stack, Path(name), edition)
