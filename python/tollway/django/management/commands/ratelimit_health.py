"""``manage.py ratelimit_health``: whether backends, rules and keys are as they should be."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from tollway import ConfigError, Limiter
from tollway.django import conf
from tollway.django.command import NO, RateLimitCommand
from tollway.django.database import DatabaseSource, revision
from tollway.django.pool import follower


class Command(RateLimitCommand):
    """Ends with 1 unless everything answers."""

    help = "Ask every backend, and the database of rules and keys, whether it answers."
    no = "something does not answer, or answers with a fault"
    examples = ("--verbose", "--json --timeout 0.5")

    def describe(self, parser: CommandParser) -> None:
        """``--verbose`` and ``--timeout``."""
        parser.add_argument("--verbose", action="store_true", help="more of each backend")
        parser.add_argument(
            "--timeout", type=float, default=1.0, help="seconds to wait for an answer (default: 1)"
        )

    def act(self, **options: Any) -> dict[str, Any]:
        """Ask all."""
        setup = conf.current()
        limiters = {"default": setup.limiter()}
        limiters |= {name: setup.limiter(name) for name in setup.settings.backends}
        backends = {name: _health(one, options["timeout"]) for name, one in limiters.items()}
        rules = _rules(setup)
        states = {one["status"] for one in backends.values()}
        fine = states == {"healthy"} and rules["error"] is None
        if fine:
            status = "healthy"
        else:
            status = "down" if backends["default"]["status"] == "down" else "degraded"
        found = {"status": status, "backends": backends, "rules": rules}
        if not fine:
            self.tell(found, **options)
            raise CommandError(f"{status}: see above", returncode=NO)
        return found

    def show(self, found: Any, **options: Any) -> None:
        """One line for each backend."""
        for name, health in found["backends"].items():
            for one in health["backends"]:
                self._line(name, one, verbose=options["verbose"])
        rules = found["rules"]
        if rules["source"] is not None:
            good = rules["error"] is None
            text = f"rules from {rules['source']}: " + (rules["error"] or "followed")
            self.stdout.write(self.style.SUCCESS(text) if good else self.style.ERROR(text))
        if found["status"] == "healthy":
            self.stdout.write(self.style.SUCCESS("healthy"))

    def _line(self, name: str, one: dict[str, Any], *, verbose: bool) -> None:
        if one["up"]:
            latency = "" if one["latency"] is None else f" in {one['latency'] * 1000:.1f} ms"
            self.stdout.write(self.style.SUCCESS(f"{name}: {one['name']} answers{latency}"))
        else:
            self.stdout.write(self.style.ERROR(f"{name}: {one['name']}: {one['error']}"))
        if verbose:
            for detail in ("breaker", "waiting", "last_error", "last_error_at"):
                if one.get(detail) is not None:
                    self.stdout.write(f"  {detail.replace('_', ' ')}: {one[detail]}")


def _health(limiter: Limiter, timeout: float) -> dict[str, Any]:
    try:
        return dict(limiter.health(timeout).as_dict())
    except AttributeError:  # a limiter of the project's own
        return {"status": "healthy", "backends": [{"name": str(limiter), "up": True}]}


def _rules(setup: conf.Setup) -> dict[str, Any]:
    """Whether rules that are followed can be read."""
    source = setup.ruling.source
    error: str | None = None
    if source is not None:
        try:
            if isinstance(source, DatabaseSource):
                follower.call(revision, "rules", timeout=10)
            else:
                source.load(None)
        except (DatabaseError, ConfigError, OSError, TimeoutError) as fault:
            error = f"{type(fault).__name__}: {fault}"
    return {"source": None if source is None else repr(source), "error": error}
