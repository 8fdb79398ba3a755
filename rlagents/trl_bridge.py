"""Any of our environments under TRL's `GRPOTrainer`, many turns an episode, token for token.

    config = load("x.yaml", ["context.strategy=full"])
    with TrlBridge(config) as bridge:
        trainer = GRPOTrainer(
            model=bridge.model,
            processing_class=bridge.tokenizer,
            reward_funcs=bridge.reward,
            rollout_func=bridge.rollout,
            train_dataset=bridge.tasks(256),
            args=GRPOConfig(...),
        )
        trainer.train()

TRL has two doors for environments. `environment_factory` makes tools of an environment's methods,
which the model calls by a tool-calling chat template inside TRL's own generation: an environment
that speaks text, and our limits, time-outs and workers, have no place there. `rollout_func` leaves
the whole episode to us: it gets prompts and the trainer, and returns ids. So a row of the dataset
is the name of a task, the episode is played by our rollout workers under the trainer's weights of
that moment, and what comes back is

    prompt_ids       the tokens before the first action
    completion_ids   the rest of the episode: actions and the observations between them
    env_mask         1 on sampled tokens, 0 on observations, which get no gradient
    logprobs         of sampled tokens, as they were recorded; 0 on observations

A completion is one context, hence `context.strategy: full`: an episode ends where the window does.

What TRL does with it differs from our own training in this:

- Its ratio is taken to log-probabilities of its own forward pass. The recorded ones serve its
  off-policy mask; its sampler correction runs with vLLM only.
- A completion is cut, for it, where the last token is no end of turn. An episode has better
  reasons, so `mask_truncated_completions` is refused.
- `loss_type="dr_grpo"` divides by `max_completion_length`, which otherwise has no effect here.
- `beta` above 0 reads the reference from `policy.model`, which can't be `tiny` then.

Of the configuration, `run.seed`, `env`, `policy`, `context` and `rollout` (but not how many groups
of which size) count, with `learner.device` and `learner.dtype` for the engine; the rest is TRL's.
The reward is the sum of the environment's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from datasets import Dataset

from rlagents import build
from rlagents.config import RunConfig
from rlagents.data.segments import segments_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, RlagentsError
from rlagents.policy import models
from rlagents.rollout.watch import Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, Task, Trajectory

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer


class TrlBridge:
    """What a `GRPOTrainer` needs to train on an environment of ours. See the module's text.

    Args:
        config: with `context.strategy: full`.
        notify: told of long waits and of workers that died.

    Raises:
        ConfigError: for a context strategy that cuts, and as `rlagents train` does.
    """

    def __init__(self, config: RunConfig, notify: Callable[[str], None] = print) -> None:
        if config.context.strategy != "full":
            raise ConfigError(
                "context.strategy: expected full (a completion of TRL's is one context), "
                f"got {config.context.strategy!r}"
            )
        self.config = config
        self.model, self.tokenizer = models.load(
            config.policy, seed=config.run.seed, window=config.context.window
        )
        """For the trainer: fp32, on the CPU. The engine has a copy of its own."""
        if config.league.plays:
            raise ConfigError(
                "league.opponents: TRL plays one seat against the environment's own players; "
                f"expected none, got {list(config.league.opponents)}"
            )
        self._source = TaskSource(config.env, config.run.seed, config.league)
        self._tasks: dict[str, Task] = {}
        self._calls = 0
        device = str(models.resolve_device(config.learner.device))
        self._pool = build.make_pool(config, device=device, notify=notify)
        self._watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=notify, check=lambda: None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers. May be called twice."""
        self._pool.close()

    def tasks(self, count: int) -> Dataset:
        """Training tasks, one a row: `train_dataset`. `env.train_tasks` come round again."""
        known = self.config.env.train_tasks
        indices = [index % known if known else None for index in range(count)]
        return self._dataset([self._source.train(0, n, index) for n, index in enumerate(indices)])

    def held_out(self, count: int) -> Dataset:
        """The run's held-out tasks, one a row: `eval_dataset`."""
        return self._dataset([self._source.held_out(index) for index in range(count)])

    def rollout(self, prompts: Sequence[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Play one episode for each prompt under the trainer's weights: `rollout_func`.

        Args:
            prompts: rows of `tasks` or `held_out`, this process's part of the batch; members of a
                group stand side by side.
            trainer: whose model plays.

        Raises:
            ConfigError: for an unknown row, and for settings of the trainer that don't fit.
            RlagentsError: when every single episode failed.
        """
        self._check(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        self._pool.load(weights, trainer.state.global_step)
        jobs = self._jobs(prompts, trainer, model.training)
        played = {t.key: t for t in run_all(self._pool, jobs, self._watch)}
        trajectories = [played[job.key] for job in jobs]
        if all(t.stop.failed for t in trajectories):
            error = trajectories[0].error
            raise RlagentsError(
                f"all {len(jobs)} episodes failed; the first with: "
                f"{f'{error.boundary}: {error.message}' if error else trajectories[0].stop.value}"
            )
        columns: defaultdict[str, list[Any]] = defaultdict(list)
        for trajectory in trajectories:
            for name, value in self._completion(trajectory).items():
                columns[name].append(value)
        return dict(columns)

    def reward(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        score: Sequence[float | None],
        metrics: Sequence[Mapping[str, float]],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """The scores of the episodes just played: `reward_funcs`.

        None, which TRL leaves out of the group's statistics, where an episode failed. The means of
        the episodes' metrics go into the trainer's log.
        """
        if log_metric is not None:
            for name in sorted({name for one in metrics for name in one}):
                log_metric(name, float(np.mean([one[name] for one in metrics if name in one])))
        return list(score)

    def _dataset(self, tasks: Sequence[Task]) -> Dataset:
        self._tasks |= {task.task_id: task for task in tasks}
        return Dataset.from_dict({"prompt": [task.task_id for task in tasks]})

    def _check(self, trainer: GRPOTrainer) -> None:
        """Refuse what would train something else than what was sampled."""
        if trainer.temperature != self.config.policy.temperature:
            raise ConfigError(
                f"policy.temperature: expected that of the trainer ({trainer.temperature:g}), "
                f"got {self.config.policy.temperature:g}"
            )
        if trainer.mask_truncated_completions:
            raise ConfigError(
                "mask_truncated_completions: expected False (an episode is not cut where its last "
                "token is no end of turn), got True"
            )

    def _jobs(self, prompts: Sequence[str], trainer: GRPOTrainer, training: bool) -> list[Job]:
        """One a prompt. Evaluations draw the same numbers each time, as ours do."""
        unknown = [prompt for prompt in prompts if prompt not in self._tasks]
        if unknown:
            raise ConfigError(
                "train_dataset: expected rows of TrlBridge.tasks or TrlBridge.held_out, "
                f"got the prompt {unknown[0]!r}"
            )
        size = trainer.num_generations if training else trainer.num_generations_eval
        first = trainer.accelerator.process_index * len(prompts)
        self._calls += 1
        return [
            Job(
                key=EpisodeKey(
                    stream="train" if training else "eval/trl",
                    iteration=self._calls,
                    group=(first + index) // size,
                    member=(first + index) % size,
                ),
                task=self._tasks[prompt],
                sampling=(build.sampling_of if training else build.eval_sampling_of)(self.config),
            )
            for index, prompt in enumerate(prompts)
        ]

    def _completion(self, trajectory: Trajectory) -> dict[str, Any]:
        """One episode as TRL wants it, and what `reward` needs of it.

        Raises:
            ConfigError: where a template has rewritten history and so opened another context.
        """
        failed, turns = trajectory.stop.failed, trajectory.turns
        known = {
            "score": None if failed else trajectory.episode_return,
            "metrics": {"turns": float(len(turns)), **trajectory.metrics},
        }
        if not turns:  # TRL needs a token; the mask keeps it out of everything
            end = self.tokenizer.eos_token_id
            ids = {"prompt_ids": [end], "completion_ids": [end]}
            return {**ids, "logprobs": [0.0], "env_mask": [0], **known}
        if trajectory.contexts > 1:
            raise ConfigError(
                "policy.history: expected keep (a completion of TRL's is one context), got an "
                f"episode of {trajectory.contexts} contexts"
            )
        nothing = np.zeros(len(turns), np.float32)
        (segment,) = segments_of(trajectory, nothing, label=0, gradient=not failed)
        start = len(turns[0].observation_ids)
        return {
            "prompt_ids": segment.token_ids[:start].tolist(),
            "completion_ids": segment.token_ids[start:].tolist(),
            "logprobs": segment.behaviour_logprobs[start:].tolist(),
            "env_mask": segment.loss_mask[start:].astype(int).tolist(),
            **known,
        }
