"""The files of Bolt's pages are served as they stand there."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project
from tests.house.snippets import Snippet, parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "bolt.md"


def files(page: Path) -> list[Snippet]:
    found = parse(f"docs/{page.name}", page.read_text())
    return [snippet for snippet in found if "file" in snippet.words]


FILES = [snippet for page in sorted(DOCS.glob("bolt*.md")) for snippet in files(page)]


@pytest.mark.parametrize("snippet", FILES, ids=lambda snippet: f"{snippet.page}:{snippet.line}")
def test_every_file_of_the_page_can_be_served(project: Project, snippet: Snippet) -> None:
    apps = [f"django.contrib.{name}" for name in ("contenttypes", "auth", "sessions")]
    project.settings(f"INSTALLED_APPS += {apps}")
    project.write("shop/api.py", snippet.text)
    told = project.manage("runbolt", "--check")
    assert (told.returncode, told.stderr) == (0, "")


def test_the_mistakes_that_the_page_shows(project: Project) -> None:
    [body] = [snippet for snippet in files(PAGE) if "class NewItem" in snippet.text]
    project.write("shop/api.py", body.text)
    with project.serve() as served:
        answer = httpx.post(f"{served.url}/items", content=b'{"name": "x", "tags": [1]}')
    page = "".join(PAGE.read_text().split())
    assert "".join(answer.text.split()) in page
