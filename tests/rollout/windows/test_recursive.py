"""A REPL for what no window holds: what the root sees, what calls cost, what code can't break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.algos.configs import AlgoConfig, CreditConfig
from rlagents.algos.crediting import credits_of
from rlagents.algos.shaping import Moments
from rlagents.build import make_worker
from rlagents.config import (
    ContextSection,
    PolicySection,
    RecursiveSection,
    RolloutSection,
    RunConfig,
)
from rlagents.data.batches import credited_segments
from rlagents.data.segments import segments_of
from rlagents.envs.lab.needle import Needle
from rlagents.envs.sandbox import Sandbox, choice
from rlagents.errors import ConfigError, SandboxBroken
from rlagents.load import load
from rlagents.policy.sampler import SampleRequest, Sampling
from rlagents.rollout.actors import PolicyActor, ScriptedActor
from rlagents.rollout.context import Prompt, Step
from rlagents.rollout.episode import Progress, run_episode
from rlagents.rollout.windows.recursive import RecursiveWindow, code_of, final_of
from rlagents.types import Group, ScoredGroup, StopReason, Task, Trajectory, TurnKind
from tests.rollout import toys
from tests.rollout.properties import (
    CHATS,
    LIMITS,
    Drawn,
    answers,
    assert_dropped,
    assert_exact,
    assert_repeats,
    play,
    sections,
    spoken,
    texts,
)

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}")

ACTION, CODE, CALL = TurnKind.ACTION, TurnKind.CODE, TurnKind.CALL
CHAT, RESERVE = CHATS["bytes"], 200
NEEDLE = Path(__file__).resolve().parents[3] / "experiments" / "needle.yaml"
SANDBOX = {"memory_mb": 96, "wall_s": 1.0, "output_max_mb": 4}
LONG = "a line\n" * 3000

Open = Callable[..., "Driven"]


class Driven:
    """A window, and what it says to one answer after the other."""

    def __init__(self, **recursive: Any) -> None:
        section = ContextSection(
            strategy="recursive",
            window=2048,
            recursive=RecursiveSection(**{"sandbox": SANDBOX, **recursive}),
        )
        self.window = RecursiveWindow(CHAT, section, RESERVE)

    def observe(self, text: str) -> Prompt:
        prompt = self.window.observe(text)
        assert prompt is not None
        return prompt

    def say(self, *said: str) -> Step:
        """What came of the last of these answers."""
        return [self.window.act(CHAT.encode_action(text), text) for text in said][-1]

    def shown(self, *said: str) -> str:
        """What the policy is shown after it."""
        prompt = self.say(*said).prompt
        assert prompt is not None
        return prompt.observation


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[Driven] = []

    def open_one(**recursive: Any) -> Driven:
        made.append(Driven(**recursive))
        return made[-1]

    yield open_one
    for driven in made:
        driven.window.close()
        driven.window.close()


# The needle: the same root context whatever the length.


def needle(policy: str, characters: int, seed: int = 0) -> Trajectory:
    """An episode of a scripted policy with the window of `experiments/needle.yaml`."""
    config = load(str(NEEDLE), training=False)
    env = Needle(characters=characters)

    def actor(_: Any) -> ScriptedActor:
        act = env.scripted[policy](env, np.random.default_rng(seed))
        window = RecursiveWindow(CHAT, config.context, config.policy.max_tokens)
        return ScriptedActor(act, window, CHAT.encode_action)

    progress = Progress(key=toys.key(), task=Task(env_id="toy", seed=seed))
    return run_episode(progress, lambda task: env, actor, LIMITS)


def root_tokens(trajectory: Trajectory) -> int:
    turns = [turn for turn in trajectory.turns if turn.kind is not CALL]
    return sum(len(turn.observation_ids) + len(turn.action_ids) for turn in turns)


def longest_context(trajectory: Trajectory) -> int:
    nothing = np.zeros(len(trajectory.turns), np.float32)
    return max(map(len, segments_of(trajectory, nothing, label=0)))


def test_a_needle_in_200_000_characters_costs_the_root_what_it_costs_in_2_000() -> None:
    played = {n: needle("recursive", n) for n in (2_000, 20_000, 200_000)}
    for trajectory in played.values():
        assert (trajectory.stop, trajectory.episode_return) == (StopReason.TERMINATED, 1.0)
        assert [turn.kind for turn in trajectory.turns] == [CODE, ACTION]
        assert longest_context(trajectory) <= 256
    tokens = [root_tokens(trajectory) for trajectory in played.values()]
    assert max(tokens) <= 1.05 * min(tokens)


def test_1_430_calls_read_200_000_characters_and_none_enters_the_root() -> None:
    few, many = needle("calls", 2_000), needle("calls", 200_000)
    for trajectory, calls in ((few, 15), (many, 1430)):
        assert trajectory.episode_return == 1.0
        kinds = [turn.kind for turn in trajectory.turns]
        assert abs(kinds.count(CALL) - calls) <= 1
        assert [kind for kind in kinds if kind is not CALL] == [CODE, CODE, CODE, ACTION]
        assert longest_context(trajectory) <= 256
    assert root_tokens(many) <= 1.05 * root_tokens(few)


def test_what_a_window_shows_is_not_enough() -> None:
    assert [needle("truncated", 20_000, seed).episode_return for seed in range(5)] == [0.0] * 5


# What the policy is shown, and what its answers mean.


def test_a_long_observation_is_a_variable_and_a_short_one_is_shown(opened: Open) -> None:
    driven = opened()
    prompt = driven.observe(LONG + "What is the last line?")
    assert prompt.observation.startswith("context: str, len 21,022\na line\na line")
    assert prompt.observation.endswith("a line\nWhat is the last line?")
    # A quarter of the window.
    assert len(CHAT.observation_ids(prompt.observation)) == 512 == len(prompt.prompt_ids)
    assert driven.shown(">>>len(context), context[-22:]") == "(21022, 'What is the last line?')"
    assert driven.say("a line").text == "a line"
    assert driven.observe("short").observation == "short"
    assert driven.shown(">>> len(context)") == "21022"
    driven.say("x")
    assert driven.observe("n" * 600).observation.startswith("context: str, len 600\nnnn")
    assert driven.shown(">>>context == 600 * 'n'") == "True"


def test_code_answers_and_finals() -> None:
    assert (
        code_of("Let me see.\n```repl\nx = 1\n```\nand\n```repl \ny = 2\n```") == "x = 1\n\ny = 2\n"
    )
    assert code_of(">>>1") == code_of("\n>>> 1") == "1"
    assert code_of("FINAL_VAR(found)") == "answer.update(content=found, ready=True)"
    assert code_of('so\n  FINAL_VAR("x1")') == "answer.update(content=x1, ready=True)"
    for plain in ("48213", "```python\n1\n```", "say >>> 1", "FINAL(>>>)", "FINAL_VAR(a b)", ""):
        assert code_of(plain) is None
    assert "no end" in str(code_of("```repl\nx = 1"))
    assert final_of("I think\nFINAL(a (b) c)") == "a (b) c"
    assert final_of("no FINAL(x) inside") == "no FINAL(x) inside"
    assert final_of(") FINAL\nFINAL(no end") == ") FINAL\nFINAL(no end"


def test_200_000_characters_that_almost_end_are_read_once() -> None:
    """Rules that begin anew in each line took a minute for these."""
    for almost in ("FINAL(\n", "FINAL_VAR(\n", " \n", "\n", "FINAL_VAR(" + " " * 99):
        text = almost * (200_000 // len(almost))
        assert (code_of(text), final_of(text)) == (None, text)
    assert final_of("FINAL(\n" * 28_000 + ")") == "\n" + "FINAL(\n" * 27_999


def test_output_is_what_was_printed_clipped_in_the_middle(opened: Open) -> None:
    driven = opened(output=100)
    driven.observe("go")
    assert driven.shown(">>>x = 1") == "[no output]"
    long = driven.shown("```repl\nprint('a' * 500 + 'z' * 500)\n```")
    assert long.startswith("aaa") and long.endswith("zzz") and "characters left out" in long
    assert len(long) <= 100
    assert driven.shown("```repl\nnever closed").endswith("SyntaxError: the block has no end")
    tiny = opened(output=9)
    tiny.observe("go")
    assert tiny.shown(">>>print('0123456789abcdef')") == "789abcdef"


def test_an_answer_that_is_ready_goes_to_the_environment(opened: Open) -> None:
    driven = opened()
    driven.observe(LONG)
    step = driven.say(">>>answer['content'] = len(context); answer['ready'] = True")
    assert (step.kind, step.text, step.prompt) == (ACTION, "21000", None)
    driven.observe("next")
    assert driven.shown(">>>answer") == "{'content': '', 'ready': False}"
    assert driven.say(">>>answer = {'content': 'é', 'ready': 1}").text == "é"
    driven.observe("next")
    assert driven.say(">>>found = [7]", "FINAL_VAR(found)").text == "[7]"
    driven.observe("next")
    step = driven.say("FINAL_VAR(nothing)")
    assert step.kind is CODE and "NameError" in step.prompt.observation  # type: ignore[union-attr]
    assert driven.say("FINAL(so)").text == "so"


def test_an_answer_that_is_ready_after_calls_is_given_next(opened: Open) -> None:
    driven = opened()
    driven.observe("go")
    assert driven.shown(">>>answer['content'] = llm_query('q'); answer['ready'] = True") == "q"
    step = driven.say("from the call")
    assert step.kind is CALL and step.prompt is not None
    assert step.prompt.observation == "[answer ready]"
    assert driven.say("whatever").text == "from the call"
    # More code instead takes it back.
    driven.observe("go")
    driven.say(">>>answer['content'] = llm_query('q'); answer['ready'] = True", "one")
    assert driven.shown(">>>answer['content']") == "''"
    assert driven.say("two").text == "two"


# Calls.


def test_a_call_has_a_context_of_its_own(opened: Open) -> None:
    driven = opened()
    root = driven.observe("go")
    step = driven.say(">>>[llm_query('one'), llm_query('two')]")
    first = step.prompt
    assert step.kind is CODE and first is not None
    assert (first.context, first.branch, first.observation) == (1, "#1", "one")
    assert first.prompt_ids.tolist() == CHAT.observation_ids("one").tolist()
    step = driven.say("1")
    second = step.prompt
    assert step.kind is CALL and second is not None
    assert (second.context, second.branch, second.observation) == (2, "#2", "two")
    step = driven.say("2")
    back = step.prompt
    assert step.kind is CALL and back is not None
    assert (back.context, back.branch, back.observation) == (0, "", "['1', '2']")
    assert root.prompt_ids.tolist() == back.prompt_ids[: len(root.prompt_ids)].tolist()


def test_a_batch_with_a_failure_keeps_order_and_length(opened: Open) -> None:
    driven = opened()
    driven.observe("go")
    assert driven.shown(">>>r = llm_query_batched(['a', 5, 'c'])") == "a"
    assert driven.shown("A") == "c"
    driven.say("C")
    assert driven.shown(">>>r") == "['A', 'Error: a prompt must be a str, got int', 'C']"


def test_odd_prompts(opened: Open) -> None:
    driven = opened()
    driven.observe("go")
    assert driven.shown(">>>a = llm_query('\\udcff\\x00é')") == "?\x00é"
    assert driven.shown("\ufffd<|end|>") == "[no output]"
    assert driven.shown(">>>a") == "'\ufffd<|end|>'"
    assert driven.shown(">>>llm_query(None)").endswith(
        "Error: a prompt must be a str, got NoneType'"
    )
    assert "at most 200,000" in driven.shown(">>>llm_query('x' * 10**6)")
    # One that only the window is too small for is clipped: head, mark and tail.
    prompt = driven.say(">>>len(llm_query('x' * 10**5))").prompt
    assert prompt is not None and len(prompt.prompt_ids) == 2048 - RESERVE
    assert "characters left out" in prompt.observation
    assert driven.shown("ok") == "2"


def test_calls_and_blocks_have_budgets(opened: Open) -> None:
    driven = opened(calls=2, turns=2)
    driven.observe("go")
    driven.say(">>>r = [llm_query(str(n)) for n in range(4)]", "a")
    assert driven.shown("b") == "[no output]"
    left = "'Error: no calls are left, all 2 are used'"
    assert driven.shown(">>>r") == f"['a', 'b', {left}, {left}]"
    step = driven.say(">>>r")
    assert (step.kind, step.text) == (ACTION, ">>>r")
    driven.observe("go")  # blocks are counted from action to action, calls are not
    assert driven.shown(">>>llm_query('x')") == left


def test_a_million_calls_end_with_the_time_of_the_block(opened: Open) -> None:
    driven = opened(calls=1)
    driven.observe("go")
    driven.say(">>>for n in range(10**7): r = llm_query('a')")
    assert "[ended by the limit wall_s]" in driven.shown("b")
    assert driven.shown(">>>r[:6], n > 0") == "('Error:', True)"


def test_depth_gives_a_callee_a_repl_and_falls_back_to_a_plain_call(opened: Open) -> None:
    driven = opened(depth=2)
    driven.observe(LONG)
    step = driven.say(">>>rlm_query_batched([context[:3000], 'short'])")
    child = step.prompt
    assert child is not None and (child.context, child.branch) == (1, "#1")
    assert child.observation.startswith("context: str, len 3,000\n")
    step = driven.say(">>>x = rlm_query('deeper'); len(context)")
    assert step.kind is CALL and step.prompt is not None
    assert (step.prompt.context, step.prompt.branch) == (2, "#2")
    # At the last level code is only text.
    step = driven.say(">>>1/0")
    assert step.kind is CALL and step.prompt is not None
    assert (step.prompt.context, step.prompt.observation) == (1, "3000")
    step = driven.say("FINAL_VAR(x)")
    assert step.kind is CALL and step.prompt is not None
    assert (step.prompt.context, step.prompt.observation) == (3, "short")
    assert driven.shown("FINAL(done)") == "['>>>1/0', 'done']"
    flat = opened(depth=1)
    flat.observe(LONG)
    assert flat.shown(">>>rlm_query('x')", ">>>1/0") == "'>>>1/0'"


class Releasing(Drawn):
    """Notes what is released, and after how many samples."""

    def __init__(self, *said: str) -> None:
        super().__init__(spoken(CHAT, *said))
        self.freed: list[tuple[int, str]] = []

    def release(self, conversation: str) -> None:
        self.freed.append((len(self.requests), conversation))


def test_a_callee_keeps_its_cache_until_it_has_answered() -> None:
    sampler = Releasing(
        ">>>rlm_query('a'), llm_query('b')", ">>>llm_query('c')", "c", ">>>llm_query('d')", "d",
        "from a", "b", "done",
    )  # fmt: skip
    section = ContextSection(
        strategy="recursive", window=2048, recursive=RecursiveSection(depth=2, sandbox=SANDBOX)
    )
    actor = PolicyActor(
        sampler,
        RecursiveWindow(CHAT, section, RESERVE),
        Sampling(max_tokens=RESERVE),
        key=toys.key(),
        base_seed=0,
        timeout_s=5,
        conversation="e",
    )
    action = actor.act("go")
    while action is not None and action.kind is not ACTION:
        action = actor.proceed()
    actor.close()
    said = [request.conversation for request in sampler.requests]
    assert said == ["e", "e#1", "e#2", "e#1", "e#3", "e#1", "e#4", "e"]
    assert sampler.freed == [(3, "e#2"), (5, "e#3"), (6, "e#1"), (7, "e#4"), (8, "e")]


def test_an_episode_and_its_calls_are_cached_at_full_concurrency() -> None:
    """With `deterministic` no cache is dropped: two episodes have six contexts open at depth 2."""
    config = RunConfig(
        context=ContextSection(
            strategy="recursive", window=64, recursive=RecursiveSection(depth=2, sandbox=SANDBOX)
        ),
        policy=PolicySection(max_tokens=1),
        rollout=RolloutSection(concurrency=2, deterministic=True),
    )
    engine = make_worker(config)._sampler
    assert engine is not None
    try:
        for branch in ("a", "a#1", "a#2", "b", "b#1", "b#2"):
            request = SampleRequest(
                conversation=branch,
                prompt_ids=CHAT.observation_ids("go"),
                sampling=Sampling(max_tokens=1),
                seed=1,
            )
            assert len(engine.sample(request).result(timeout=60).ids) == 1
    finally:
        engine.close()


def test_a_callee_with_too_many_blocks_answers_with_its_code(opened: Open) -> None:
    driven = opened(depth=2, turns=1)
    driven.observe("go")
    assert driven.shown(">>>rlm_query('x')", ">>>y = 1", ">>>y") == "'>>>y'"


# What code can't break.


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True: pass", "[ended by the limit wall_s]"),
        ("x = []\nwhile True: x.append(bytearray(10**7))", "Memory"),
        ("x = b'x' * 2**28", "[ended by the limit memory_mb]"),
        ("while True: print('x' * 1000)", "[ended by the limit output_max_mb]"),
        ("import os; os._exit(3)", "[the REPL begins anew: its variables are gone]"),
        ("exit()", "[the REPL begins anew: its variables are gone]"),
        ("import os\nwhile True: os.fork()", "["),
        ("import os\nfor _ in range(2): pid = os.fork()", "[no output]"),
        ("import os; os.closerange(3, 64)", "[the REPL begins anew: its variables are gone]"),
        ("import os, sys; os.write(int(sys.argv[2]), b'?9999999\\n')", "begins anew"),
        ("def f(): f()\nf()", "RecursionError"),
        ("print('a' * 10**7)", "output_max_mb"),
        ("context = llm_query = answer = 5", "[put back: context, llm_query, answer]"),
        ("del context, answer", "[put back: context, answer]"),
        ("globals().clear()", "[put back: "),
        ("answer.update(ready=1, content=type('A', (), {'__str__': 5})())", "answer: TypeError: "),
        ("answer['ready'] = type('A', (), {'__bool__': 5})()", "answer: TypeError: "),
        ("import builtins; builtins.str = 5", ""),
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", "wall_s"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys; sys.stdout.close()", ""),
    ],
)
def test_what_code_does_to_its_repl_is_told_and_the_next_block_works(
    opened: Open, code: str, said: str
) -> None:
    driven = opened()
    driven.observe(LONG)
    step = driven.say(f">>>{code}")
    assert step.kind is CODE and step.prompt is not None
    memory = said == "Memory"  # whichever is first: the limit of one process, or of all
    shown = step.prompt.observation
    assert ("memory_mb" in shown or "MemoryError" in shown) if memory else said in shown
    if "builtins.str" in code or "stdout.close" in code:
        driven.say(">>>import os; os._exit(0)")  # it has spoiled its own Python
    # Copies by fork may still write what became of them.
    assert "(21000, False)" in driven.shown(">>>len(context), answer['ready']")
    assert driven.shown(">>>llm_query('alive')") == "alive"
    assert "'yes'" in driven.shown("yes")


def test_a_block_that_never_ends_after_a_call_is_told_too(opened: Open) -> None:
    driven = opened()
    driven.observe("go")
    driven.say(">>>llm_query('a')\nwhile True: pass")
    assert "[ended by the limit wall_s]" in driven.shown("A")
    driven.say(">>>llm_query('a'); import os; os._exit(0)")
    assert "begins anew" in driven.shown("A")


def test_a_window_can_be_closed_while_code_waits(opened: Open) -> None:
    driven = opened(depth=2)
    driven.observe("go")
    driven.say(">>>rlm_query('a')", ">>>llm_query('b')")
    driven.window.close()


def test_a_sandbox_that_breaks_ends_the_episode_as_its_failure() -> None:
    class Breaks(RecursiveWindow):
        def _opened(self) -> Sandbox:
            raise SandboxBroken("no room for a workspace")

    section = ContextSection(strategy="recursive")
    actor = ScriptedActor(lambda _: ">>>1", Breaks(CHAT, section, RESERVE), CHAT.encode_action)
    env = toys.Script(["go", "end"])
    trajectory = run_episode(toys.progress(), lambda task: env, lambda env: actor, LIMITS)
    assert trajectory.stop is StopReason.ENVIRONMENT_ERROR and trajectory.error is not None
    assert trajectory.error.boundary == "sandbox"


def test_wrong_settings_of_the_sandbox_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"^context.recursive.sandbox.memroy_mb: unknown key"):
        Driven(sandbox={"memroy_mb": 3})


# What is trained.

blocks = st.sampled_from(
    [
        ">>>len(context)",
        ">>>x=llm_query('a')",
        ">>>print(*llm_query_batched('ab'))",
        ">>>rlm_query('b'*150)",
        ">>>1/0",
        ">>>context=1",
        ">>>answer.update(ready=1)",
        ">>>exit()",
        "```repl\nprint(set('abc'))```",
        "FINAL_VAR(context)",
        "FINAL(ok)",
    ]
)


@pytest.mark.parametrize("name", ["bytes", "bpe, system"])
@settings(max_examples=12, deadline=None)
@given(data=st.data(), depth=st.integers(1, 3), budget=st.integers(0, 6))
def test_every_answer_is_trained_once_under_the_context_it_was_sampled_in(
    name: str, data: st.DataObject, depth: int, budget: int
) -> None:
    chat, reserve = CHATS[name], 40
    recursive = RecursiveSection(
        turns=3, calls=budget, depth=depth, output=60, sandbox={"memory_mb": 96}
    )
    section = data.draw(sections("recursive", least=180, recursive=recursive))
    observations = data.draw(st.lists(texts, min_size=1, max_size=4))
    said = answers(chat, reserve, blocks | blocks | texts)
    played = play(
        RecursiveWindow(chat, section, reserve),
        observations,
        lambda request: data.draw(said),
        reserve=reserve,
    )
    assert_exact(played, limit=section.window)
    assert_dropped(played, chat)
    assert_repeats(played, RecursiveWindow(chat, section, reserve))
    kinds = [turn.kind for turn in played.trajectory.turns]
    assert set(kinds) <= {ACTION, CODE, CALL}
    conversations = {prompt.branch for prompt in played.prompts} - {""}
    assert len(conversations) <= budget
    for turn, prompt in zip(played.trajectory.turns, played.prompts, strict=True):
        assert (turn.kind is CALL) == bool(prompt.branch)


@pytest.mark.parametrize("sub_calls", [False, True])
def test_calls_get_gradient_only_on_demand(sub_calls: bool) -> None:
    section = ContextSection(
        strategy="recursive", window=2048, recursive=RecursiveSection(depth=2, sandbox=SANDBOX)
    )

    def member() -> Trajectory:
        answer = spoken(CHAT, ">>>r=rlm_query('q')", ">>>llm_query('deep')", "d", "c", "done")
        played = play(RecursiveWindow(CHAT, section, RESERVE), ["go"], answer, reserve=RESERVE)
        assert [turn.kind for turn in played.trajectory.turns] == [CODE, CALL, CALL, CALL, ACTION]
        return played.trajectory

    group = Group(task=toys.job().task, trajectories=(member(), member()))
    scored = ScoredGroup(group=group, scores=np.array([0, 1], np.float32))
    config = AlgoConfig(credit=CreditConfig(sub_calls=sub_calls))
    segments = credited_segments([scored], credits_of(config, [scored], Moments()))
    assert {segment.source[1] for segment in segments} == ({0, 1, 2} if sub_calls else {0})
    assert all(segment.loss_mask.any() for segment in segments)
