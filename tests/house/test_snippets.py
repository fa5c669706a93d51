"""Every Python snippet of README.md and docs/ runs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.house.snippets import Snippet, chains, parse

TOP = Path(__file__).resolve().parents[2]
PROCESS = Path(__file__).with_name("snippet_process.py")
CHAINS = list(chains(TOP))


def run(
    chain: Sequence[Snippet], folder: Path, servers: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """`servers` are the URLs to put in place of those of the page, longer ones first."""
    told = json.dumps([asdict(snippet) for snippet in chain])
    for written, real in servers.items():
        told = told.replace(written, real)
    # sync Django code in a snippet may stand beside a top-level `await`
    environment = os.environ | {"DJANGO_ALLOW_ASYNC_UNSAFE": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(PROCESS)],
        input=told,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: f"{chain[0].page}:{chain[0].line}")
def test_a_snippet_runs(
    chain: list[Snippet], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    words = {word for snippet in chain for word in snippet.words}
    servers = {}
    if "redis" in words:
        database = 1 + CHAINS.index(chain) % 15  # what other snippets counted is not here
        url = f"{request.getfixturevalue('redis_url')}/{database}"
        servers |= {"redis://127.0.0.1:6379/0": url, "redis://127.0.0.1:6379": url}
    for database in {"postgres", "mysql"} & words:
        url = request.getfixturevalue(f"{database}_url")
        servers[f"{database}://me@127.0.0.1/shop"] = url
    done = run(chain, tmp_path, servers)
    assert done.returncode == 0, done.stderr


def test_a_page_of_each_audience_has_snippets() -> None:
    pages = {snippet.page for chain in CHAINS for snippet in chain}
    assert {"README.md", "docs/bolt.md", "docs/django.md", "docs/fastapi.md"} <= pages


PAGE = """
Text.

```python
kept = 1
```

<!-- snippet: continues raises=ZeroDivisionError -->
```python
kept / 0
```

```console
$ not python
```

- in a list

  <!-- snippet: file=shop/api.py -->
  ```python
  answer = await_me = 42
  ```
"""


def test_the_blocks_of_a_page_are_found_with_their_words() -> None:
    first, second, third = parse("page.md", PAGE)
    assert (first.line, first.words) == (5, {})
    assert second.words == {"continues": "", "raises": "ZeroDivisionError"}
    assert (third.text, third.words) == ("answer = await_me = 42\n", {"file": "shop/api.py"})


def test_a_broken_snippet_fails_and_names_its_line(tmp_path: Path) -> None:
    (snippet,) = parse(
        "page.md", "\n```python\nimport asyncio\nawait asyncio.sleep(0)\nnope\n```\n"
    )
    done = run([snippet], tmp_path)
    assert done.returncode == 1
    assert 'File "page.md:3", line 5' in done.stderr
    assert "NameError: name 'nope' is not defined" in done.stderr


def test_a_promised_exception_must_come(tmp_path: Path) -> None:
    text = "<!-- snippet: raises=ValueError -->\n```python\n{}\n```\n"
    (raising,) = parse("page.md", text.format("int('x')"))
    (silent,) = parse("page.md", text.format("int('1')"))
    assert run([raising], tmp_path).returncode == 0
    assert "no ValueError was raised" in run([silent], tmp_path).stderr


SERVED = """
<!-- snippet: write=server.py -->
```python
import http.server

server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print("listens on http://127.0.0.1:%s" % server.server_port, flush=True)
server.serve_forever()
```

<!-- snippet: continues serve -->
```console
$ python server.py &
listens on http://127.0.0.1:8000
$ NAME=server.py
$ curl -i http://127.0.0.1:8000/$NAME
content-type: text/x-python
{}
```
"""


def test_what_a_console_shows_is_what_a_server_answers(tmp_path: Path) -> None:
    true = list(parse("page.md", SERVED.replace("{}", "import http.server")))
    false = list(parse("page.md", SERVED.replace("{}", "import ftp.server")))
    assert run(true, tmp_path).returncode == 0
    assert "lacks ['import ftp.server']" in run(false, tmp_path).stderr


def test_a_misspelt_word_is_named() -> None:
    with pytest.raises(ValueError, match=r"page\.md:1: no such snippet word: djagno"):
        list(parse("page.md", "<!-- snippet: djagno -->\n```python\n1\n```\n"))


def rust_of(page: Path) -> list[str]:
    """The Rust blocks of a page."""
    return re.findall(r"^```rust\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def compiled(source: str) -> str:
    """A Rust file without indentation, the marks of comments, and hidden lines of examples."""
    lines = (re.sub(r"^\s*(//[/!] ?)?\s*", "", line) for line in source.splitlines())
    return "\n".join(line for line in lines if not line.startswith("# "))


def test_the_rust_of_the_pages_is_compiled_somewhere() -> None:
    sources = [compiled(path.read_text()) for path in (TOP / "crates").rglob("*.rs")]
    pages = [TOP / "README.md", *(TOP / "docs").glob("*.md"), *(TOP / "docs").glob("*/*.md")]
    blocks = [(page.name, block) for page in pages for block in rust_of(page)]
    assert {"README.md", "rust.md"} <= {page for page, _ in blocks}
    lost = [
        (page, block)
        for page, block in blocks
        if not any(
            all(part in source for part in compiled(block).strip().split("\n\n"))
            for source in sources
        )
    ]
    assert lost == []
