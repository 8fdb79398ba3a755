"""Text that somebody hostile wrote, made fit for a terminal, a log or a page."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_UNUSUAL = re.compile(r"[^\n\t\x20-\x7e]")


def escape(text: str) -> str:
    r"""Make control characters, terminal commands and direction marks visible.

    Newline and tab stay; escape becomes `\x1b`, a right-to-left override `\u202e`.
    """
    return _UNUSUAL.sub(lambda match: _visible(match[0]), text)


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
