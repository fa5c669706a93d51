"""The command line of ``runbolt``."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from django.conf import settings as django_settings

from tollway.bolt.compiling.answers import access_log
from tollway.bolt.conf import BoltSettings
from tollway.bolt.server.recycling import Wear
from tollway.bolt.server.sockets import SOCKET_MODE, Place
from tollway.bolt.server.workers import Terms
from tollway.errors import ConfigError

__all__ = ["MOST_PROCESSES", "add_options", "apply", "place_of", "terms_of", "wear_of"]

MOST_PROCESSES: Final = 512
_MEBIBYTE: Final = 1_048_576


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


def _mode(text: str) -> int:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ArgumentTypeError(f"{text!r} is not a mode such as 660")
    return value


def add_options(parser: ArgumentParser) -> None:
    """Everything that ``runbolt`` understands."""
    _add_places(parser)
    _add_processes(parser)
    add = parser.add_argument
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
    add("--keep-alive", type=_seconds, help="seconds a connection may idle")
    add("--dev", action="store_true", help="start again whenever a Python file changes")
    add("--check", action="store_true", help="check every route and setting, then exit")


def _add_places(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (%(default)s)")
    add("--port", type=_within(0, 65535), default=8000, help="0 for any free one (%(default)s)")
    add("--bind", metavar="ADDRESS", help="HOST:PORT or unix:PATH, in place of --host and --port")
    add("--unix", metavar="PATH", help="listen on a Unix socket: the same as --bind unix:PATH")
    add(
        "--unix-mode",
        type=_mode,
        default=SOCKET_MODE,
        help="who may connect to the Unix socket, as chmod says it (660)",
    )
    add("--backlog", type=_within(1, 65535), help="connections that may wait to be accepted")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM form; serves HTTPS and HTTP/2")
    add("--tls-key", metavar="FILE", help="its private key in PEM form")


def _add_processes(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        *("--processes", "--workers"),
        dest="processes",
        type=_within(1, MOST_PROCESSES),
        default=1,
        help="how many processes serve; a worker is a process (%(default)s)",
    )
    add(
        "--max-requests",
        type=_within(1, 10**12),
        help="requests after which a process is replaced, about",
    )
    add("--workers-lifetime", type=_seconds, help="seconds after which a process is replaced")
    add("--max-rss", type=_within(1, 10**7), help="MiB of memory above which one is replaced")
    add(
        "--respawn-failed-workers",
        action=BooleanOptionalAction,
        default=True,
        help="start a process again that died; without it everything stops, with exit code 1",
    )
    add(
        "--workers-kill-timeout",
        type=_seconds,
        help="seconds after which a process that does not stop is killed (the grace and 5)",
    )


def apply(options: dict[str, Any], settings: BoltSettings) -> None:
    """Put what the command line says in place of what the settings say."""
    for name in ("threads", "grace", "tls_cert", "tls_key"):
        if options[name] is not None:
            setattr(settings, name, options[name])
    if options["access_log"]:
        log = access_log(django_settings, options["access_log"])
        settings.answers = replace(settings.answers, log=log)
    for option, bound in (("keep_alive", "BOLT_KEEP_ALIVE_TIMEOUT"), ("backlog", "BOLT_BACKLOG")):
        if options[option] is not None:
            settings.bounds[bound] = options[option]
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("cert", "key") if settings.tls_cert else ("key", "cert")
        raise ConfigError(
            f"--tls-{given} is of no use alone: give --tls-{missing} as well "
            f"(or the settings BOLT_TLS_CERT and BOLT_TLS_KEY)"
        )
    if options["dev"] and options["processes"] > 1:
        raise ConfigError("--dev serves with one process: leave --processes out")


def place_of(options: dict[str, Any], settings: BoltSettings) -> Place:
    """Where to listen."""
    host, port, path = options["host"], options["port"], options["unix"]
    bind = options["bind"]
    if bind is not None and path is not None:
        raise ConfigError("--bind and --unix both say where to listen: give one of them")
    if bind is not None and bind.startswith("unix:"):
        path = bind.removeprefix("unix:")
    elif bind is not None:
        host, colon, number = bind.rpartition(":")
        if not host or not colon or not number.isdecimal() or int(number) > 65535:
            raise ConfigError(f"--bind {bind}: write it as HOST:PORT or unix:PATH")
        port = int(number)
    if path is not None:
        path = os.path.abspath(path)
    return Place(host, port, path, options["unix_mode"], settings.tls_cert is not None)


def terms_of(options: dict[str, Any], settings: BoltSettings) -> Terms:
    """How processes are treated."""
    return Terms(
        grace=settings.grace,
        kill_timeout=options["workers_kill_timeout"],
        respawn=options["respawn_failed_workers"],
    )


def wear_of(options: dict[str, Any]) -> Wear:
    """After what a process is replaced."""
    rss = options["max_rss"]
    return Wear(
        requests=options["max_requests"],
        seconds=options["workers_lifetime"],
        rss=None if rss is None else rss * _MEBIBYTE,
    )
