"""``manage.py runbolt``: serve the project's APIs."""

from __future__ import annotations

import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connections

from tollway._tollway import Server
from tollway.bolt.answers import access_log
from tollway.bolt.assembly import Assembly, assemble
from tollway.bolt.conf import BoltSettings, read_settings
from tollway.bolt.databases import closing_old_connections
from tollway.bolt.discovery import find_apis
from tollway.bolt.serving import serve
from tollway.bolt.workers import Supervisor
from tollway.errors import ConfigError

MOST_PROCESSES: Final = 512


def _within(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return value


class Command(BaseCommand):
    """Serves the APIs of a project over HTTP."""

    help = "Serves the APIs found in the api.py files of the project and its apps."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--host",
            default="127.0.0.1",
            help="address to listen on; 0.0.0.0 for all (%(default)s)",
        )
        add("--port", type=_within(0, 65535), default=8000, help="0 for any free one (%(default)s)")
        add(
            "--processes",
            type=_within(1, MOST_PROCESSES),
            default=1,
            help="how many processes share the port (%(default)s)",
        )
        add(
            "--threads",
            type=_within(1, 1024),
            help="threads in each process for `def` handlers (BOLT_THREADS, or 4)",
        )
        add(
            "--grace",
            type=_seconds,
            help="seconds that requests in flight get on SIGTERM (BOLT_GRACE, or 30)",
        )
        add(
            "--access-log",
            nargs="?",
            const=True,
            metavar="FILE",
            help="write a line for each request to FILE, or to standard error (BOLT_ACCESS_LOG)",
        )
        add("--check", action="store_true", help="check every route and setting, then exit")

    def handle(self, **options: Any) -> None:
        try:
            settings = self._settings(options)
            assembly = self._assembly(settings)
            server = Server(assembly.routes, assembly.settings)
        except (ConfigError, ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        if options["check"]:
            self.stdout.write(f"{_count(assembly.count, 'route')}: all is well")
            return
        self._migrations()
        host, port, processes = options["host"], options["port"], options["processes"]
        try:
            if processes == 1:
                self._alone(server, assembly, settings, host, port)
            else:
                self._many(server, assembly, settings, host, port, processes)
        except OSError as error:
            raise CommandError(_sentence(error)) from error

    def _settings(self, options: dict[str, Any]) -> BoltSettings:
        settings = read_settings(django_settings)
        if options["threads"] is not None:
            settings.threads = options["threads"]
        if options["grace"] is not None:
            settings.grace = options["grace"]
        if options["access_log"]:
            log = access_log(django_settings, options["access_log"])
            settings.answers = replace(settings.answers, log=log)
        return settings

    def _assembly(self, settings: BoltSettings) -> Assembly:
        names = [config.name for config in apps.get_app_configs()]
        apis = find_apis(django_settings, names, settings.apis)
        return assemble(apis, settings, around=closing_old_connections)

    def _migrations(self) -> None:
        """As `runserver` does: a notice when migrations wait, nothing worse."""
        if not django_settings.DATABASES:
            return
        try:
            self.check_migrations()
        except OperationalError as error:
            self.stderr.write(self.style.WARNING(f"The database cannot be reached yet: {error}"))
        finally:
            # Children must not share a connection with their parent.
            connections.close_all()

    def _alone(
        self, server: Server, assembly: Assembly, settings: BoltSettings, host: str, port: int
    ) -> None:
        address = server.bind(host, port, False)
        ready = self._announcer(address, assembly, 1)
        life = assembly.lifespan
        if not serve(server, assembly.errors, grace=settings.grace, ready=ready, lifespan=life):
            sys.exit(1)

    def _many(
        self,
        server: Server,
        assembly: Assembly,
        settings: BoltSettings,
        host: str,
        port: int,
        processes: int,
    ) -> None:
        if any(url.startswith("memory:") for url in assembly.limiters.urls):
            self.stderr.write(
                self.style.WARNING(
                    f"Limits are kept in memory, and each of the {processes} processes keeps its "
                    f"own: a client may pass up to {processes} times a limit. To share them, set "
                    'RATELIMIT_BACKEND = "redis://127.0.0.1:6379/0".'
                )
            )
        # Finds out whether a stranger has the port, and which one when any will do.
        probe = Server([], {})
        address = probe.bind(host, port, False)
        del probe
        with _reserved(address):
            self._supervise(server, assembly, settings, (host, address), processes)

    def _supervise(
        self,
        server: Server,
        assembly: Assembly,
        settings: BoltSettings,
        where: tuple[str, tuple[str, int]],
        processes: int,
    ) -> None:
        host, address = where

        def child(ready: Callable[[], None], lifeline: int) -> bool:
            server.bind(host, address[1], True)
            return serve(
                server,
                assembly.errors,
                grace=settings.grace,
                ready=ready,
                lifeline=lifeline,
                lifespan=assembly.lifespan,
            )

        supervisor = Supervisor(
            child,
            processes,
            grace=settings.grace,
            ready=self._announcer(address, assembly, processes),
            say=lambda text: self.stderr.write(self.style.WARNING(text)),
        )
        code = supervisor.run()
        if code:
            sys.exit(code)

    def _announcer(
        self, address: tuple[str, int], assembly: Assembly, processes: int
    ) -> Callable[[], None]:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        size = f"{_count(assembly.count, 'route')}, {_count(processes, 'process', 'es')}"
        line = f"Bolt listens on http://{host}:{address[1]} ({size}). Stop it with Ctrl-C."

        def announce() -> None:
            self.stdout.write(line)
            self.stdout.flush()

        return announce


def _reserved(address: tuple[str, int]) -> socket.socket:
    """Holds the port for the children without taking connections, as it never listens."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except BaseException:
        holder.close()
        raise
    return holder


def _sentence(error: OSError) -> str:
    """The server's own sentence, without the number that Python puts before it."""
    return error.strerror or str(error)


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{ending if number != 1 else ''}"
