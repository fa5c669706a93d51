"""The Python snippets of the pages: how they are found and how one is run.

A fenced ```python block runs on its own, in a fresh process and an empty folder, with
top-level `await` allowed. A comment right above the fence says what else it needs, by words:

    <!-- snippet: continues -->            runs after the block before it, in the same process
    <!-- snippet: django -->               Django is set up first, with both Tollway apps
    <!-- snippet: settings -->             the block is settings.py; `manage.py check` must pass
    <!-- snippet: file=shop/api.py -->     the block is written to that file and imported
    <!-- snippet: redis -->                redis://127.0.0.1:6379 is a server of the test run
    <!-- snippet: postgres -->             postgres://me@127.0.0.1/shop is one too
    <!-- snippet: mysql -->                mysql://me@127.0.0.1/shop is one too
    <!-- snippet: raises=RateError -->     the block must end in that exception
    <!-- snippet: write=shop/urls.py -->   the block is written to that file, and nothing is run
    <!-- snippet: append=shop/urls.py -->  the block is added to the end of that file
    <!-- snippet: run -->                  a ```console block: what follows a `$ ` must succeed
    <!-- snippet: serve -->                a ```console block: what follows the first `$ ` serves,
                                           and what follows the others gets the answers shown

Several words may stand together. In a settings block `...` stands for what Django has there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = {"continues", "django", "settings", "redis", "postgres", "mysql", "file", "raises"}
WORDS |= {"write", "append", "run", "serve"}
COMMENT = re.compile(r"^\s*<!--\s*snippet:\s*(.*?)\s*-->\s*$")
OPENING = re.compile(
    r"^(?P<indent>\s*)(?P<fence>`{3,})\s*\{?(?:code-block\}\s*)?(?P<language>python|console)\b.*$"
)


@dataclass(frozen=True)
class Snippet:
    """One fenced block of a page."""

    page: str
    line: int
    text: str
    words: dict[str, str]


def parse(page: str, text: str) -> Iterator[Snippet]:
    """The Python blocks of a page, in order."""
    lines = text.splitlines()
    number = 0
    words: dict[str, str] = {}
    while number < len(lines):
        comment = COMMENT.match(lines[number])
        opening = OPENING.match(lines[number])
        if comment is not None:
            words = dict((*word.split("=", 1), "")[:2] for word in comment.group(1).split())
            unknown = set(words) - WORDS
            if unknown:
                raise ValueError(
                    f"{page}:{number + 1}: no such snippet word: {', '.join(sorted(unknown))}; "
                    f"there are: {', '.join(sorted(WORDS))}"
                )
        elif opening is not None:
            indent, fence = opening["indent"], opening["fence"]
            first = number + 1
            number = first
            while number < len(lines) and lines[number].strip() != fence:
                number += 1
            if number == len(lines):
                raise ValueError(f"{page}:{first}: this block is never closed")
            block = [line.removeprefix(indent) for line in lines[first:number]]
            if opening["language"] == "python" or {"run", "serve"} & set(words):
                yield Snippet(page, first + 1, "\n".join(block) + "\n", words)
            words = {}
        elif lines[number].strip():
            words = {}
        number += 1


def chains(top: Path) -> Iterator[list[Snippet]]:
    """Every group of snippets that runs in one process, over the README and the manual."""
    pages = [top / "README.md", *sorted((top / "docs").glob("**/*.md"))]
    for page in pages:
        if "_build" in page.parts:
            continue
        chain: list[Snippet] = []
        for snippet in parse(str(page.relative_to(top)), page.read_text()):
            if chain and "continues" not in snippet.words:
                yield chain
                chain = []
            chain.append(snippet)
        if chain:
            yield chain
