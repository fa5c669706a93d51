"""Hold source files to 500 lines without their inline tests, and functions to 70.

Prints every file or function that is longer and exits 1 when there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

TOP = Path(__file__).resolve().parent.parent
SOURCES = ("crates", "python", "scripts", "examples", "bench")
TEST_FOLDERS = {"tests", "migrations", "target"}
# A file that holds nothing but tests: `mod tests;` or `mod router_tests;` in its parent.
TEST_FILE = re.compile(r"(^|_)tests\.rs$")
RUST_FUNCTION = re.compile(
    r"^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:(?:const|async|unsafe|extern\s+\"C\")\s+)*fn\s+(\w+)"
)


def rust_lines(path: Path) -> list[str]:
    """The lines of a Rust file before its inline tests."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        following = " ".join(lines[number + 1 : number + 3])
        if line.strip() == "#[cfg(test)]" and re.search(r"\bmod\s+\w+\s*\{", following):
            return lines[:number]
    return lines


def rust_functions(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of every function: rustfmt closes it at its own indent."""
    for number, line in enumerate(lines):
        match = RUST_FUNCTION.match(line)
        if match is None or line.rstrip().endswith((";", "}")):
            continue
        closing = match.group(1) + "}"
        for end in range(number + 1, len(lines)):
            if lines[end] == closing:
                yield match.group(2), number + 1, end - number + 1
                break
            if lines[end].startswith(match.group(1) + ")") and lines[end].rstrip().endswith(";"):
                break  # a declaration over several lines


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def overlong(top: Path) -> Iterator[str]:
    """One sentence for every file and function above its limit."""
    for folder in SOURCES:
        for path in sorted((top / folder).rglob("*")):
            relative = path.relative_to(top)
            if path.suffix not in {".py", ".rs"} or TEST_FOLDERS & set(relative.parts):
                continue
            if any(part.startswith(".") for part in relative.parts) or TEST_FILE.search(path.name):
                continue
            if path.suffix == ".rs":
                lines = rust_lines(path)
                functions = list(rust_functions(lines))
            else:
                text = path.read_text()
                lines = text.splitlines()
                functions = list(python_functions(text))
            if len(lines) > FILE_LINES_MAX:
                yield f"{relative}: {len(lines)} lines, {FILE_LINES_MAX} at most; split it by idea"
            for name, first, length in functions:
                if length > FUNCTION_LINES_MAX:
                    where = f"{relative}:{first}"
                    yield f"{where}: {name} has {length} lines, {FUNCTION_LINES_MAX} at most"


def main() -> int:
    found = list(overlong(TOP))
    print("\n".join(found) if found else "sizes: every file and function is within its limit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
