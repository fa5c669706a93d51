"""The demonstration: three doors, real HTTP at each, and what came of it.

`make demo` runs it; `python -m examples.doors.tour --help` says how to run it by hand.
"""

import argparse
import http.client
import json
import math
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from examples.doors.servers import HOST, Door, Unready, claim, doors, migrate, serving

LOGS = Path(".make") / "demo"
QUICK = 7
PERMITS = 5
KNOCKS = 100
# 5 in 10 s: a permit comes back every 2 s.
INTERVAL_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """One answer and how long it took."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    arrived: float


@dataclass
class Visit:
    """What one door did with its visitor."""

    door: Door
    state: str = ""
    quick: list[Answer] = field(default_factory=list)
    knocks: list[Answer] = field(default_factory=list)
    after: Answer | None = None
    complaints: list[str] = field(default_factory=list)

    @property
    def allowed(self) -> int:
        return sum(answer.status == 200 for answer in self.quick)

    @property
    def refused(self) -> list[Answer]:
        return [answer for answer in self.quick if answer.status == 429]

    @property
    def retry_after(self) -> str:
        return self.refused[0].headers.get("retry-after", "none") if self.refused else ""

    def expect(self, truth: bool, sentence: str) -> None:
        if not truth:
            self.complaints.append(f"{self.door.name}: {sentence}")


class Visitor:
    """One client on one kept-alive connection."""

    def __init__(self, door: Door) -> None:
        self.connection = http.client.HTTPConnection(HOST, door.port, timeout=10)

    def ping(self, headers: dict[str, str] | None = None) -> Answer:
        began = time.monotonic()
        self.connection.request("GET", "/ping", headers=headers or {})
        response = self.connection.getresponse()
        body = response.read()
        arrived = time.monotonic()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, body, arrived - began, arrived)


def tour(visit: Visit, refresh: Live) -> None:
    """Seven quick requests, a hundred impatient ones in disguise, and one after the wait."""
    visitor = Visitor(visit.door)
    visit.state = "quick"
    began = time.monotonic()
    for _ in range(QUICK):
        visit.quick.append(visitor.ping())
        refresh.refresh()
    visit.state = "knocks"
    for number in range(KNOCKS):
        visit.knocks.append(visitor.ping({"X-Forwarded-For": f"203.0.113.{number}"}))
    elapsed = time.monotonic() - began
    judge(visit, elapsed)
    if visit.retry_after.isdigit():
        visit.state = f"waits {visit.retry_after} s"
        refresh.refresh()
        told = visit.refused[0].arrived + int(visit.retry_after)
        time.sleep(max(0.0, told - time.monotonic()))
        visit.after = visitor.ping()
        visit.expect(
            visit.after.status == 200,
            f"after the wait the answer was {visit.after.status}, not 200",
        )
    visit.state = "exact" if not visit.complaints else "WRONG"
    refresh.refresh()
    visitor.connection.close()


def judge(visit: Visit, elapsed: float) -> None:
    """Compare what was seen with what 5 in 10 s promises."""
    visit.expect(
        visit.allowed == PERMITS,
        f"{visit.allowed} of {QUICK} quick requests passed, not {PERMITS}",
    )
    visit.expect(
        len(visit.refused) == QUICK - PERMITS,
        f"the answers were {[answer.status for answer in visit.quick]}",
    )
    slipped = sum(answer.status == 200 for answer in visit.knocks)
    visit.expect(
        slipped <= math.floor(elapsed / INTERVAL_SECONDS),
        f"{slipped} of {KNOCKS} requests with a forged X-Forwarded-For passed",
    )
    for answer in visit.refused:
        kind = answer.headers.get("content-type", "none")
        visit.expect(kind == "application/problem+json", f"a refusal came as {kind}")
        missing = {"retry-after", "ratelimit", "ratelimit-policy"} - set(answer.headers)
        visit.expect(not missing, f"a refusal lacked {', '.join(sorted(missing))}")
        if kind == "application/problem+json" and not missing:
            wait_ms = json.loads(answer.body)["retry_after_ms"]
            told = int(answer.headers["retry-after"])
            visit.expect(
                0 < wait_ms <= INTERVAL_SECONDS * 1000
                and told == max(1, math.ceil(wait_ms / 1000)),
                f"Retry-After: {told} while the wait is {wait_ms} ms",
            )


def milliseconds(answers: list[Answer], percent: int) -> str:
    if len(answers) < QUICK:
        return ""
    cuts = statistics.quantiles([answer.seconds * 1000 for answer in answers], n=100)
    cut = cuts[percent - 1]
    return f"{cut:.2f} ms" if cut < 10 else f"{cut:.0f} ms"


def table(visits: list[Visit]) -> Table:
    title = f"GET /ping at three doors, {PERMITS} per 10 s for each client"
    drawn = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("door", "allowed", "limited", "Retry-After", "p50", "p99", ""):
        words = heading in {"door", ""}
        drawn.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for visit in visits:
        answers = visit.quick + visit.knocks
        limited = sum(answer.status == 429 for answer in visit.knocks)
        knocks = f"+{limited}" if visit.knocks else ""
        drawn.add_row(
            f"{visit.door.name} :{visit.door.port}",
            f"{visit.allowed}" if visit.quick else "",
            f"{len(visit.refused)}{knocks}" if visit.quick else "",
            f"{visit.retry_after} s" if visit.retry_after else "",
            milliseconds(answers, 50),
            milliseconds(answers, 99),
            visit.state,
        )
    drawn.caption = (
        f"{QUICK} quick requests, {KNOCKS} with a forged X-Forwarded-For, one after the wait"
    )
    return drawn


def show(wanted: list[Door], console: Console) -> list[str]:
    """Drive every door and draw the table; what went wrong comes back as sentences."""
    visits = [Visit(door) for door in wanted]
    with Live(console=console, auto_refresh=False, get_renderable=lambda: table(visits)) as live:
        for visit in visits:
            tour(visit, live)
    return [complaint for visit in visits for complaint in visit.complaints]


def invite(wanted: list[Door], console: Console) -> None:
    lines = ["\nServing until Ctrl-C. Try:"]
    lines += [f"  curl -i {door.url}/ping" for door in wanted]
    lines += [f"  curl -s {door.url}/items" for door in wanted[:2]]
    # At once: whoever reads the first line may stop us right then.
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    while True:
        signal.pause()


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Three doors limiting real HTTP.")
    parser.add_argument("--once", action="store_true", help="exit after the tour")
    parser.add_argument("--port", type=int, default=8000, help="the first of three ports")
    options = parser.parse_args()
    if not 1 <= options.port <= 65533:
        parser.error(f"--port {options.port}: three ports in a row must fit below 65536")
    # Ctrl-C too: a shell starts background jobs with it switched off.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    console = Console()
    wanted = doors(options.port)
    try:
        claim([door.port for door in wanted])
        migrate()
        with serving(wanted, LOGS):
            complaints = show(wanted, console)
            for complaint in complaints:
                console.print(complaint, style="red", highlight=False)
            if not options.once:
                invite(wanted, console)
        return 1 if complaints else 0
    except Unready as reason:
        print(f"demo: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped")
        return 130 if options.once else 0


if __name__ == "__main__":
    sys.exit(main())
