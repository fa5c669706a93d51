"""Files that clients send."""

from __future__ import annotations

import asyncio
from io import SEEK_CUR, SEEK_END, SEEK_SET
from os import PathLike
from typing import Any

from tollway._tollway import UploadedPart

__all__ = ["UploadFile", "content"]


class UploadFile:
    """A file of a form::

        @api.post("/avatar")
        async def avatar(image: Annotated[UploadFile, File(max_size=FileSize.MB_5)]):
            await image.asave(MEDIA / f"{uuid4()}.png")

    Its content stays in the memory of the request's body: :meth:`read` copies what it returns,
    :meth:`save` writes without a copy. ``filename`` and ``content_type`` are what the client
    says; the name is without folders, but still choose one of your own to save under.
    """

    __slots__ = ("_at", "_part")

    def __init__(self, part: UploadedPart) -> None:
        self._part: UploadedPart | None = part
        self._at = 0

    def _open(self) -> UploadedPart:
        if self._part is None:
            raise ValueError("this file is closed")
        return self._part

    @property
    def filename(self) -> str:
        """The file's name at the client, without folders."""
        return self._open().filename

    @property
    def content_type(self) -> str:
        """The media type that the client states, or ``application/octet-stream``."""
        return self._open().content_type

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this part of the form, names in lower case."""
        return dict(self._open().headers)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._open())

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes from the current position; all that are left without a size."""
        part = self._open()
        start = min(self._at, len(part))
        stop = len(part) if size < 0 else min(start + size, len(part))
        self._at = stop
        return part.bytes(start, stop)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move the position as files do. Returns the new one."""
        base = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is no position {base + offset} in a file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The current position."""
        return self._at

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole content to a new file, in place of one that is there."""
        self._open().save(path)

    async def aread(self, size: int = -1) -> bytes:
        """The same as :meth:`read`: the content is in memory, nothing is waited for."""
        return self.read(size)

    async def asave(self, path: str | PathLike[str]) -> None:
        """:meth:`save` on another thread."""
        await asyncio.to_thread(self.save, path)

    def close(self) -> None:
        """Let go of the content now, and not when the request is done."""
        self._part = None

    def __enter__(self) -> UploadFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._part is None:
            return "<UploadFile, closed>"
        return f"<UploadFile {self.filename!r}, {self.content_type}, {self.size} bytes>"


def content(part: UploadedPart) -> bytes:
    """All bytes of a file."""
    return part.bytes(0, len(part))
