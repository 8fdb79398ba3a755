"""How trajectories get the number they are ranked by: returns, judges, tournaments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlagents.algos.configs import require

JUDGED = ("pointwise", "tournament")
"""Values of `scoring.name` that ask a judge."""

TopologyName = Literal[
    "round_robin",
    "anchor",
    "seeded_single_elimination",
    "double_elimination",
    "swiss",
    "seeded_margins",
    "active",
]
RewardName = Literal["standing", "rank", "win_rate", "bradley_terry", "margin"]


@dataclass(frozen=True, kw_only=True)
class TournamentSection:
    """`scoring.name: tournament`: members of a group are compared in pairs (ArenaRL)."""

    topology: TopologyName = "active"
    """Who meets whom, and what becomes of it (`rlagents.algos.tournaments`)."""
    matches: int = 0
    """`active`: matches a group; 0 is 2N - 2, as many as `seeded_single_elimination`, and no more
    than there are pairs."""
    rounds: int = 0
    """`swiss`: rounds; 0 is ceil(log2 N) + 1."""
    rewards: RewardName = "standing"
    """What a member's score is made of: the topology's own (`standing`), the quantile of its rank,
    its share of wins, a Bradley-Terry fit of wins, or a fit of margins."""
    prior: float = 1.0
    """Weight of the prior in fits, in matches against an average member."""
    min_matches: float = 0.5
    """Share of the matches that must have a verdict; with fewer the group has no scores. It also
    holds for each member's own: with fewer this one has none."""
    totals: bool = False
    """`seeded_margins`, `active`: also use what both marks come to together: more accurate where
    nobody can make a judge generous (see experiments/results/tournaments.md), but a transcript that
    talks its judge into full marks for both gains by it."""

    def __post_init__(self) -> None:
        require(self.matches >= 0, "scoring.tournament.matches", self.matches, "0 or more")
        require(self.rounds >= 0, "scoring.tournament.rounds", self.rounds, "0 or more")
        require(self.prior > 0, "scoring.tournament.prior", self.prior, "above 0")
        require(
            0 <= self.min_matches <= 1,
            "scoring.tournament.min_matches",
            self.min_matches,
            "between 0 and 1",
        )


