"""Our environments under TRL's `GRPOTrainer`: it is given what was sampled, and learns from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rlagents.config import RunConfig
from rlagents.envs.spaces import UnicodeText
from rlagents.errors import ConfigError, RlagentsError
from rlagents.load import load
from rlagents.trl_bridge import TrlBridge

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

TURNS, GROUP, ROWS, STEPS = 10, 16, 128, 7
ENV = f"{__name__}:test/Higher-v0"


class Higher(gymnasium.Env[str, str]):
    """See a digit, answer with a higher one; `broken` of the tasks raise in their third turn."""

    observation_space = action_space = UnicodeText()

    def __init__(self, broken: float = 0.0) -> None:
        self.broken = broken

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.breaks = self.np_random.random() < self.broken
        self.turn = 0
        return self.show(), {}

    def show(self) -> str:
        self.digit = str(self.np_random.integers(0, 9))
        return self.digit

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        if self.breaks and self.turn == 3:
            raise OSError("the door is stuck")
        right = higher(action, self.digit)
        done = self.turn == TURNS
        return self.show(), right / TURNS, done, False, {"metrics": {"right": float(right)}}


def higher(action: str, digit: str) -> bool:
    return action[:1] in tuple("123456789") and action[:1] > digit


gymnasium.register("test/Higher-v0", Higher)


def config_of(*overrides: str) -> RunConfig:
    settings = [
        f"env.id={ENV}",
        "policy.max_tokens=1",
        "context={window: 64, strategy: full}",
    ]
    return load(None, [*settings, *overrides])


def trainer_of(
    bridge: TrlBridge, folder: Path, kind: type[GRPOTrainer] = GRPOTrainer, **arguments: Any
) -> GRPOTrainer:
    rollout = arguments.pop("rollout_func", bridge.rollout)
    settings = {
        "per_device_train_batch_size": ROWS,
        "num_generations": GROUP,
        "num_generations_eval": 2,
        "max_steps": STEPS,
        "learning_rate": 4e-3,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
    }
    return kind(
        model=bridge.model,
        processing_class=bridge.tokenizer,
        reward_funcs=bridge.reward,
        rollout_func=rollout,
        train_dataset=bridge.tasks(256),
        eval_dataset=bridge.held_out(8),
        args=GRPOConfig(output_dir=str(folder), **{**settings, **arguments}),
    )


@dataclass
class Trained:
    bridge: TrlBridge
    trainer: GRPOTrainer
    before: dict[str, torch.Tensor]
    played: list[dict[str, list[Any]]] = field(default_factory=list)
    """What each call of `rollout` gave the trainer."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with TrlBridge(config_of()) as bridge:
        played: list[dict[str, list[Any]]] = []

        def rollout(prompts: Sequence[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
            played.append(bridge.rollout(prompts, trainer))
            return played[-1]

        trainer = trainer_of(bridge, tmp_path_factory.mktemp("trl"), rollout_func=rollout)
        before = {name: p.detach().clone() for name, p in bridge.model.named_parameters()}
        trainer.train()
        yield Trained(bridge=bridge, trainer=trainer, before=before, played=played)


def score_of(bridge: TrlBridge, row: int, played: dict[str, list[Any]]) -> float:
    """The score of an episode, worked out from its ids alone."""
    ids = played["prompt_ids"][row] + played["completion_ids"][row]
    mask = [0] * len(played["prompt_ids"][row]) + played["env_mask"][row]
    text = lambda part: bridge.tokenizer.decode(part, skip_special_tokens=True)  # noqa: E731
    starts = [i for i in range(1, len(ids)) if mask[i] and not mask[i - 1]]
    stops = [next((j for j in range(i, len(ids)) if not mask[j]), len(ids)) for i in starts]
    turns = [(text(ids[:i])[-1], text(ids[i:j])) for i, j in zip(starts, stops, strict=True)]
    assert len(turns) == TURNS
    return sum(higher(action, digit) for digit, action in turns) / TURNS


def test_training_moves_the_weights_and_raises_the_reward(trained: Trained) -> None:
    after = dict(trained.trainer.model.named_parameters())
    assert all(not torch.equal(after[name].detach(), old) for name, old in trained.before.items())
    log = [line for line in trained.trainer.state.log_history if "reward" in line]
    rewards = [float(line["reward"]) for line in log]
    assert len(rewards) == STEPS == len(trained.played)
    assert rewards[0] < 0.1 and rewards[-1] > 0.3


def test_the_rewards_are_what_the_environment_said(trained: Trained) -> None:
    log = [line for line in trained.trainer.state.log_history if "reward" in line]
    for line, played in zip(log, trained.played, strict=True):
        scores = [score_of(trained.bridge, row, played) for row in range(ROWS)]
        assert played["score"] == pytest.approx(scores)
        assert float(line["rewards/reward/mean"]) == pytest.approx(np.mean(scores), abs=1e-3)
        assert float(line["turns"]) == TURNS
        assert 0 <= float(line["env/right"]) <= 1


def test_members_of_a_group_attempt_the_same_task_on_their_own(trained: Trained) -> None:
    ids = trained.played[0]["prompt_ids"]
    groups = [ids[first : first + GROUP] for first in range(0, ROWS, GROUP)]
    assert all(len({tuple(prompt) for prompt in group}) == 1 for group in groups)
    assert len({tuple(completion) for completion in trained.played[0]["completion_ids"]}) == ROWS
    first, second = (p["completion_ids"] for p in trained.played[:2])
    assert first != second


def test_ids_and_logprobs_are_those_of_the_trainers_weights_of_now(trained: Trained) -> None:
    rows = trained.bridge.tasks(4)["prompt"]
    played = trained.bridge.rollout([row for row in rows for _ in range(GROUP)], trained.trainer)
    model = trained.trainer.model.eval()
    for row in range(4 * GROUP):
        start = len(played["prompt_ids"][row])
        ids = torch.tensor([played["prompt_ids"][row] + played["completion_ids"][row]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        found = logprobs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
        mask = torch.tensor(played["env_mask"][row])
        torch.testing.assert_close(
            torch.tensor(played["logprobs"][row]), found * mask, atol=1e-4, rtol=0
        )


def test_evaluations_repeat_on_held_out_tasks(trained: Trained) -> None:
    trained.played.clear()
    first, second = (trained.trainer.evaluate()["eval_reward"] for _ in range(2))
    assert first == second
    assert not set(trained.bridge.tasks(256)["prompt"]) & set(trained.bridge.held_out(8)["prompt"])


class Watched(GRPOTrainer):
    """Keeps the log-probabilities that the loss is computed from."""

    logprobs: torch.Tensor

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        self.logprobs, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self.logprobs.requires_grad:
            self.logprobs.retain_grad()
        return self.logprobs, *rest


def test_observations_get_no_gradient_and_actions_do(tmp_path: Path) -> None:
    with TrlBridge(config_of()) as bridge:
        trainer = trainer_of(bridge, tmp_path, Watched)
        assert isinstance(trainer, Watched)
        prompts = [p for p in bridge.tasks(4)["prompt"] for _ in range(GROUP)]
        trainer.model.eval()
        inputs = trainer._generate_and_score_completions([{"prompt": p} for p in prompts])
        # Chance rewards would leave some groups flat.
        inputs["advantages"] = torch.linspace(-1, 1, len(prompts))
        trainer._compute_loss(trainer.model, inputs).backward()
        slope = trainer.logprobs.grad
        assert slope is not None
        trained = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        assert 0 < trained.sum() < inputs["completion_mask"].sum()  # observations stand between
        assert bool((slope[trained] != 0).all()) and bool((slope[~trained] == 0).all())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_failed_episode_has_no_reward_and_no_gradient(tmp_path: Path, share: float) -> None:
    with TrlBridge(config_of(f"env.kwargs={{broken: {share}}}")) as bridge:
        trainer = trainer_of(bridge, tmp_path)
        prompts = [p for p in bridge.tasks(8)["prompt"] for _ in range(2)]
        if share == 1:
            with pytest.raises(RlagentsError, match="all 16 episodes failed; .*the door is stuck"):
                bridge.rollout(prompts, trainer)
            return
        played = bridge.rollout(prompts, trainer)
        lost = [score is None for score in played["score"]]
        assert 0 < sum(lost) < len(lost)
        for failed, mask in zip(lost, played["env_mask"], strict=True):
            assert (sum(mask) == 0) == failed
        assert bridge.reward([], [], score=played["score"], metrics=[]) == played["score"]


def test_an_episode_without_a_turn_is_a_masked_row(tmp_path: Path) -> None:
    # The first observation and what may be sampled do not fit into the window.
    with TrlBridge(config_of("policy.max_tokens=63")) as bridge:
        trainer = trainer_of(bridge, tmp_path)
        played = bridge.rollout(bridge.tasks(1)["prompt"], trainer)
    assert played["env_mask"] == [[0]] and played["score"] == [0.0]
    assert played["metrics"][0]["turns"] == 0


def test_every_process_plays_its_own_part_of_the_groups(tmp_path: Path) -> None:
    def played(process: int, part: slice) -> list[list[int]]:
        with TrlBridge(config_of("rollout.deterministic=true")) as bridge:
            prompts = [p for p in bridge.tasks(3)["prompt"] for _ in range(4)]
            trainer: Any = SimpleNamespace(
                model=bridge.model.train(),
                accelerator=SimpleNamespace(process_index=process, unwrap_model=lambda m: m),
                state=SimpleNamespace(global_step=0),
                temperature=1.0,
                mask_truncated_completions=False,
                num_generations=4,
                num_generations_eval=4,
            )
            return bridge.rollout(prompts[part], trainer)["completion_ids"]

    whole = played(0, slice(None))
    assert played(0, slice(0, 6)) + played(1, slice(6, 12)) == whole


def test_a_fixed_set_of_tasks_comes_round_again() -> None:
    with TrlBridge(config_of("env.train_tasks=3")) as bridge:
        names = bridge.tasks(7)["prompt"]
        assert names[:3] == names[3:6] and len(set(names)) == 3
        assert bridge.held_out(3)["prompt"] == bridge.held_out(4)["prompt"][:3]


def test_what_trl_cannot_represent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"context\.strategy: expected full .*'pinned_window'"):
        TrlBridge(config_of("context.strategy=pinned_window"))
    with TrlBridge(config_of()) as bridge:
        prompts = bridge.tasks(1)["prompt"]
        with pytest.raises(ConfigError, match=r"policy\.temperature: .*\(0\.5\), got 1"):
            bridge.rollout(prompts, trainer_of(bridge, tmp_path, temperature=0.5))
        with pytest.raises(ConfigError, match="mask_truncated_completions"):
            bridge.rollout(prompts, trainer_of(bridge, tmp_path, mask_truncated_completions=True))
        with pytest.raises(ConfigError, match=r"TrlBridge\.tasks .* got the prompt 'hello'"):
            bridge.rollout(["hello"], trainer_of(bridge, tmp_path))
    # Random bytes are no UTF-8, so rendering the history as text again changes its ids.
    with TrlBridge(config_of("policy.history=template")) as bridge:
        trainer = trainer_of(bridge, tmp_path)
        with pytest.raises(ConfigError, match=r"policy\.history: expected keep .* of \d contexts"):
            bridge.rollout(bridge.tasks(4)["prompt"], trainer)
