"""Run an agent's code so that nothing of it gets out. Usable alone; `Sandbox` is the way in."""

from rlagents.envs.sandbox.box import Sandbox
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.files import Entry, UnsafeFile
from rlagents.envs.sandbox.result import Result, Snapshot, Starved
from rlagents.envs.sandbox.session import Question, Session

__all__ = [
    "Entry",
    "Question",
    "Result",
    "Sandbox",
    "SandboxConfig",
    "Session",
    "Snapshot",
    "Starved",
    "UnsafeFile",
]
