"""The presets: published recipes as a few lines of YAML each, with a reason a line.

`algo.name` chooses `presets/NAME.yaml` (a link to `experiments/presets`). A preset states the
differences from plain GRPO; the comment behind a setting says why it is so and who says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlagents import yaml_text
from rlagents.errors import ConfigError, nearest
from rlagents.schema import bare

FOLDER = Path(__file__).parent / "presets"
DEFAULT = "grpo_pp"
"""Where a configuration names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A recipe."""

    name: str
    summary: str
    """The first comment line of its file: what it is and where it comes from."""
    values: dict[str, Any]
    """Section `algo` and its settings, parsed."""
    reasons: dict[str, str]
    """Full key of a setting -> why it is so."""


def names() -> tuple[str, ...]:
    """The presets that exist."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def read(name: str) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: when there is none of that name.
    """
    if name not in names():
        known = ", ".join(names())
        raise ConfigError(
            f"algo.name: expected a preset ({known}), got {name!r}{nearest(name, names())}"
        )
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    reasons = {
        key: lines[line].partition(" # ")[2].strip() for key, line in _places(yaml.compose(text))
    }  # a section's own line has no comment
    return Preset(
        name=name,
        summary=lines[0].lstrip("# "),
        values=yaml_text.parse(text, name) or {},
        reasons={key: reason for key, reason in reasons.items() if reason},
    )


def annotated(text: str, preset: Preset) -> str:
    """A resolved configuration with the preset's reasons behind the settings that it changed.

    Args:
        text: as `load.resolved_yaml` writes it.
        preset: settings that the user has changed again get no comment.
    """
    written, wanted = dict(_leaves(yaml_text.parse(text, ""))), dict(_leaves(preset.values))
    comments = {
        k: v for k, v in preset.reasons.items() if k in wanted and written.get(k) == wanted[k]
    }
    comments["algo.name"] = preset.summary
    lines = text.splitlines()
    for key, line in _places(yaml.compose(text)):
        if key in comments:
            lines[line] += f"  # {comments[key]}"
    return "\n".join(lines) + "\n"


def _places(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(Full key, line of its name) of each setting of a composed document."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        key = prefix + name.value
        yield key, name.start_mark.line
        yield from _places(value, key + ".")


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(Full key, value without spelling) of each setting of a parsed document."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, [bare(item) for item in value]
        else:
            yield prefix + name, bare(value)
