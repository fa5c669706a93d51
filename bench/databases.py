"""Checks against a real PostgreSQL on loopback: Tollway and a peer that keeps limits there."""

from functools import partial
from importlib.metadata import version

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from bench.progress import Progress
from bench.remote import KEYS, PER_HOUR, Check, asked
from bench.results import Measuring, Section, Target
from tests.databases import PostgresServer, postgres_server
from tollway import Limiter, Policy

CALLERS = (1, 16, 64)
PEER = "django-smart-ratelimit"
TARGET = 5.0


def theirs(server: PostgresServer) -> Check:
    """The peer's check, through Django's connections, one for each thread, kept open."""
    place = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "rl"}
    place |= {"HOST": "127.0.0.1", "PORT": str(server.port), "CONN_MAX_AGE": "600"}
    settings.configure(
        DATABASES={"default": place | {"CONN_MAX_AGE": 600}},
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django_smart_ratelimit",
        ],
        USE_TZ=True,
        SECRET_KEY="bench",
    )
    django.setup()
    call_command("migrate", verbosity=0)
    from django_smart_ratelimit.backends.database import DatabaseBackend

    backend = DatabaseBackend(enable_background_cleanup=False)
    return lambda key: backend.incr(key, 3_600)


def ours(server: PostgresServer) -> Check:
    limiter = Limiter(server.url, fail_mode="closed", command_timeout=10.0)
    policy = Policy("bench", f"{PER_HOUR}/h", algorithm="fixed_window")
    return lambda key: limiter.check(policy, key)


def measure(rounds: int, progress: Progress) -> Section:
    section = Section("A check over PostgreSQL, on loopback", "us")
    measuring = Measuring(section, rounds, progress)
    with postgres_server() as server:
        contenders = {"tollway": ours(server), PEER: theirs(server)}
        for callers in CALLERS:
            case = f"{callers} thread" + "s" * (callers > 1)
            ways = {
                name: partial(asked, callers, check, connections.close_all)
                for name, check in contenders.items()
            }
            measuring.case(case, ways, Target(TARGET, (PEER,)))
        connections.close_all()
        told = server.sql("SHOW server_version")
    for row in section.rows:
        row.extra["checks/s"] = [1e6 / value for value in row.rounds]
    section.notes.append(
        f"{len(KEYS):,} keys, fixed window, nobody refused; PostgreSQL {told}, "
        f"{PEER} {version(PEER)} over psycopg {version('psycopg')}. "
        "Microseconds from one answer to the next, whoever gets it."
    )
    return section
