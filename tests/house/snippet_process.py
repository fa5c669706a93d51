"""Runs one chain of snippets, given as JSON on standard input, in the current folder."""

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

Snippet = dict[str, Any]

DJANGO: dict[str, Any] = {
    "ALLOWED_HOSTS": ["*"],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    "INSTALLED_APPS": [
        *("django.contrib.contenttypes", "django.contrib.auth"),
        *("tollway.django", "tollway.bolt"),
    ],
    "MIDDLEWARE": [],
    "ROOT_URLCONF": "urls",
    "SECRET_KEY": "only for the snippets of the manual",
    "USE_TZ": True,
}


def own(module: types.ModuleType | dict[str, Any]) -> dict[str, Any]:
    names = module if isinstance(module, dict) else vars(module)
    return {name: value for name, value in names.items() if name.isupper()}


def settings(snippet: Snippet | None) -> dict[str, Any]:
    """Django's settings for a chain, `...` in a list standing for what is there already."""
    values = dict(DJANGO)
    if snippet is None:
        return values
    namespace: dict[str, Any] = {}
    exec(compile(snippet["text"], "settings.py", "exec"), namespace)
    for name, value in own(namespace).items():
        if isinstance(value, list) and ... in value:
            here = value.index(...)
            before = [*value[:here], *value[here + 1 :]]
            value = [entry for entry in values.get(name, []) if entry not in before] + before
        values[name] = value
    return values


def set_up_django(values: dict[str, Any]) -> None:
    import django
    from django.conf import settings as configured

    if not Path("urls.py").exists():
        Path("urls.py").write_text("urlpatterns = []\n")
    configured.configure(**values)
    django.setup()


def module_from(place: str, text: str) -> types.ModuleType:
    """Write `text` to the file `place` and import it by its dotted name."""
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    name = ".".join(path.with_suffix("").parts)
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def environment() -> dict[str, str]:
    """That of a shell with the programs of this interpreter and of Django."""
    import django

    places = [Path(sys.executable).parent, Path(django.__file__).parents[4] / "bin"]
    return os.environ | {"PATH": os.pathsep.join([*map(str, places), os.environ["PATH"]])}


def command(line: str) -> None:
    """Run one line of a shell."""
    told = subprocess.run(line, shell=True, env=environment(), capture_output=True, text=True)
    if told.returncode != 0:
        raise AssertionError(f"$ {line}\n{told.stdout}{told.stderr}")


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a console, each with what it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def serve(text: str) -> None:
    """Have the first command serve, on a free port in place of 8000, while the others ask.

    Each line of an answer on the page must be one of the real answer.
    """
    (server, greeting), *asked = commands(text)
    line = f"exec {server.removesuffix(' &')} --port 0"
    serving = subprocess.Popen(
        ["bash", "-c", line],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said: list[str] = []
        assert serving.stdout is not None
        for heard in serving.stdout:
            said.append(heard.rstrip())
            found = re.search(r"127\.0\.0\.1:(\d+)", heard)
            if found:
                break
        else:
            raise AssertionError(f"$ {server}\n" + "\n".join(said))
        here, there = f"127.0.0.1:{found[1]}", "127.0.0.1:8000"
        compare(server, greeting, "\n".join(said).replace(here, there))
        mark = "-- the next answer --"
        lines = [f"echo {mark!r}\n{line.replace(there, here)}\necho" for line, _ in asked]
        done = subprocess.run(
            ["bash", "-c", "set -e\n" + "\n".join(lines)],
            env=environment(),
            capture_output=True,
            text=True,
        )
        answers = done.stdout.replace(here, there).split(mark)[1:]
        for (line, printed), answer in zip(asked, answers, strict=True):
            compare(line, printed, answer)
    finally:
        serving.terminate()
        serving.communicate(timeout=30)


def compare(line: str, printed: list[str], answer: str) -> None:
    """Whether an answer has every line that the page prints; headers in any letters."""
    lines = {given.strip().lower() for given in answer.splitlines()}
    lost = [wanted for wanted in printed if wanted.strip().lower() not in lines]
    if lost:
        raise AssertionError(f"$ {line}\nlacks {lost}, and is:\n{answer}")


def keep(snippet: Snippet) -> None:
    """Write a snippet to its file, or to the end of it."""
    words = snippet["words"]
    path = Path(words.get("write") or words["append"])
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if "append" in words else ""
    path.write_text(before + snippet["text"])


async def execute(snippet: Snippet, namespace: dict[str, Any]) -> None:
    where = f"{snippet['page']}:{snippet['line']}"
    code = compile(
        "\n" * (snippet["line"] - 1) + snippet["text"],
        where,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        await result


async def take(snippet: Snippet, namespace: dict[str, Any]) -> None:
    """Run one snippet as its words say."""
    words = snippet["words"]
    if "settings" in words:
        from django.core.management import call_command

        call_command("check", fail_level="WARNING")
        return
    if "run" in words:
        for line in snippet["text"].splitlines():
            if line.startswith("$ "):
                command(line[2:])
        return
    if "serve" in words:
        serve(snippet["text"])
        return
    if "write" in words or "append" in words:
        keep(snippet)
        return
    if "file" in words:
        namespace.update(vars(module_from(words["file"], snippet["text"])))
        return
    expected = words.get("raises")
    try:
        await execute(snippet, namespace)
    except Exception as error:
        if expected is None or expected not in {kind.__name__ for kind in type(error).__mro__}:
            raise
    else:
        if expected is not None:
            raise AssertionError(f"{snippet['page']}:{snippet['line']}: no {expected} was raised")


async def main() -> None:
    chain: list[Snippet] = json.load(sys.stdin)
    sys.path.insert(0, ".")
    first = next((snippet for snippet in chain if "settings" in snippet["words"]), None)
    if first is not None or any("django" in snippet["words"] for snippet in chain):
        set_up_django(settings(first))
    # Classes that a snippet defines look their annotations up in their module.
    module = types.ModuleType("snippet")
    sys.modules["snippet"] = module
    for snippet in chain:
        await take(snippet, vars(module))


if __name__ == "__main__":
    asyncio.run(main())
