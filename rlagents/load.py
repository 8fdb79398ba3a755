"""From a YAML file and `key=value` overrides to a `RunConfig`, and back to YAML.

Every key and value is checked against the dataclasses with its full name; OmegaConf then merges
defaults, the preset that `algo.name` chooses, file and overrides, and follows `${section.key}`.
Resolvers such as `oc.env` are refused: they would write secrets into the resolved configuration.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlagents import preset, yaml_text
from rlagents.config import RunConfig
from rlagents.errors import ConfigError, nearest
from rlagents.rules import FILE, OVERRIDE, check, moot
from rlagents.schema import INTERPOLATION, checked, known_keys, nearest_key, shown, with_sections

_KEY = re.compile(r"[^\W\d]\w*(?:\.[\w/-]+)*")
_REFERENCE = re.compile(r"[^\W\d]\w*(?:\.\w+)+")
_MAX_INTERPOLATIONS = 100


def load(path: str | None, overrides: Sequence[str] = (), *, training: bool = True) -> RunConfig:
    """Read a configuration file, apply overrides, check the whole.

    Args:
        path: a YAML file that states differences from the defaults; None for none.
        overrides: `section.key=value` each, values in YAML; the last one for a key wins.
        training: also check what only training needs (`rlagents eval` does not).

    Raises:
        ConfigError: one line that names the full key, what came, and what was expected.
    """
    values = _mapping(yaml_text.parse(_read(path), path), path) if path is not None else {}
    return _build(values, _override_values(overrides), training=training)


def from_yaml_text(text: str, where: str = "config.yaml") -> RunConfig:
    """The configuration that `resolved_yaml` wrote.

    Raises:
        ConfigError: one line, also where the text was edited since.
    """
    return _build(_mapping(yaml_text.parse(text, where), where), {}, training=False)


def resolved_yaml(config: RunConfig) -> str:
    """Every setting that has an effect, as YAML; `from_yaml_text` gives the same config back."""
    values = _plain(dataclasses.asdict(config))
    for key in moot(config):
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.get(part, {})
        section.pop(name, None)  # the whole section may be gone already
    return yaml_text.dump(values)


def _build(file: dict[str, Any], overrides: dict[str, Any], *, training: bool) -> RunConfig:
    name = _preset_name([file, overrides])
    recipe, _ = checked(preset.read(name).values)
    given: dict[str, int] = {}
    layers = [recipe]
    for level, values in ((FILE, file), (OVERRIDE, overrides)):
        layer, keys = checked(values)
        list(_references(layer))
        layers.append(layer)
        given |= dict.fromkeys(keys, level)
    layers.append({"algo": {"name": name}})
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig()), *layers)
        _check_targets(OmegaConf.to_container(merged), known_keys())
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    assert isinstance(config, RunConfig)
    return check(with_sections(config), given, training=training)


def _read(path: str) -> str:
    try:
        file = Path(path)
        size = file.stat().st_size
        if file.is_dir():
            raise ConfigError(f"{path}: expected a YAML file, got a folder")
        if not file.is_file():
            raise ConfigError(f"{path}: expected a YAML file, got something that is no plain file")
        if size > 4 * yaml_text.MAX_CHARACTERS:
            raise ConfigError(f"{path}: expected a configuration, got {size:,} bytes")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_nearby(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected YAML in UTF-8, got other bytes") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:  # a null character in the name
        raise ConfigError(f"{path!r}: not a path: {error}") from None


def _nearby(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return ""
    return nearest(path, [str(p) for p in folder.glob("*.y*ml")])


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected sections such as 'rollout:', got {shown(values)}")
    return values


def _override_values(overrides: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if "[" in key and key.split("[")[0] in known_keys():
            name = key.split("[")[0]
            raise ConfigError(f"{key[:200]}: give the whole list, such as {name}=[{{...}}, {{}}]")
        if not equals or not _KEY.fullmatch(key):
            hint = nearest_key(key, known_keys())
            raise ConfigError(f"{text[:200]!r}: expected section.key=value{hint}")
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{key}: an earlier override made '{part}' a plain value")
        parsed = yaml_text.parse(value, key)
        if isinstance(parsed, dict) and isinstance(section.get(name), dict):
            parsed = {**section[name], **parsed}
        section[name] = parsed
    return values


def _preset_name(layers: Sequence[dict[str, Any]]) -> str:
    """The last `algo.name`.

    An override may choose another preset than the file, whose other settings stay.
    """
    sections = [s for s in (values.get("algo") for values in layers) if isinstance(s, dict)]
    named = [section["name"] for section in sections if "name" in section]
    if not named:
        return preset.DEFAULT
    return named[-1] if isinstance(named[-1], str) else shown(named[-1])


def _references(tree: Any) -> Iterator[tuple[str, str]]:
    """(Key of the setting, name that it refers to) for each `${name}` in a tree.

    Raises:
        ConfigError: for anything but a name between the braces.
    """
    for key, text in _strings(tree, ""):
        for match in INTERPOLATION.finditer(text):
            backslashes, name, closed = match.groups()
            if len(backslashes) % 2:
                continue  # escaped: \\${
            if not (closed and _REFERENCE.fullmatch(name)):
                form = "${section.key} (no resolvers; \\${ is a literal ${)"
                raise ConfigError(f"{key}: expected {form}, got '${{{name[:60]}{closed}'")
            yield key, name


def _check_targets(tree: Any, known: Sequence[str]) -> None:
    """Each interpolation must point to a plain value, so that none is a cycle or a bomb."""
    references = list(_references(tree))
    if len(references) > _MAX_INTERPOLATIONS:
        raise ConfigError(
            f"{references[-1][0]}: expected at most {_MAX_INTERPOLATIONS} interpolations in a "
            f"configuration, got {len(references)}"
        )
    for key, name in references:
        target = tree
        for part in name.split("."):
            if not isinstance(target, dict) or part not in target:
                hint = nearest_key(name, known)
                raise ConfigError(f"{key}: '${{{name[:60]}}}' refers to an unknown key{hint}")
            target = target[part]
        if isinstance(target, dict | list | tuple) or (isinstance(target, str) and "${" in target):
            raise ConfigError(f"{key}: '${{{name}}}' must refer to a plain value")


def _strings(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _strings(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _strings(value, f"{key}[{index}]")
    elif isinstance(tree, str) and "${" in tree:
        yield key, tree


def _plain(value: Any) -> Any:
    """Dataclass values as YAML holds them: lists for tuples, `${` escaped for OmegaConf."""
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value)
    return value
