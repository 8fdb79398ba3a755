"""Games of several seats, as PettingZoo AEC environments with text in and text out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.spaces import UnicodeText
from rlagents.errors import ConfigError

try:
    from pettingzoo import AECEnv
except ModuleNotFoundError as missing:
    raise ConfigError(
        "environments with several seats need PettingZoo: pip install 'rlagents[arena]'"
    ) from missing

Act = Callable[[str], str]
"""A scripted player in one game: observation -> action."""


class Game(AECEnv[str, str, str | None], ABC):
    """A turn-based game with text in and text out: the bookkeeping of PettingZoo's AEC API.

    A subclass draws a game (`_draw`), answers the action of the agent whose turn it is (`_answer`),
    says what each agent sees (`observe`) and counts (`_metrics`). Agents are called `player_0`,
    `player_1`, ... in order of seats. Every text is an action: a game says itself what a senseless
    one costs. A game must end by itself after a bounded number of actions, and `observe` must show
    an agent nothing that is hidden from it.

    `infos[agent]` holds `metrics` and, where the subclass defines them, `potential` (a promise) and
    `reference` (a good answer, for judges): of this agent alone.
    """

    scripted: ClassVar[Mapping[str, Callable[[Any, str, np.random.Generator], Act]]] = {}
    """Scripted players: name -> factory(game, agent, rng) -> act. Made after `reset`."""

    def __init__(self, *, seats: int, observation_limit: int) -> None:
        super().__init__()
        self.metadata = {"name": type(self).__name__, "render_modes": []}
        self.possible_agents = [f"player_{seat}" for seat in range(seats)]
        agents = self.possible_agents
        self._sees = {agent: UnicodeText(observation_limit) for agent in agents}
        self._says = {agent: UnicodeText() for agent in agents}
        self.rng = np.random.default_rng(0)
        self.agents = []

    def observation_space(self, agent: str) -> UnicodeText:
        return self._sees[agent]

    def action_space(self, agent: str) -> UnicodeText:
        return self._says[agent]

    def seat(self, agent: str) -> int:
        """Number of an agent's seat, from 0."""
        return self.possible_agents.index(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Draw a game from the seed alone; without a seed the next one of the stream.

        `options` are ignored: PettingZoo's own tests hand some to every environment.
        """
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.agent_selection = self.agents[0]
        self._skip_agent_selection = None
        self._draw()
        self._inform()

    def step(self, action: str | None) -> None:
        """Answer the selected agent's action; None, and only that, for an agent that is done.

        Raises:
            TypeError: when an agent that is not done says no string.
            ValueError: when one that is done says something.
        """
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        if not isinstance(action, str):
            raise TypeError(f"action of {agent}: expected a string, got {type(action).__name__}")
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards[agent] = 0.0
        following = self._answer(agent, action.strip())
        if following is None:
            self.terminations = dict.fromkeys(self.agents, True)
        else:
            self.agent_selection = following
        self._accumulate_rewards()
        self._inform()
        self._deads_step_first()

    def _inform(self) -> None:
        self.infos = {agent: self._info(agent) for agent in self.agents}

    def _info(self, agent: str) -> dict[str, Any]:
        """What `infos` says to one agent; a subclass may add `potential` or `reference`."""
        return {"metrics": self._metrics(agent)}

    @abstractmethod
    def _draw(self) -> None:
        """Draw a game with `self.rng`; `self.agent_selection` is seat 0 unless set here."""

    @abstractmethod
    def _answer(self, agent: str, action: str) -> str | None:
        """Change the game by a stripped action and pay by `self.rewards[agent] += ...`.

        Returns:
            The agent whose turn is next; None when the game is over for all. An agent that is out
            alone is marked in `self.terminations`.
        """

    @abstractmethod
    def observe(self, agent: str) -> str:
        """What the agent sees now, at its turn or after the end."""

    @abstractmethod
    def _metrics(self, agent: str) -> dict[str, float]:
        """Counts of the game so far, as the agent may know them."""
