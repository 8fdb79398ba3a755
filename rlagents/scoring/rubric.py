"""Rubrics: what marks are given for, as groups of dimensions with levels, from YAML.

    groups:
      process:
        about: how it worked
        weight: 0.4
        dimensions:
          evidence:
            about: Does it look before it claims?
            weight: 2                    # 1 where none is given
            levels: {0: guesses, 10: looks up whatever it relies on}
      answer: ...

A file of your own may have other groups and dimensions; `default`, `deepresearch` and `travel` come
with rlagents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlagents import yaml_text
from rlagents.errors import ConfigError, nearest
from rlagents.schema import bare, shown

KEY = "scoring.judge.rubric"
FOLDER = Path(__file__).parent / "rubrics"
WORST, BEST = 0, 10
"""Marks."""
MAX_DIMENSIONS = 32
"""Of a rubric: each is a number of the answer, and answers are short."""
MAX_WEIGHT = 1_000_000
MAX_WORDS = 1_000
"""Characters of a description."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

Marks = Mapping[str, Mapping[str, float]]
"""Group -> dimension -> mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing that is marked."""

    about: str
    weight: float = 1.0
    levels: Mapping[int, str]
    """Mark -> what deserves it, from the lowest on; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionGroup:
    """Dimensions whose mean counts with one weight."""

    about: str
    weight: float = 1.0
    dimensions: Mapping[str, Dimension]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """What marks are given for."""

    groups: Mapping[str, DimensionGroup]

    def overall(self, marks: Marks) -> float:
        """The mark that counts: a weighted mean over groups of weighted means over dimensions.

            sum_g w_g m_g / sum_g w_g,   m_g = sum_d w_d m_d / sum_d w_d

        Nothing is rounded. ArenaRL's code (arXiv 2601.06487) rounds the means of groups to integers
        and the whole to one decimal, which turns small leads into ties.

        Raises:
            KeyError: for a dimension without a mark.
        """
        return _mean(
            {
                group: (
                    g.weight,
                    _mean({d: (x.weight, marks[group][d]) for d, x in g.dimensions.items()}),
                )
                for group, g in self.groups.items()
            }
        )

    def text(self) -> str:
        """As a judge reads it."""
        lines: list[str] = []
        for group, g in self.groups.items():
            lines.append(f"{group} - {g.about}" if g.about else group)
            for name, dimension in g.dimensions.items():
                lines.append(f"  {group}.{name}: {dimension.about}")
                lines += [f"    {mark}: {text}" for mark, text in dimension.levels.items()]
        return "\n".join(lines)


def names() -> tuple[str, ...]:
    """The rubrics that come with rlagents."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_rubric(name_or_path: str) -> Rubric:
    """A rubric by name, or from a file of yours: whatever has a `/` or ends in `.yaml`, `.yml`.

    Raises:
        ConfigError: one line with the file and the key in it.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) < 2:
        known = names()
        if name_or_path not in known:
            raise ConfigError(
                f"{KEY}: expected a YAML file or one of {', '.join(known)}, got {name_or_path!r}"
                f"{nearest(name_or_path, known)}"
            )
        path = FOLDER / f"{name_or_path}.yaml"
    return _rubric(_Reader(str(path)), yaml_text.parse(_text_of(path), str(path)))


def _text_of(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{KEY}: expected a YAML file, got {str(path)!r}")
        with path.open(encoding="utf-8") as file:
            return file.read(yaml_text.MAX_CHARACTERS + 1)  # one more is too long for the parser
    except (OSError, ValueError) as error:  # no such file, not UTF-8, no possible name
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{KEY}: can't read {str(path)!r}: {reason}") from None


def _rubric(read: _Reader, values: Any) -> Rubric:
    fields = read.fields(values, "", ("groups",))
    groups: dict[str, DimensionGroup] = {}
    for name, group in read.named(fields["groups"], "groups").items():
        key = f"groups.{name}"
        parts = read.fields(group, key, ("dimensions",), ("about", "weight"))
        groups[name] = DimensionGroup(
            about=read.words(parts, key, "about"),
            weight=read.weight(parts, key),
            dimensions={
                inner: _dimension(read, f"{key}.dimensions.{inner}", value)
                for inner, value in read.named(parts["dimensions"], f"{key}.dimensions").items()
            },
        )
    count = sum(len(group.dimensions) for group in groups.values())
    if count > MAX_DIMENSIONS:
        raise read.error("groups", f"at most {MAX_DIMENSIONS} dimensions in all", str(count))
    return Rubric(groups=groups)


def _dimension(read: _Reader, key: str, values: Any) -> Dimension:
    fields = read.fields(values, key, ("about",), ("weight", "levels"))
    levels = fields.get("levels", {})
    if not isinstance(levels, dict):
        raise read.error(f"{key}.levels", "marks with a description each", shown(levels))
    known = {str(mark): mark for mark in range(WORST, BEST + 1)}
    for mark in levels:
        if mark not in known:
            wanted = f"whole marks from {WORST} to {BEST}"
            raise read.error(f"{key}.levels", wanted, shown(mark))
    return Dimension(
        about=read.words(fields, key, "about"),
        weight=read.weight(fields, key),
        levels={
            known[mark]: read.words(levels, f"{key}.levels", mark)
            for mark in sorted(levels, key=int)
        },
    )


class _Reader:
    """Takes parsed YAML apart; its errors name the file and the key."""

    def __init__(self, file: str) -> None:
        self._file = file

    def error(self, key: str, expected: str, got: str) -> ConfigError:
        where = f"{self._file}: {key}" if key else self._file
        return ConfigError(f"{where}: expected {expected}, got {got}")

    def fields(
        self, values: Any, key: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """A mapping with these keys."""
        known = (*needed, *optional)
        if not isinstance(values, dict):
            raise self.error(key, f"a section with {', '.join(known)}", shown(values))
        for name in values:
            if name not in known:
                hint = shown(name) + nearest(name, known)
                raise self.error(key, f"nothing but {', '.join(known)}", hint)
        for name in needed:
            if name not in values:
                raise self.error(key, name, "none")
        return values

    def named(self, values: Any, key: str) -> dict[str, Any]:
        """A mapping of one or more names of the user's own."""
        if not isinstance(values, dict) or not values:
            raise self.error(key, "one or more named sections", shown(values))
        for name in values:
            if not _NAME.fullmatch(name):
                raise self.error(key, "names of a-z, 0-9 and _, at most 32 long", shown(name))
        return values

    def words(self, values: dict[str, Any], key: str, name: str) -> str:
        """A description on one line; empty where there is none."""
        text = values.get(name, "")
        if not isinstance(text, str):
            raise self.error(f"{key}.{name}", "a text", shown(text))
        if len(text) > MAX_WORDS:
            wanted = f"at most {MAX_WORDS:,} characters"
            raise self.error(f"{key}.{name}", wanted, f"{len(text):,}")
        return " ".join(text.split())

    def weight(self, values: dict[str, Any], key: str) -> float:
        weight = bare(values.get("weight", 1.0))
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight <= MAX_WEIGHT:
            wanted = f"a number above 0, at most {MAX_WEIGHT:,}"
            raise self.error(f"{key}.weight", wanted, shown(values["weight"]))
        return float(weight)


def _mean(rows: Mapping[str, tuple[float, float]]) -> float:
    """Weighted mean of (weight, value) rows."""
    total = sum(weight for weight, _ in rows.values())
    return sum(weight * value for weight, value in rows.values()) / total
