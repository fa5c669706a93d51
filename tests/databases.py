"""Real databases for tests: on free ports, in temporary folders, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.programs import program
from tests.servers import START_WITHIN, free_port, stand_still


def as_user(user: str, command: Sequence[str]) -> list[str]:
    """Servers refuse to run as root."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command]


class PostgresServer:
    """A PostgreSQL server of its own. Use `postgres_server()`, which also ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgres://rl@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *arguments: str) -> None:
        """Nothing is piped: the server keeps open what it inherits."""
        command = as_user(
            "postgres", [program(name, "postgresql"), "-D", str(self.data), *arguments]
        )
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            log = self.folder / "log"
            told = log.read_text(errors="replace") if log.exists() else ""
            raise RuntimeError(f"{' '.join(command)} failed:\n{told}")

    def make(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-A", "trust", "-U", "rl", "--no-sync", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl", "-w", "-t", "60", "-o", options, "-l", str(self.folder / "log"), "start"
        )

    def kill(self) -> None:
        """End it without warning."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def sql(self, text: str) -> str:
        """Run SQL past the product; what it prints."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "rl", "-d", "postgres"]
        done = subprocess.run(
            [program("psql", "postgresql"), *place, "-X", "-q", "-A", "-t", "-c", text],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def freeze(self) -> None:
        """Stop all its processes from running, without closing anything."""
        for process in self._processes():
            stand_still(process)

    def thaw(self) -> None:
        for process in self._processes():
            os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        main = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server on a free port.

    Raises RuntimeError with the line to install it when it is absent.
    """
    with tempfile.TemporaryDirectory(prefix="tollway-postgres-") as folder:
        server = PostgresServer(Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            if (server.data / "postmaster.pid").exists():
                server.thaw()
                server.kill()


class MariaDbServer:
    """A MariaDB server of its own. Use `mariadb_server()`, which also ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/shop"

    def make(self) -> None:
        arguments = [f"--datadir={self.folder}/data", "--no-defaults", "--skip-test-db"]
        arguments += ["--auth-root-authentication-method=normal", "--innodb-flush-method=nosync"]
        if os.geteuid() == 0:
            shutil.chown(self.folder, "mysql")
            arguments.append("--user=mysql")
        command = [program("mariadb-install-db", "mariadb-server"), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        arguments = ["--no-defaults", f"--datadir={self.folder}/data", f"--port={self.port}"]
        arguments += [f"--socket={self.folder}/s", f"--pid-file={self.folder}/pid"]
        arguments += ["--bind-address=127.0.0.1", "--skip-name-resolve"]
        arguments += ["--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0"]
        if os.geteuid() == 0:
            arguments.append("--user=mysql")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program("mariadbd", "mariadb-server"), *arguments], stdout=log, stderr=log
            )
        end = time.monotonic() + START_WITHIN
        while True:
            with suppress(subprocess.CalledProcessError):
                self.sql("create database if not exists shop")
                return
            if self.process.poll() is not None or time.monotonic() > end:
                log_text = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"mariadbd does not start on port {self.port}:\n{log_text}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def sql(self, text: str) -> str:
        """Run SQL past the product; what it prints."""
        place = ["--no-defaults", f"--socket={self.folder}/s", "-u", "root", "-N", "-B", "-e", text]
        command = [program("mariadb", "mariadb-server"), *place]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def mariadb_server() -> Iterator[MariaDbServer]:
    """A real MariaDB server on a free port, with a database `shop`.

    Raises RuntimeError with the line to install it when it is absent.
    """
    with tempfile.TemporaryDirectory(prefix="tollway-mariadb-") as folder:
        server = MariaDbServer(Path(folder))
        server.make()
        try:
            server.start()
            yield server
        finally:
            server.kill()