@dataclass(frozen=True, kw_only=True)
class JudgeSection:
    """One judge. What an agent wrote is shown to it as data, never as an instruction."""

    backend: Literal["endpoint", "model", "policy", "function", "simulated"] = "endpoint"
    """Who answers: an entry of `endpoints`; a Hugging Face model in this process; the policy
    itself, under its newest weights; a function of yours; or a `simulated` judge that sees the
    environment's return through noise, to study scoring with."""
    endpoint: str = ""
    """Name of an entry of `endpoints`; empty: the only one."""
    model: str = ""
    """`backend: model`: a Hugging Face folder or name."""
    function: str | None = None
    """`backend: function`: `module:name` of a function of (question, first, second) -> two numbers;
    with `scoring.name: pointwise` of (question, candidate) -> a number."""
    form: Literal["rubric", "refeval", "refmatch"] = "rubric"
    """`rubric`: marks out of 10 by `rubric`, for both. `refeval`, `refmatch`: which is better, with
    the reference as an example, or as what to come near; the margin is of label probabilities."""
    rubric: str = "default"
    """Name of a rubric that comes with rlagents, or a YAML file with your own."""
    transcript_chars: int = 24_000
    """Of each trajectory that the judge is shown, at most; shared out over its turns."""
    tool_results: bool = True
    """Show what the environment answered, not only what the agent did."""
    repeats: int = 1
    """`scoring.name: pointwise`: calls for each trajectory, averaged; of a judge that is asked only
    with a `temperature`, since its answers are the same otherwise."""
    window: int = 0
    """`backend: model` or `policy`: tokens of a question and its answer; 0 is `context.window`. A
    question that is longer has no answer; room for one without any transcript must be there."""
    max_tokens: int = 512
    """Of a judge's answer."""
    temperature: float = 0.0
    cache: str | None = None
    """`backend: endpoint` or `model`: a file with earlier answers, by content; what is in it is not
    asked again."""
    concurrency: int = 16
    """Calls of it at once."""
    call_timeout_s: float = 120.0
    """Of one call with its retries, at most `scoring.timeout_s`; a call without an answer is a
    missing match."""
    noise: float = 1.0
    """`backend: simulated`: standard deviation of a mark."""
    drift: float = 0.0
    """Likewise of what every mark of a call is shifted by."""
    position_bias: float = 0.3
    """What the trajectory that is shown first gets on top."""
    scale: float = 1.0
    """Marks a unit of the environment's return."""
    failures: float = 0.0
    """Share of calls that fail."""
    latency_s: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether it is a language model, that is asked in words."""
        return self.backend in ("endpoint", "model", "policy")

    def __post_init__(self) -> None:
        require(self.window >= 0, "scoring.judge.window", self.window, "0 or more")
        for name in ("transcript_chars", "repeats", "max_tokens", "concurrency"):
            value = getattr(self, name)
            require(value >= 1, f"scoring.judge.{name}", value, "1 or more")
        for name in ("noise", "drift", "temperature", "latency_s"):
            value = getattr(self, name)
            require(value >= 0, f"scoring.judge.{name}", value, "0 or more")
        require(
            self.call_timeout_s > 0, "scoring.judge.call_timeout_s", self.call_timeout_s, "above 0"
        )
        require(self.scale > 0, "scoring.judge.scale", self.scale, "above 0")
        require(0 <= self.failures <= 1, "scoring.judge.failures", self.failures, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ScoringSection:
    """How trajectories get the number they are ranked by."""

    name: Literal["return", "function", "pointwise", "tournament"] = "return"
    """`return`: the sum of the environment's rewards. `function`: your own. `pointwise`: a judge's
    mark of each. `tournament`: a judge compares members of a group in pairs. With the latter two
    held-out scores are the environment's returns."""
    function: str | None = None
    """`module:name` of a function (Group) -> [G] numbers, NaN where a member has none. It runs in
    this process, in `concurrency` threads, beside the rollouts. In an evaluation a group has one
    member: a score that compares members says nothing there."""
    tournament: TournamentSection = field(default_factory=TournamentSection)
    judge: JudgeSection = field(default_factory=JudgeSection)
    panel: tuple[JudgeSection, ...] = ()
    """Further judges, asked beside `judge`: margins are the mean over all that answered in both
    orders, marks over those that answered for everybody."""
    outage_iterations: int = 0
    """Iterations in a row without any verdict after which a run stops; 0 never does."""
    concurrency: int = 4
    """Groups that are scored at once."""
    queue: int = 64
    """While so many groups wait for their scores, no new ones are started."""
    timeout_s: float = 300.0
    """Of one group. Judges' calls without an answer by then are missing; another scorer without an
    answer gives no scores."""

    def __post_init__(self) -> None:
        require(self.concurrency >= 1, "scoring.concurrency", self.concurrency, "1 or more")
        require(self.queue >= 1, "scoring.queue", self.queue, "1 or more")
        require(self.timeout_s > 0, "scoring.timeout_s", self.timeout_s, "above 0")
        require(
            self.outage_iterations >= 0,
            "scoring.outage_iterations",
            self.outage_iterations,
            "0 or more",
        )
        require(
            self.name != "function" or self.function is not None,
            "scoring.function",
            self.function,
            "module:name with scoring.name: function",
        )

    @property
    def judged(self) -> bool:
        """Whether a judge is asked."""
        return self.name in JUDGED

    @property
    def judges(self) -> tuple[JudgeSection, ...]:
        """All of the panel."""
        return (self.judge, *self.panel)

    @property
    def keyed_judges(self) -> tuple[tuple[str, JudgeSection], ...]:
        """All of the panel, each with the full key of its section."""
        panel = ((f"scoring.panel[{i}]", judge) for i, judge in enumerate(self.panel))
        return (("scoring.judge", self.judge), *panel)
