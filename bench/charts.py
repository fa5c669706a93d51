"""A section as a picture: one group of bars for each case, readable on light and on dark."""

from html import escape

from bench.results import Section, shown

WIDTH, LEFT, RIGHT = 760, 190, 150
BAR, GAP, HEAD, GROUP, TOP, BOTTOM = 16, 5, 22, 16, 52, 20
STYLE = """
.ground{fill:#fff;stroke:#d0d7de}.text{fill:#1f2328}.faint{fill:#59636e}
.ours{fill:#0969da}.theirs{fill:#afb8c1}
text{font:12px system-ui,sans-serif}.title{font-size:15px;font-weight:600}.case{font-weight:600}
@media(prefers-color-scheme:dark){.ground{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}
.faint{fill:#9198a1}.ours{fill:#4493f8}.theirs{fill:#59636e}}
"""


def chart(section: Section) -> str:
    """The section as SVG. Bars of one case share a scale; the shorter, the better."""
    parts: list[str] = []
    y = TOP
    for case, rows in section.cases().items():
        y += HEAD
        parts.append(f'<text class="text case" x="20" y="{y - 7}">{escape(case)}</text>')
        longest = max(row.value for row in rows)
        for number, row in enumerate(rows):
            length = max(row.value / longest * (WIDTH - LEFT - RIGHT), 1.5)
            middle = y + BAR - 4
            kind = "theirs" if number else "ours"
            told = f"{shown(row.value)} {section.unit}"
            told += f" · {section.ratio(row):.1f} x" if number else ""
            parts.append(
                f'<text class="text" x="{LEFT - 8}" y="{middle}" text-anchor="end">'
                f"{escape(row.contender)}</text>"
                f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" '
                f'height="{BAR}" rx="2"/>'
                f'<text class="faint" x="{LEFT + length + 6:.1f}" y="{middle}">{told}</text>'
            )
            y += BAR + GAP
        y += GROUP
    height = y + BOTTOM - GROUP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title">\n'
        f'<title id="title">{escape(section.title)}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>\n'
        f'<text class="text title" x="20" y="30">{escape(section.title)}</text>\n'
        f'<text class="faint" x="{WIDTH - 20}" y="30" text-anchor="end">'
        f"{escape(section.unit)}, shorter is better</text>\n" + "\n".join(parts) + "\n</svg>\n"
    )
