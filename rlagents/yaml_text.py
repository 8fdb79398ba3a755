"""YAML as configurations use it: the YAML 1.2 core scalars, no tags, no surprises, a bounded size.

YAML 1.1, which PyYAML reads by default, turns `yes` into a boolean, `012` into ten and `1:30` into
ninety; none of that happens here. Aliases work, alias bombs and cycles do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from rlagents.errors import ConfigError

MAX_CHARACTERS = 100_000
"""Of a configuration or of one override."""
MAX_VALUES = 10_000
"""Values of a document, each alias counted as often as it is used."""
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,999}(?:_[0-9]{1,9}){0,9})$"), "-+0123456789"),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


@dataclass(frozen=True, slots=True)
class Plain:
    """An unquoted number or boolean, with its spelling: a string field takes the spelling."""

    text: str
    value: bool | int | float


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever a YAML 1.1 or 1.2 reader would take for something else than a string."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: list(rows) for first, rows in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, list(_first))


def parse(text: str, where: str) -> Any:
    """One YAML document as dicts (with string keys), lists, strings, None and `Plain` scalars.

    Args:
        text: the document; an empty one is None.
        where: what to call it in an error: a path, or the key of an override.

    Raises:
        ConfigError: one line, for whatever is not such a document.
    """
    if len(text) > MAX_CHARACTERS:
        got = f"got {len(text):,}"
        raise ConfigError(f"{where}: expected at most {MAX_CHARACTERS:,} characters, {got}")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{where}: expected at most {MAX_DEPTH} levels of nesting") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}{_mark(error)}: not YAML: {_problem(error)}") from None
    return None if node is None else _Reader(where).value(node, MAX_DEPTH)


def dump(values: Any) -> str:
    """Dicts, lists and scalars as YAML that `parse` reads back to the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Reader:
    """Turns composed nodes into values, within a budget that aliases can't escape."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, f"expected at most {MAX_VALUES:,} values, aliases included")
        if depth < 0:
            raise self._error(node, f"expected at most {MAX_DEPTH} levels of nesting")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(child, depth - 1) for child in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, depth)
        raise self._error(node, f"expected no tags, got {node.tag!r}")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "expected keys that are words, got a list or mapping")
            if key.value in values:
                raise self._error(key, f"{key.value!r} stands there twice")
            values[key.value] = self.value(child, depth - 1)
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return Plain(text, text.lower() == "true")
            case "int" if node.style is None and _SCALARS[1][1].match(text):
                return Plain(text, int(text))
            case "float" if node.style is None and _SCALARS[2][1].match(text):
                return Plain(text, _float(text))
        raise self._error(node, f"expected no tags, got {node.tag!r}")

    def _error(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self._where}:{node.start_mark.line + 1}: {problem}")


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _mark(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or " ".join(str(error).split())
