"""The folders that programs in `strict` and `user` see, put together once for a workspace.

Each bind costs bubblewrap a third of a millisecond a command; as one tree they cost that once.
"""

from __future__ import annotations

import os

from rlagents.envs.sandbox import interpreter
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.namespaces import ROOT, Plan
from rlagents.envs.sandbox.tiers.base import WORKSPACE
from rlagents.errors import SandboxBroken

_ABOVE = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into /usr on most systems, folders on others."""


def plan(config: SandboxConfig) -> Plan:
    """The tree: /usr, what programs need of /etc, the interpreter, packages, what is offered.

    Raises:
        ConfigError: a package is not installed.
        SandboxBroken: something offered does not exist.
    """
    folders = [f"{ROOT}{path}" for path in ("/proc", "/dev", "/tmp", WORKSPACE)]
    links = [path for path in _ABOVE if os.path.islink(path)]
    plain = [path for path in _ABOVE if os.path.isdir(path) and path not in links]
    wanted = ["/usr", *plain, "/etc/ld.so.cache", "/etc/alternatives"]
    binds = [(path, ROOT + path) for path in wanted if os.path.exists(path)]
    if (prefix := interpreter.prefix()) is not None:
        binds.append((prefix, ROOT + prefix))
    for number, hidden in enumerate(interpreter.hidden_dirs()):
        folders.append(f"hidden/{number}")
        binds.append((f"hidden/{number}", ROOT + hidden))
    binds += [(source, ROOT + inside) for source, inside in offered(config) if inside != prefix]
    return Plan(binds=tuple(binds), folders=tuple(folders), links=tuple(links), etc=f"{ROOT}/etc")


def offered(config: SandboxConfig) -> list[tuple[str, str]]:
    """(on the host, inside) of everything read-only that depends on us or the configuration.

    Raises:
        ConfigError: a package is not installed.
        SandboxBroken: something offered does not exist.
    """
    binds = []
    if (prefix := interpreter.prefix()) is not None:
        binds.append((prefix, prefix))
    binds += interpreter.package_paths(tuple(config.packages))
    for inside, source in config.readonly.items():
        if not os.path.exists(source):
            raise SandboxBroken(f"sandbox.readonly: {source} does not exist")
        binds.append((os.path.realpath(source), inside))
    return binds
