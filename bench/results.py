"""What a measurement leaves behind, and how it is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


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
        return f"{min(self.rounds):,.1f}-{max(self.rounds):,.1f}"


@dataclass
class Section:
    """Rows that belong together; the first contender of each case is the one of this project."""

    title: str
    unit: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, row: Row) -> float:
        """How many times the cost of ours this contender costs, in the same case."""
        ours = next(other for other in self.rows if other.case == row.case)
        return row.value / ours.value

    def table(self) -> Table:
        extras = list(dict.fromkeys(name for row in self.rows for name in row.extra))
        drawn = Table(box=SIMPLE_HEAD, title=self.title, title_justify="left", pad_edge=False)
        drawn.add_column("case", no_wrap=True)
        drawn.add_column("contender", no_wrap=True)
        for heading in (self.unit, "rounds", "times ours", *extras):
            drawn.add_column(heading, justify="right", no_wrap=True)
        shown = ""
        for row in self.rows:
            drawn.add_row(
                row.case if row.case != shown else "",
                row.contender,
                f"{row.value:,.1f}",
                row.spread,
                f"{self.ratio(row):.2f}",
                *(
                    f"{median(row.extra[name]):,.0f}" if name in row.extra else ""
                    for name in extras
                ),
            )
            shown = row.case
        return drawn

    def page(self) -> str:
        """The same as a table of Markdown."""
        extras = list(dict.fromkeys(name for row in self.rows for name in row.extra))
        head = ["case", "contender", self.unit, "rounds", "times ours", *extras]
        lines = [f"### {self.title}", "", " | ".join(["", *head, ""]).strip()]
        lines.append("|" + "---|" * 2 + "---:|" * (len(head) - 2))
        for row in self.rows:
            cells = [row.case, row.contender, f"{row.value:,.1f}", row.spread]
            cells.append(f"{self.ratio(row):.2f}")
            cells += [
                f"{median(row.extra[name]):,.0f}" if name in row.extra else "" for name in extras
            ]
            lines.append(" | ".join(["", *cells, ""]).strip())
        return "\n".join([*lines, "", *self.notes]).strip() + "\n"

    def document(self) -> dict[str, object]:
        """The same for a machine."""
        return {
            "title": self.title,
            "unit": self.unit,
            "notes": self.notes,
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


def show(section: Section, console: Console) -> None:
    if section.rows:
        console.print(section.table())
    for note in section.notes:
        console.print(f"  {note}", highlight=False)


def interleaved(count: int, contenders: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Every contender once a round, so that the machine's mood falls on all of them."""
    return ((number, contender) for number in range(count) for contender in contenders)
