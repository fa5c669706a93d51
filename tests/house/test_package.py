"""What `import tollway` may load, and the arrows inside the Python package."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "python" / "tollway"
FRAMEWORKS = (
    *("django", "rest_framework", "fastapi", "starlette", "msgspec", "uvloop", "redis"),
    *("opentelemetry", "prometheus_client"),
)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
    )


def test_importing_tollway_needs_no_framework() -> None:
    told = python(
        """
        import sys
        from importlib.abc import MetaPathFinder

        class Wall(MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in sys.argv[1:]:
                    raise ImportError(f"{name} was imported by tollway")

        sys.meta_path.insert(0, Wall())
        import tollway, tollway.errors, tollway.identity, tollway.asgi
        import tollway.observe.logs, tollway.observe.prometheus

        policy = tollway.Policy("wall", "2/m")
        limiter = tollway.Limiter()
        print([limiter.check(policy, "a").allowed for _ in range(3)])
        """,
        *FRAMEWORKS,
    )
    assert told.stderr == ""
    assert told.stdout.strip() == "[True, True, False]"


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the `tollway` modules that a file imports."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            whole = ".".join(part for part in (base, node.module or "") if part)
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("django", ("tollway.bolt", "tollway.fastapi", "tollway.asgi")),
        ("bolt", ("tollway.django", "tollway.fastapi", "tollway.asgi")),
        ("asgi", ("tollway.django", "tollway.bolt", "tollway.fastapi", "starlette", "fastapi")),
        ("fastapi.py", ("tollway.django", "tollway.bolt", "django")),
        ("starlette.py", ("tollway.django", "tollway.bolt", "tollway.fastapi")),
        ("litestar.py", ("tollway.django", "tollway.bolt", "tollway.fastapi")),
        ("quart.py", ("tollway.django", "tollway.bolt", "tollway.fastapi")),
        (
            "observe",
            ("tollway.django", "tollway.bolt", "tollway.fastapi", "tollway.asgi", "django"),
        ),
        ("flask.py", ("tollway.django", "tollway.bolt", "tollway.fastapi")),
    ],
)
def test_the_doors_do_not_know_each_other(part: str, forbidden: tuple[str, ...]) -> None:
    root = PACKAGE / part
    files = [root] if root.suffix else sorted(root.rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in files
        for name in imports(path)
        if any(name == word or name.startswith(word + ".") for word in forbidden)
    ]
    assert wrong == []


def test_the_stub_says_what_the_native_module_has(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "tollway._tollway"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout


def test_the_installed_package_is_the_wheel_and_is_typed() -> None:
    told = python("import tollway; print(tollway.__file__)")
    home = Path(told.stdout.strip()).parent
    assert PACKAGE not in (home, *home.parents)
    assert (home / "py.typed").exists()
    assert (home / "_tollway.pyi").exists()
