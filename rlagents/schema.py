"""Checks parsed YAML against the dataclasses of `rlagents.config`, with the full key in each error.

The schema is read from the dataclasses, so a new field needs nothing here.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlagents.config import RunConfig
from rlagents.errors import ConfigError, nearest
from rlagents.yaml_text import Plain

INTERPOLATION = re.compile(r"(\\*)\$\{([^}]*)(\}?)")
"""Backslashes, what stands between the braces, and the closing brace where there is one."""

_LARGEST = 2**63


def known_keys() -> tuple[str, ...]:
    """Full keys of all sections and settings, in the order of the dataclasses."""
    return tuple(_keys(_schema(RunConfig), ""))


def nearest_key(key: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for a full key, or an empty string when nothing comes near."""
    key = key[:120]
    leaf = key.rpartition(".")[2]
    short = "".join(word[:1] for word in leaf.split("_"))  # learning_rate: lr
    same_leaf = [k for k in known if k.rpartition(".")[2] in (leaf, short)]
    pool = same_leaf or list(known)
    match = difflib.get_close_matches(key, pool, n=1, cutoff=0.0 if same_leaf else 0.6)
    if match:
        return f"; did you mean {match[0]!r}?"
    by_leaf = {k.rpartition(".")[2]: k for k in known}
    match = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
    return f"; did you mean {by_leaf[match[0]]!r}?" if match else ""


@cache
def _schema(cls: type) -> dict[str, Any]:
    """Field -> type of a section; where the type is a section, its own schema."""
    hints: dict[str, Any] = get_type_hints(cls)
    return {
        name: _schema(hint) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else hint
        for name, hint in hints.items()
    }


