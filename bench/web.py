"""What a limit adds to a request through FastAPI: middleware, dependency, decorator."""

import tempfile
from pathlib import Path

from bench.door import compare
from bench.http_load import HOST
from bench.progress import Progress
from bench.redis_server import redis_server
from bench.results import Section, Target

APP = Path(__file__).resolve().parent / "apps" / "web_limits.py"
RATIO = 4.0  # at most 0.25 of what the cheapest peer adds over Redis
COST = 5.0  # microseconds in memory
DOORS = {
    "middleware": ["tollway", "slowapi", "asgi-ratelimit"],
    "dependency": ["tollway", "slowapi", "fastapi-limiter"],
}


def measure(rounds: int, progress: Progress) -> Section:
    section = Section("What a limit adds to a request through FastAPI", "CPU us")
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as port:
        for door, names in DOORS.items():
            for title, place in (("in memory", "memory://"), ("Redis", f"redis://{HOST}:{port}/0")):
                case = f"a {door}, {title}"
                compare(section, case, APP, door, names, place, rounds, progress)
                remote = place.startswith("redis:")
                section.targets[case] = (
                    Target(ratio=RATIO, against=tuple(names[1:])) if remote else Target(cost=COST)
                )
    section.notes += [
        "Processor time of the whole process, in blocks with the limit and without it in turns: "
        "64 requests at once on one event loop, 2,000 clients, none refused. The garbage "
        "collector leaves alone what lived before the measurement.",
        "slowapi 0.1.10 as its ASGI middleware and its decorator, with headers; asgi-ratelimit "
        "0.10; fastapi-limiter 0.2 over pyrate-limiter 4.5, which counts all clients as one.",
        "Over Redis the last column is how often Redis read from a connection for a request.",
    ]
    return section
