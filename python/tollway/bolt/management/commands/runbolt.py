"""``manage.py runbolt``: serve the project's APIs."""

from __future__ import annotations

import socket
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connections

from tollway._tollway import Server
from tollway.bolt.compiling.assembly import Assembly, assemble
from tollway.bolt.compiling.discovery import find_apis
from tollway.bolt.conf import BoltSettings, read_settings
from tollway.bolt.server import options as command_line
from tollway.bolt.server import watching
from tollway.bolt.server.databases import closing_old_connections
from tollway.bolt.server.recycling import Heritage, take_over
from tollway.bolt.server.serving import End, Link, serve
from tollway.bolt.server.sharing import segment, shared_url
from tollway.bolt.server.sockets import Place, allow_files, opened
from tollway.bolt.server.workers import Supervisor
from tollway.errors import ConfigError


class Command(BaseCommand):
    """Serves the APIs of a project over HTTP."""

    help = "Serves the APIs found in the api.py files of the project and its apps."

    def add_arguments(self, parser: ArgumentParser) -> None:
        command_line.add_options(parser)

    def handle(self, **options: Any) -> None:
        heritage = Heritage.taken()
        try:
            settings = read_settings(django_settings)
            command_line.apply(options, settings)
            place = command_line.place_of(options, settings)
            if options["dev"] and not watching.is_watched() and not options["check"]:
                self._watch(settings, place)
                return
            shared = self._shared(settings, options)
            assembly = self._assembly(settings)
            server = Server(assembly.routes, assembly.settings)
        except (ConfigError, ValueError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(_sentence(error)) from error
        if options["check"]:
            self.stdout.write(f"{_count(assembly.count, 'route')}: all is well")
            return
        self._migrations()
        run = _Run(self, settings, assembly, server, place, heritage)
        try:
            with segment(shared, fresh=not heritage.listeners):
                code = run.serve(options)
        except OSError as error:
            raise CommandError(_sentence(error)) from error
        if code:
            sys.exit(code)

    def say(self, text: str) -> None:
        """Tell the people who watch."""
        self.stderr.write(self.style.WARNING(text))
        self.stderr.flush()

    def _shared(self, settings: BoltSettings, options: dict[str, Any]) -> str | None:
        """Several processes count together, unless somebody said where each should count."""
        if options["processes"] == 1 or settings.backend_stated:
            return None
        url = shared_url()
        if url is not None:
            settings.backend = url
        return url

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
            self.say(f"The database cannot be reached yet: {error}")
        finally:
            # Children must not share a connection with their parent.
            connections.close_all()

    def _watch(self, settings: BoltSettings, place: Place) -> None:
        base = getattr(django_settings, "BASE_DIR", None)
        paths = [Path.cwd(), *(Path(config.path) for config in apps.get_app_configs())]
        folders = watching.roots([*paths, *([Path(base)] if base else [])])
        with opened(place, 1, settings.bounds["BOLT_BACKLOG"], []) as sockets:
            listeners = [listener.fileno() for listener in sockets]
            watching.Watcher(folders, listeners, self.say).run()


class _Run:
    """One server: what it is made of, and where it serves."""

    def __init__(
        self,
        command: Command,
        settings: BoltSettings,
        assembly: Assembly,
        server: Server,
        place: Place,
        heritage: Heritage,
    ) -> None:
        self.command = command
        self.settings = settings
        self.assembly = assembly
        self.server = server
        self.place = place
        self.heritage = heritage

    def serve(self, options: dict[str, Any]) -> int:
        """Returns the exit code."""
        processes = options["processes"]
        self.warn(processes)
        backlog = self.settings.bounds["BOLT_BACKLOG"]
        with opened(self.place, processes, backlog, self.heritage.listeners) as sockets:
            ready = self.announcer(sockets[0], processes)
            supervised = processes > 1 or command_line.wear_of(options)
            if supervised and not watching.is_watched():
                return self.supervise(sockets, options, ready)
            return self.alone(sockets[0], ready)

    def alone(self, listener: socket.socket, ready: Callable[[], None]) -> int:
        self.server.adopt(listener.fileno())
        end = serve(
            self.server,
            self.assembly.errors,
            grace=self.settings.grace,
            ready=ready,
            say=self.command.say,
            lifespan=self.assembly.lifespan,
        )
        if end is End.RELOAD:
            # Whoever connects meanwhile waits at the socket, which stays open.
            take_over(Heritage(listeners=[listener.fileno()]))
        return 0 if end is End.CLEAN else 1

    def supervise(
        self, sockets: list[socket.socket], options: dict[str, Any], ready: Callable[[], None]
    ) -> int:
        wear = command_line.wear_of(options)

        def child(index: int, link: Link) -> bool:
            self.server.adopt(sockets[index].fileno())
            end = serve(
                self.server,
                self.assembly.errors,
                grace=self.settings.grace,
                ready=link.ready,
                link=link,
                wear=wear,
                lifespan=self.assembly.lifespan,
            )
            return end is End.CLEAN

        supervisor = Supervisor(
            child,
            [listener.fileno() for listener in sockets],
            command_line.terms_of(options, self.settings),
            ready=ready,
            say=self.command.say,
            heritage=self.heritage,
        )
        return supervisor.run()

    def warn(self, processes: int) -> None:
        """What is hardly meant: too few files, and processes that count each for itself."""
        connections = self.settings.bounds["BOLT_MAX_CONNECTIONS"]
        files = allow_files(connections)
        if files is not None:
            self.command.say(
                f"The system allows a process {files} open files, which is too few for "
                f"{connections} connections: clients will have to wait before that. Allow more "
                "(ulimit -n, LimitNOFILE), or lower BOLT_MAX_CONNECTIONS."
            )
        urls = self.assembly.limiters.urls
        if processes > 1 and any(url.startswith("memory:") for url in urls):
            self.command.say(
                f"Limits are kept in memory, and each of the {processes} processes keeps its own: "
                f"a client may pass up to {processes} times a limit. To share them, leave "
                'RATELIMIT_BACKEND out, or set RATELIMIT_BACKEND = "redis://127.0.0.1:6379/0".'
            )
        if processes > 1 and self.assembly.forgetful:
            self.command.say(
                f"{' and '.join(self.assembly.forgetful)} keeps revoked tokens in the memory of "
                f"one process: a token that was revoked stays good in the {processes - 1} others. "
                "Use DjangoORMRevocation, or DjangoCacheRevocation on a cache that is shared."
            )

    def announcer(self, listener: socket.socket, processes: int) -> Callable[[], None]:
        size = f"{_count(self.assembly.count, 'route')}, {_count(processes, 'process', 'es')}"
        url = self.place.url(listener)
        line = f"Bolt listens on {url} ({size}). Stop it with Ctrl-C."

        def announce() -> None:
            self.command.stdout.write(line)
            self.command.stdout.flush()

        return announce


def _sentence(error: OSError) -> str:
    """The server's own sentence, without the number that Python puts before it."""
    return error.strerror or str(error)


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{ending if number != 1 else ''}"