def _keys(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, hint in schema.items():
        yield prefix + name
        if isinstance(hint, dict):
            yield from _keys(hint, f"{prefix}{name}.")


def checked(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Parsed YAML as the fields hold it, and the full keys of the settings that it gives.

    Args:
        values: section -> its values, with `Plain` scalars; interpolations pass unresolved.

    Raises:
        ConfigError: one line with the full key.
    """
    checker = _Checker(known_keys())
    return checker.section(values, _schema(RunConfig), ""), checker.given


def section_of(hint: Any) -> type | None:
    """The dataclass of a `tuple[ThatSection, ...]`; None for any other type."""
    part = (get_args(hint) or (None,))[0] if get_origin(hint) is tuple else None
    return part if isinstance(part, type) and dataclasses.is_dataclass(part) else None


def with_sections(section: Any, prefix: str = "") -> Any:
    """A configuration of which lists of sections hold mappings, with sections in their place.

    OmegaConf does not look into a tuple but for interpolations, so their results are checked here.

    Raises:
        ConfigError: one line with the full key, `section.list[1].name`.
    """
    changes: dict[str, Any] = {}
    for name, hint in get_type_hints(type(section)).items():
        value, key, part = getattr(section, name), prefix + name, section_of(hint)
        if part is not None:
            changes[name] = tuple(_made(part, v, f"{key}[{i}]") for i, v in enumerate(value))
        elif dataclasses.is_dataclass(value):
            changes[name] = with_sections(value, key + ".")
    return dataclasses.replace(section, **changes) if changes else section


def _made(cls: type, values: Any, key: str) -> Any:
    fields = _Checker(()).item(cls, values, key)
    try:
        return cls(**fields)
    except ConfigError as error:  # a section does not know its place in a list
        stem = key.rpartition("[")[0]
        raise ConfigError(str(error).replace(f"{stem}.", f"{key}.", 1)) from None


class _Checker:
    def __init__(self, known: Sequence[str]) -> None:
        self._known = known
        self.given: list[str] = []

    def section(self, values: Any, schema: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            expected = f"a section with keys such as '{prefix}{next(iter(schema))}'"
            raise ConfigError(f"{prefix[:-1]}: expected {expected}, got {shown(values)}")
        return {name: self._field(v, schema, prefix, name) for name, v in values.items()}

    def _field(self, value: Any, schema: Mapping[str, Any], prefix: str, name: str) -> Any:
        key = prefix + name
        if name not in schema:
            raise self._unknown(value, prefix, key)
        if isinstance(schema[name], dict):
            return self.section(value, schema[name], key + ".")
        self.given.append(key)
        part = section_of(schema[name])
        if part is None:
            return _leaf(value, schema[name], key)
        example = f"a list of sections such as [{{{next(iter(_schema(part)))}: ...}}, {{}}]"
        if not isinstance(value, list):
            raise _mismatch(key, example, value)
        return [self.item(part, v, f"{key}[{i}]") for i, v in enumerate(value)]

    def item(self, cls: type, value: Any, key: str) -> dict[str, Any]:
        """One section of a list of them."""
        schema = _schema(cls)
        inner = _Checker((*self._known, *_keys(schema, key + ".")))
        return inner.section(value, schema, key + ".")

    def _unknown(self, value: Any, prefix: str, key: str) -> ConfigError:
        while isinstance(value, dict) and value:  # `rolout: {groups: 3}` means rolout.groups
            name, value = next(iter(value.items()))
            key += "." + name
        where = f"a key of '{prefix[:-1]}'" if prefix else "a section"
        hint = nearest_key(key, self._known)
        return ConfigError(f"{key[:200]}: unknown key, expected {where}{hint}")


def _leaf(value: Any, hint: Any, key: str) -> Any:
    """The value as a field of type `hint` holds it; interpolations pass for OmegaConf to follow."""
    origin = get_origin(hint)
    if isinstance(value, str) and _has_interpolation(value):
        return value
    if origin in (types.UnionType, Union):  # only `X | None` exists
        inner = next(arm for arm in get_args(hint) if arm is not type(None))
        return None if value is None else _leaf(value, inner, key)
    if value == "???":
        raise ConfigError(f"{key}: expected a value, got '???'")
    if origin is Literal:
        choices = get_args(hint)
        text = value.text if isinstance(value, Plain) else value
        if text not in choices:
            expected = "one of " + ", ".join(map(str, choices)) if choices[1:] else choices[0]
            hint = nearest(text, choices) if isinstance(text, str) else ""
            raise _mismatch(key, expected, value, hint)
        return text
    if origin is tuple:
        return _tuple(value, get_args(hint), key)
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(key, "a mapping", value)
        return _free(value, key)
    return _scalar(value, hint, key)


def _tuple(value: Any, arms: tuple[Any, ...], key: str) -> list[Any]:
    if not isinstance(value, list):
        raise _mismatch(key, "a list such as [a, b]", value)
    if arms[-1] is Ellipsis:
        arms = arms[:1] * len(value)
    if len(arms) != len(value):
        raise _mismatch(key, f"{len(arms)} values", value)
    return [
        _leaf(v, arm, f"{key}[{i}]") for i, (v, arm) in enumerate(zip(value, arms, strict=True))
    ]


def _scalar(value: Any, hint: type, key: str) -> Any:
    if hint is str:
        text = value.text if isinstance(value, Plain) else value
        if not isinstance(text, str):
            raise _mismatch(key, "a string", value)
        return text
    number = bare(value)
    if hint is bool and not isinstance(number, bool):
        raise _mismatch(key, "true or false", value)
    if hint is int and (type(number) is not int or abs(number) >= _LARGEST):
        raise _mismatch(key, "a whole number", value)
    if hint is float:
        if type(number) not in (int, float) or not math.isfinite(_as_float(number)):
            raise _mismatch(key, "a finite number", value)
        return float(number)
    return number


def _as_float(number: int | float) -> float:
    return math.inf if abs(number) >= 1e300 else float(number)


def _free(value: Any, key: str) -> Any:
    """A value below a field that takes anything, with the spellings dropped."""
    if isinstance(value, dict):
        return {name: _free(v, f"{key}.{name}") for name, v in value.items()}
    if isinstance(value, list):
        return [_free(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if value == "???":
        raise ConfigError(f"{key}: expected a value, got '???'")
    return bare(value)


def bare(value: Any) -> Any:
    """A scalar without its spelling; anything else as it is."""
    return value.value if isinstance(value, Plain) else value


def _mismatch(key: str, expected: str, value: Any, hint: str = "") -> ConfigError:
    return ConfigError(f"{key}: expected {expected}, got {shown(value)}{hint}")


def shown(value: Any) -> str:
    """A parsed value as an error quotes it: short, on one line."""
    if value is None:
        return "null"
    text = value.text if isinstance(value, Plain) else repr(_first_few(value))
    return text if len(text) <= 80 else text[:60] + "..."


def _first_few(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _first_few(v) for name, v in list(value.items())[:5]}
    if isinstance(value, list):
        return [_first_few(v) for v in value[:5]]
    return value[:100] if isinstance(value, str) else bare(value)


def _has_interpolation(text: str) -> bool:
    return any(len(m[1]) % 2 == 0 for m in INTERPOLATION.finditer(text))
