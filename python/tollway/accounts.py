"""What an account is counted by, however its name is spelled."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from tollway import hash_identity

__all__ = ["account"]

_LONGEST: Final = 1024
"""Characters of a name that may be an account's: to look at a megabyte of them takes seconds."""

_LATIN: Final = re.compile(
    "(?:COMBINING )?LATIN (?:SMALL |CAPITAL )?(?:LETTER |LIGATURE )"
    "(?:DOTLESS |INSULAR |LONG )?([A-Z]{1,2})(?: WITH .*| DIGRAPH| BELOW)?"
)
"""Letters that some databases take for one or two of ours, by their names in Unicode."""

_STRANGE: Final = str.maketrans(
    "ð\u1dd9\u1dd3\u1dd7" + "".join(map(chr, [*range(0x0F2A, 0x0F34), *range(0x09F4, 0x09F8)])),
    "ddac" + "1234567890" + "1234",
    "\u0345\u1cf2\u1cf3\ufe73",
)
"""Others of that kind, halves of digits, and letters that databases do not look at."""


def account(username: str) -> str:
    """What an account is counted by: a hash that is the same for every spelling of its name.

    Databases and login forms differ in which spellings are one account; here capitals, marks,
    strokes, widths, digits of other scripts, and what cannot be seen make no difference, so that
    no spelling has tries of its own. Names that are longer than any account's share one count.
    Costs some microseconds.

    >>> account(" Ada") == account("ÁDA") == account("ada")
    True
    >>> account("ada") == account("eva")
    False
    """
    if len(username) > _LONGEST:
        username = ""
    plain = unicodedata.normalize("NFKD", username.translate(_STRANGE).casefold()).casefold()
    seen = "".join(map(_ours, plain.translate(_STRANGE)))
    # One collation takes a sharp s for one of ours, another one for two.
    return hash_identity(re.sub("s+", "s", seen))


def _ours(char: str) -> str:
    """What a character counts as: an ASCII one that some database takes it for, if there is one."""
    if char.isascii():
        return char if char.isprintable() and char != " " else ""
    number = unicodedata.numeric(char, -1.0)
    if number in range(10):
        return str(int(number))
    latin = _LATIN.fullmatch(unicodedata.name(char, ""))
    if latin:
        return latin[1].lower()
    return char if unicodedata.category(char) in ("Ll", "Lo", "Lt", "Lu", "Nd", "Nl", "No") else ""
