"""Arms from the command line: `--arm`, and the product of the `--vary` axes.

An `--arm` names a combination of settings; all of them together are one more axis of the product.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from rlagents.errors import ConfigError

LONGEST_NAME = 120
RESERVED = ("ablation.yaml", "table.md", "table.json", "plot.png", "tensorboard")
"""What else stands in the folder of an ablation."""

_KEY = r"[^\W\d]\w*(?:\.[\w/-]+)*="
# An override ends at a space before the next `key=`; quoted strings are read as wholes.
_SETTING = re.compile(
    rf"""(?:(?<=[=\[{{,:\s])(?:"(?:[^"\\]|\\.)*"|'[^']*')|\S|\s(?!\s*{_KEY}))+""", re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One configuration under comparison."""

    name: str
    overrides: tuple[str, ...] = ()
    """On top of the file and of the overrides that all arms share."""

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.=+,-]", "_", self.name)


def arms_of(arms: Sequence[str], vary: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of `--arm` and `--vary`; one, `base`, without any.

    Args:
        arms: `NAME: key=value key2=value2` each.
        vary: `key=a,b` each.

    Raises:
        ConfigError: for what can't be read, and for names that meet in one folder.
    """
    axes = [_axis(text) for text in vary]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--vary {key}: given twice; one takes all values: {key}=A,B")
    choices = [[_named(text) for text in arms]] if arms else []
    choices += [
        [Arm(name=_label(key, keys, value), overrides=(f"{key}={value}",)) for value in values]
        for key, values in axes
    ]
    made: list[Arm] = []
    for parts in itertools.product(*choices):
        name = " ".join(part.name for part in parts) or "base"
        given = [text.partition("=")[0] for part in parts for text in part.overrides]
        for key in keys:
            if given.count(key) > 1:
                raise ConfigError(f"arm {name!r}: {key} is given by --arm and by --vary")
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"arm {name[:40] + '...'!r}: expected a name of at most {LONGEST_NAME} characters, "
                f"got {len(name)}; --arm 'NAME: key=value ...' gives a short one"
            )
        made.append(Arm(name=name, overrides=tuple(o for part in parts for o in part.overrides)))
    folders: dict[str, str] = {}
    for arm in made:
        if arm.folder in RESERVED:
            raise ConfigError(
                f"--arm {arm.name!r}: expected another name, this one is a file of ours"
            )
        if arm.folder in folders:
            raise ConfigError(f"arms {folders[arm.folder]!r} and {arm.name!r}: the same name twice")
        folders[arm.folder] = arm.name
    return tuple(made)


def seeds_of(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers.

    Raises:
        ConfigError: for anything else, and for one number twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
        raise ConfigError(f"--seeds: expected whole numbers such as 0,1,2, got {text[:200]!r}")
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds: expected different numbers, got {text[:200]!r}")
    return numbers


def tags_of(report: Sequence[str]) -> tuple[str, ...]:
    """The tags of `--report policy/entropy,policy/grad_norm`, each once.

    Raises:
        ConfigError: where one is empty. Which tags there are, only finished runs know.
    """
    tags = [tag.strip() for text in report for tag in text.split(",")]
    if not all(tags):
        got = ", ".join(repr(text[:200]) for text in report)
        raise ConfigError(f"--report: expected tags such as policy/entropy, got {got}")
    return tuple(dict.fromkeys(tags))


def _axis(text: str) -> tuple[str, list[str]]:
    """`key=A,B` as the key and the texts of the values, split where YAML splits a list."""
    key, equals, values = text.partition("=")
    if not (equals and re.fullmatch(_KEY, key + "=")):
        raise ConfigError(f"--vary {text[:200]!r}: expected section.key=A,B")
    listed = f"[{values}]"
    try:
        node = yaml.compose(listed, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "expected values such as A,B"
        raise ConfigError(f"--vary {key}: not a list of YAML values: {problem}") from None
    if not (isinstance(node, yaml.SequenceNode) and node.end_mark.index == len(listed)):
        raise ConfigError(f"--vary {key}: expected values such as A,B, got {values[:200]!r}")
    if not node.value:
        raise ConfigError(f"--vary {key}: expected at least one value, got none")
    return key, [listed[v.start_mark.index : v.end_mark.index].strip() for v in node.value]


def _named(text: str) -> Arm:
    name, colon, rest = text.partition(":")
    if not (colon and re.fullmatch(r"\w[\w .=+,/-]*", name.strip())):
        form = "'NAME: key=value ...' with a plain name"
        raise ConfigError(f"--arm {text[:200]!r}: expected {form}")
    found = (match.group().strip() for match in _SETTING.finditer(rest))
    return Arm(name=name.strip(), overrides=tuple(setting for setting in found if setting))


def _label(key: str, keys: Sequence[str], value: str) -> str:
    """`lr=0.001`: as little of the key as tells it from the others that vary."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        short = ".".join(parts[-count:])
        if not any(k != key and f".{k}".endswith(f".{short}") for k in keys):
            break
    return f"{short}={value.strip(chr(39) + chr(34))}"
