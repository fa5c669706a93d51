"""What a measurement leaves behind, and how it is shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.progress import Progress


@dataclass
class Row:
    """One contender in one case: a number for each round, and whatever else is worth telling."""

    case: str
    contender: str
    rounds: list[float]
    extra: dict[str, list[float]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> str:
        return f"{shown(min(self.rounds))}-{shown(max(self.rounds))}"


@dataclass(frozen=True)
class Target:
    """What a case is to reach: a ratio to the cheapest of some contenders, or a cost of ours."""

    ratio: float | None = None
    against: tuple[str, ...] = ()
    cost: float | None = None


@dataclass
class Section:
    """Rows that belong together; the first contender of each case is the one of this project."""

    title: str
    unit: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)

    def cases(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.case, []).append(row)
        return found

    def ratio(self, row: Row) -> float:
        """How many times the cost of ours this contender costs, in the same case."""
        return row.value / self.cases()[row.case][0].value

    def reached(self) -> dict[str, str]:
        """Each target, and how far it was reached."""
        told = {}
        for case, rows in self.cases().items():
            target = self.targets.get(case)
            if target is None:
                continue
            words = []
            if target.ratio is not None:
                best = min(
                    (row for row in rows[1:] if row.contender.startswith(target.against)),
                    key=lambda row: row.value,
                )
                found = self.ratio(best)
                words.append(
                    f"{shown(found)} x {best.contender} (target {target.ratio:g} x: "
                    f"{'reached' if found >= target.ratio else 'missed'})"
                )
            if target.cost is not None:
                found = rows[0].value
                words.append(
                    f"{shown(found)} {self.unit} (target {target.cost:g} {self.unit}: "
                    f"{'reached' if found <= target.cost else 'missed'})"
                )
            told[case] = "; ".join(words)
        return told

    def _table(self) -> tuple[list[str], list[list[str]]]:
        extras = list(dict.fromkeys(name for row in self.rows for name in row.extra))
        head = ["case", "contender", self.unit, "rounds", "times ours", *extras]
        body = [
            [
                row.case,
                row.contender,
                shown(row.value),
                row.spread,
                f"{self.ratio(row):.2f}",
                *(shown(median(row.extra[n])) if n in row.extra else "" for n in extras),
            ]
            for row in self.rows
        ]
        return head, body

    def table(self) -> Table:
        head, body = self._table()
        drawn = Table(box=SIMPLE_HEAD, title=self.title, title_justify="left", pad_edge=False)
        for number, name in enumerate(head):
            drawn.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
        last = ""
        for cells in body:
            drawn.add_row(cells[0] if cells[0] != last else "", *cells[1:])
            last = cells[0]
        return drawn

    def page(self, chart: str) -> str:
        """The same for the manual, under its chart."""
        head, body = self._table()
        lines = [f"### {self.title}", "", f"![{self.title}, {self.unit} each]({chart})", ""]
        lines.append(f"| {' | '.join(head)} |")
        lines.append("|" + "---|" * 2 + "---:|" * (len(head) - 2))
        lines += [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in body]
        lines += ["", *self.notes]
        reached = self.reached()
        if reached:
            lines += ["", *(f"- {case}: {told}." for case, told in reached.items())]
        return "\n".join(lines).strip() + "\n"

    def document(self) -> dict[str, object]:
        """The same for a machine."""
        return {
            "title": self.title,
            "unit": self.unit,
            "notes": self.notes,
            "targets": self.reached(),
            "rows": [
                {
                    "case": row.case,
                    "contender": row.contender,
                    "median": row.value,
                    "rounds": row.rounds,
                    "times_ours": self.ratio(row),
                    **{name: median(values) for name, values in row.extra.items()},
                }
                for row in self.rows
            ],
        }


def shown(value: float) -> str:
    """A number as people read it: three digits that say something."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def show(section: Section, console: Console) -> None:
    if section.rows:
        console.print(section.table())
    for note in section.notes:
        console.print(f"  {note}", highlight=False)
    for case, told in section.reached().items():
        console.print(f"  {case}: {told}", highlight=False)


@dataclass
class Measuring:
    """A section whose cases are measured one after the other, in interleaved rounds."""

    section: Section
    rounds: int
    progress: Progress

    def case(
        self,
        case: str,
        contenders: Mapping[str, Callable[[], float]],
        target: Target | None = None,
    ) -> list[Row]:
        """Measures every contender once a round; the first is ours."""
        rows = {name: Row(case, name, []) for name in contenders}
        for number, name in interleaved(self.rounds, list(contenders)):
            step = f"{name}, round {number + 1} of {self.rounds}"
            self.progress.at(self.section.title, case, step)
            rows[name].rounds.append(contenders[name]())
        self.section.rows.extend(rows.values())
        if target is not None:
            self.section.targets[case] = target
        return list(rows.values())


def interleaved(count: int, contenders: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Every contender once a round, so that the machine's mood falls on all of them."""
    return ((number, contender) for number in range(count) for contender in contenders)
