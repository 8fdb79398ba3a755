"""The policy and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlagents.algos.configs import require
from rlagents.config.run import is_path


@dataclass(frozen=True, kw_only=True)
class TinySection:
    """Sizes of the embedded default model, a Qwen3-style causal LM over bytes."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 192
    """Width of the feed-forward layer."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "mlp"):
            value = getattr(self, name)
            require(value >= 1, f"policy.tiny.{name}", value, "1 or more")
        require(
            self.width % self.heads == 0 and (self.width // self.heads) % 2 == 0,
            "policy.tiny.heads",
            self.heads,
            f"a number that divides policy.tiny.width ({self.width}) into even parts",
        )
        require(
            self.heads % self.kv_heads == 0,
            "policy.tiny.kv_heads",
            self.kv_heads,
            f"a divisor of policy.tiny.heads ({self.heads})",
        )


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """The policy and how it is sampled."""

    model: str = "tiny"
    """`tiny`, or a Hugging Face folder or name (safetensors only, no remote code)."""
    tiny: TinySection = field(default_factory=TinySection)
    """Only for `model: tiny`."""
    system: str = ""
    """System message at the head of every conversation."""
    history: Literal["keep", "template"] = "keep"
    """`keep` never changes what was sampled. `template` lets a chat template rewrite history (some
    strip earlier thinking): each rewrite opens a new context."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Below 1 in evaluation only: trained rollouts need the full distribution."""
    max_tokens: int = 64
    """Sampled tokens a turn."""
    stop: tuple[str, ...] = ()
    """Strings that end an action. The environment does not see them; training does."""
    fp32_head: bool = True
    """With `learner.dtype: bfloat16`, sampling computes logits in fp32 all the same, as the learner
    always does."""

    def __post_init__(self) -> None:
        require(is_path(self.model), "policy.model", self.model, "tiny, a folder or a model's name")
        require(self.temperature > 0, "policy.temperature", self.temperature, "above 0")
        require(0 < self.top_p <= 1, "policy.top_p", self.top_p, "above 0, at most 1")
        require(self.max_tokens >= 1, "policy.max_tokens", self.max_tokens, "1 or more")
        require(all(self.stop), "policy.stop", self.stop, "strings that are not empty")
