"""A REPL for what no window holds: what the root sees, what calls cost, what code can't break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlagents.envs  # noqa: F401
from rlagents.algos.configs import AlgoConfig
from rlagents.algos.crediting import Credit, credit_of
from rlagents.config import ContextSection, RecursiveSection
from rlagents.data.segments import segments_of
from rlagents.envs.sandbox import choice
from rlagents.errors import ConfigError, SandboxBroken
from rlagents.load import load
from rlagents.rollout.actors import ScriptedActor
from rlagents.rollout.context import Prompt, Step
from rlagents.rollout.episode import run_episode
from rlagents.rollout.windows.recursive import RecursiveWindow, code_of, final_of
from rlagents.types import StopReason, Task, Trajectory, TurnKind
from tests.rollout import toys
from tests.rollout.properties import (
    CHATS,
    LIMITS,
    answers,
    assert_dropped,
    assert_exact,
    assert_repeats,
    play,
    sections,
    spoken,
    texts,
)
