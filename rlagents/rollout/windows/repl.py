"""The REPL of `strategy: recursive`: a sandboxed Python with an input and calls to the policy.

What a block of code may use, after Recursive Language Models (arXiv 2512.24601):

    context                     the input, a str
    llm_query(prompt)           -> str, an answer of the policy, which sees nothing but the prompt
    llm_query_batched(prompts)  -> list[str], in order
    rlm_query, rlm_query_batched
                                the same by a policy with a REPL of its own for a long prompt
    answer                      {"content": "", "ready": False}; made ready it is the answer

A call that fails gives a text that begins with `Error: `, an item of a batch like any other. These
names are put back before every block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlagents.envs.sandbox import Question, Result, Sandbox, Session
from rlagents.errors import SandboxBroken

START_S = 30.0
"""Seconds that a Python may take to start and to read its input."""

LIBRARY = r"""
PROMPT, CONTENT = 200_000, 100_000
kept = {"context": ""}

def call(verb, prompt):
    if not isinstance(prompt, str):
        return f"Error: a prompt must be a str, got {type(prompt).__name__}"
    if len(prompt) > PROMPT:
        return f"Error: a prompt of {len(prompt):,} characters; at most {PROMPT:,} can be sent"
    return ask(verb + "\n" + prompt)

def llm_query(prompt):
    return call("llm", prompt)

def llm_query_batched(prompts):
    return [call("llm", prompt) for prompt in prompts]

def rlm_query(prompt):
    return call("rlm", prompt)

def rlm_query_batched(prompts):
    return [call("rlm", prompt) for prompt in prompts]

def before(space):
    said = ask("enter\n")
    if said:
        kept.update(context=said[1:], answer=unready())
    space.update(kept)

def after(space):
    answer = space.get("answer")
    lost = [n for n in kept if n != "answer" and space.get(n) is not kept[n]]
    lost += [] if isinstance(answer, dict) else ["answer"]
    ready, content = False, ""
    try:
        if isinstance(answer, dict) and answer.get("ready"):
            content, ready = str(answer.get("content", ""))[:CONTENT], True
            kept["answer"] = unready()
    except Exception as error:
        print(f"answer: {type(error).__name__}: {error}")
        kept["answer"] = unready()
    ask("\n".join(["leave", " ".join(lost), "01"[ready], content]))

def unready():
    return {"content": "", "ready": False}

for function in (llm_query, llm_query_batched, rlm_query, rlm_query_batched):
    kept[function.__name__] = function
kept["answer"] = unready()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The code calls the policy, and waits."""

    prompt: str
    recursive: bool
    """By `rlm_query`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What came of a block of code."""

    output: str
    """What it printed, and in brackets what else there is to know."""
    ready: str | None
    """The content of the answer, where the block said that it is ready."""
    failed: bool
    """An exception, a limit, a lost REPL, or a name that was taken away."""
    restarted: bool
    """The REPL has lost its state."""


class Repl:
    """Runs blocks of code. One that does not survive its block begins anew with the next."""

    def __init__(self, box: Callable[[], Sandbox]) -> None:
        """`box` gives the sandbox; it is asked for with the first block."""
        self._box = box
        self._session: Session | None = None
        self._context = ""
        self._news = ""
        """What the REPL is to be told when the next block begins."""
        self._lost: list[str] = []
        self._ready: str | None = None

    def put(self, context: str) -> None:
        """Make a text the variable `context`, from the next block on."""
        self._context = context
        self._news = "=" + context

    def run(self, code: str) -> Call | Block:
        """Run a block, up to its first call or its end.

        Raises:
            SandboxBroken: the sandbox failed.
        """
        session = self._started()
        self._lost, self._ready = [], None
        return self._follow(session, session.begin(code))

    def answer(self, text: str) -> Call | Block:
        """Answer the call that the block waits with.

        Raises:
            SandboxBroken: the sandbox failed.
        """
        assert self._session is not None
        return self._follow(self._session, self._session.answer(text))

    def close(self) -> None:
        """End it. Twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _started(self) -> Session:
        if self._session is None:
            self._news = "=" + self._context
            session = self._session = self._box().repl(LIBRARY)
            begun = self._follow(session, session.begin("", wall_s=START_S))
            if isinstance(begun, Call) or begun.failed:
                raise SandboxBroken(f"starting a REPL: {begun}")
        return self._session

    def _follow(self, session: Session, said: Result | Question) -> Call | Block:
        """Answer what the library asks for itself; what it says is the agent's word."""
        while isinstance(said, Question):
            verb, _, rest = said.text.partition("\n")
            if verb in ("llm", "rlm"):
                return Call(prompt=rest, recursive=verb == "rlm")
            reply = ""
            if verb == "enter":
                reply, self._news = self._news, ""
            elif verb == "leave":
                lost, ready, content = [*rest.split("\n", 2), "", ""][:3]
                self._lost = [name for name in lost.split(" ") if name.isidentifier()][:8]
                self._ready = content if ready == "1" else None
            said = session.answer(reply)
        return self._block(said)

    def _block(self, result: Result) -> Block:
        notes: list[str] = []
        if result.limit is not None or result.signal is not None:
            notes.append(result.describe())
        if result.ended:
            self.close()
            notes.append("the REPL begins anew: its variables are gone")
        elif self._lost:
            notes.append(f"put back: {', '.join(self._lost)}")
        shown = [result.output.strip(), *(f"[{note}]" for note in notes)]
        return Block(
            output="\n".join(part for part in shown if part) or "[no output]",
            ready=None if result.ended or result.limit is not None else self._ready,
            failed=not result.ok or result.ended or bool(self._lost),
            restarted=result.ended,
        )
