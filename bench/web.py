"""What a limit adds to a request through FastAPI: middleware, dependency, decorator."""

from pathlib import Path

from bench.door import compared
from bench.progress import Progress
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
    doors = {f"a {door}": (door, names) for door, names in DOORS.items()}
    for case, names, over_redis in compared(section, APP, doors, rounds, progress):
        section.targets[case] = (
            Target(ratio=RATIO, against=tuple(names[1:])) if over_redis else Target(cost=COST)
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
