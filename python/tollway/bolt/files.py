"""Files as answers."""

from __future__ import annotations

import mimetypes
import os
from typing import Any
from urllib.parse import quote

from tollway._tollway import FileBody
from tollway.bolt.responses import Headers, Response

__all__ = ["File", "FileResponse", "disposition"]


def disposition(filename: str, inline: bool = False) -> str:
    """The ``Content-Disposition`` header for a file name in any script (RFC 6266, RFC 8187).

    >>> disposition("rates.csv")
    'attachment; filename="rates.csv"'
    >>> disposition("Preise in €.csv", inline=True)
    'inline; filename="Preise in _.csv"; filename*=UTF-8\\'\\'Preise%20in%20%E2%82%AC.csv'
    """
    name = filename.replace("\\", "/").rpartition("/")[2]
    plain = "".join(
        character if " " <= character <= "~" and character not in '"%\\' else "_"
        for character in name
    )
    kind = "inline" if inline else "attachment"
    header = f'{kind}; filename="{plain}"'
    if plain != name:
        header += f"; filename*=UTF-8''{quote(name.encode('utf-8', 'replace'), safe='')}"
    return header


def _kind(name: str | None) -> str:
    guessed, encoding = mimetypes.guess_type(name or "")
    if encoding is not None or guessed is None:
        # A `.tar.gz` is sent as what it is, not as a tar that is encoded.
        return "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed


def _named(response: Response, filename: str | None, inline: bool) -> None:
    if filename is not None and not response.has_header("content-disposition"):
        response.add_header("content-disposition", disposition(filename, inline))


class File(Response):
    """Bytes in memory as a file, for example to download.

    With a ``filename`` browsers save it under that name; ``inline=True`` lets them show it. The
    media type is guessed from the name.
    """

    __slots__ = ()

    def __init__(
        self,
        content: bytes | bytearray | memoryview | str,
        filename: str | None = None,
        media_type: str | None = None,
        status_code: int = 200,
        headers: Headers | None = None,
        *,
        inline: bool = False,
    ) -> None:
        super().__init__(content, status_code, headers, media_type or _kind(filename))
        _named(self, filename, inline)


class FileResponse(Response):
    """A file of the disk, read by the server piece by piece while the client takes it.

    It has an ``ETag`` and a ``Last-Modified`` date; the server answers ranges (also several), and
    304 to clients that have the file. A file that is not there, is no regular file, or lies outside
    of ``BOLT_ALLOWED_FILE_PATHS`` is a 404. With a ``filename`` browsers save it under that name;
    ``inline=True`` lets them show it.
    """

    __slots__ = ("path",)

    def __init__(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        media_type: str | None = None,
        status_code: int = 200,
        headers: Headers | None = None,
        *,
        inline: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"a path is text or a Path, not {type(path).__qualname__}")
        kind = media_type or _kind(filename or self.path)
        super().__init__(self.path, status_code, headers, kind)
        _named(self, filename, inline)

    def _render(self, content: Any) -> tuple[Any, str | None]:
        return FileBody(content), None

    def __repr__(self) -> str:
        return f"<FileResponse {self.status_code}, {self.path!r}>"
