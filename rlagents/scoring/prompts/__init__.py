"""What a judge reads: our words in text files, and what others wrote between fences.

What is judged may try to instruct its judge. Three things keep data and instructions apart:

- `shown` makes what can't be seen visible, and breaks whatever a server or a tokenizer might read
  as a special token of a chat template (`<|im_end|>`, `[INST]`).
- `fenced` puts `| ` before each line (data marking, as in Spotlighting, arXiv 2403.14720), so that
  no line of the data begins like one of ours: neither a fence nor a role nor a heading can be
  forged. Nothing is random: the same question is the same prompt, which a cache relies on.
- The instruction stands before the data and again after it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from string import Template

from rlagents.visible import escape

FOLDER = Path(__file__).parent
MARK = "| "
"""Before each line of data."""
LABELS = ("A", "B")
"""What the candidates of a comparison are called, in the order in which they are shown."""

_OPENERS = re.compile(r"[<＜﹤](?![\s=]|$)|[\[［](?=/?[A-Za-z]?[A-Z][A-Z0-9_]{2,}\])")  # noqa: RUF001
"""What a special token begins with; `a < b`, `a <= b` and `a[i]` stay as they are."""
_HARMLESS = {"<": "‹", "＜": "‹", "﹤": "‹", "[": "⁅", "［": "⁅"}  # noqa: RUF001
_INVISIBLE = re.compile(r"[\u034f\u115f\u1160\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Letters and marks without a shape, which `visible.escape` lets pass: text hides in them."""


def shown(text: str) -> str:
    r"""Text as a judge sees it: nothing invisible, no special token, a newline the only line end.

    A bidirectional override becomes `\u202e`; what opens a special token becomes U+2039 or U+2045,
    which only look like it. Doing it twice changes nothing; linear in the text.
    """
    text = _INVISIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), escape(text))
    return _OPENERS.sub(lambda match: _HARMLESS[match[0]], text)


def fenced(text: str, name: str = "data") -> str:
    """`shown` text between two fences that it can't contain; `unfenced` reads it back exactly.

    <<< NAME
    | first line
    | second line
    <<< end of NAME
    """
    lines = "".join(f"{MARK}{line}\n" for line in shown(text).split("\n"))
    return f"<<< {name}\n{lines}<<< end of {name}"


def unfenced(prompt: str) -> list[tuple[str, str]]:
    """(name, text) of each fenced part of a prompt, in order: the inverse of `fenced`.

    Raises:
        ValueError: when fences are not paired, or something between them is not marked.
    """
    parts: list[tuple[str, str]] = []
    name, lines = "", []
    for line in prompt.split("\n"):
        if name and line == f"<<< end of {name}":
            parts.append((name, "\n".join(lines)))
            name, lines = "", []
        elif name and line.startswith(MARK):
            lines.append(line[len(MARK) :])
        elif name:
            raise ValueError(f"expected {MARK!r} before each line of {name!r}, got {line[:80]!r}")
        elif line.startswith("<<< "):
            name = line[4:]
    if name:
        raise ValueError(f"expected an end of {name!r}, got none")
    return parts


def prompt(name: str, **parts: str) -> str:
    """The template `NAME.txt` with its parts. What a part holds is not read as a template."""
    return _template(name).substitute(parts)


@cache
def _template(name: str) -> Template:
    return Template((FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip())
