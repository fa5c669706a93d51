"""What a limit adds to a request through Django, by everybody's decorator, throttle, middleware."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.http_load import HOST
from bench.progress import Progress
from bench.redis_server import redis_server
from bench.results import Row, Section, Target, interleaved

APP = Path(__file__).resolve().parent / "apps" / "django_limits.py"
RATIO = 6.7  # at most 0.15 of what the cheapest peer adds
DOORS = {
    "decorator": ["tollway", "django-ratelimit", "django-smart-ratelimit"],
    "throttle": ["tollway", "REST framework", "django-smart-ratelimit"],
    "middleware": ["tollway", "django-smart-ratelimit"],
}
TITLES = {
    "decorator": "a decorator",
    "throttle": "a throttle of REST framework",
    "middleware": "a middleware",
}


class Contender:
    """A process of one contender, which measures when it is asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def measure(self) -> tuple[float, float]:
        """Microseconds added to a request, and reads by Redis for it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.process.args[1:]))} ended")  # type: ignore[index,arg-type]
        told = json.loads(line)
        return told["us"], told["reads"]


@contextmanager
def contending(app: Path, name: str, door: str, store: str) -> Iterator[Contender]:
    command = [sys.executable, str(app), name, door, store]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Contender(process)


def measure(rounds: int, progress: Progress) -> Section:
    section = Section("What a limit adds to a request through Django", "us")
    doors = {TITLES[door]: (door, names) for door, names in DOORS.items()}
    for case, names, over_redis in compared(section, APP, doors, rounds, progress):
        if not over_redis:
            section.targets[case] = Target(ratio=RATIO, against=tuple(names[1:]))
    section.notes += [
        "A request costs so much more with the limit than without, in blocks of each in turns; "
        "2,000 clients, none refused.",
        "In memory it is processor time; over Redis time on the clock, and how often Redis read "
        "from the connection for a request.",
        "django-ratelimit 4.1 and REST framework 3.18 count in Django's cache (local memory and "
        "Redis), django-smart-ratelimit 4.12.1 in its own (its decorator by token bucket, the "
        "cheapest it has).",
    ]
    return section


def compared(
    section: Section,
    app: Path,
    doors: Mapping[str, tuple[str, list[str]]],
    rounds: int,
    progress: Progress,
) -> Iterator[tuple[str, list[str], bool]]:
    """Compare everybody at every door, in memory and over Redis.

    What was compared: the case, the names, and whether it was over Redis.
    """
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as port:
        places = {"in memory": "memory://", "Redis": f"redis://{HOST}:{port}/0"}
        for title, (door, names) in doors.items():
            for where, place in places.items():
                case = f"{title}, {where}"
                compare(section, case, app, door, names, place, rounds, progress)
                yield case, names, where == "Redis"


def compare(
    section: Section,
    case: str,
    app: Path,
    door: str,
    names: list[str],
    place: str,
    rounds: int,
    progress: Progress,
) -> None:
    """Everybody at one door, over one store, each in a process of its own."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(contending(app, name, door, place)) for name in names}
        rows = {name: Row(case, name, []) for name in names}
        for number, name in interleaved(rounds, names):
            progress.at(section.title, case, f"{name}, round {number + 1} of {rounds}")
            spent, reads = running[name].measure()
            rows[name].rounds.append(spent)
            if place.startswith("redis:"):
                rows[name].extra.setdefault("round trips", []).append(reads)
        section.rows.extend(rows.values())
