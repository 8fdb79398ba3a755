"""rlagents: reinforcement learning of long-horizon language-model agents, from one YAML."""

__version__ = "0.1.0"
