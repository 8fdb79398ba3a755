from __future__ import annotations

import gzip
import json
import logging
import math
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest

from rlagents.config import EndpointSection
from rlagents.errors import ConfigError, JudgeError
from rlagents.policy.asking import Ask
from rlagents.policy.endpoint import Endpoint
from rlagents.policy.endpoints import Endpoints
from tests.policy.loopback import Call, Script, completion, serving

NAME = "default"
KEY = "sk-very-secret-0123456789"
ASK = Ask(messages=(("system", "be brief"), ("user", "hello")), max_tokens=8, seed=5)


def section(url: str = "http://127.0.0.1:9/v1", **changes: Any) -> EndpointSection:
    fields: dict[str, Any] = {"url": url, "model": "m", "timeout_s": 5.0, "retries": 3}
    return EndpointSection(**{**fields, **changes})


@contextmanager
def opened(
    script: Script, *, concurrency: int = 4, deadline_s: float | None = None, **changes: Any
) -> Iterator[tuple[Endpoint, list[Call]]]:
    """An endpoint at a server that answers by the script, and the calls that reached it."""
    with serving(script) as server:
        endpoint = Endpoint(
            section(server.url, **changes), concurrency=concurrency, deadline_s=deadline_s
        )
        try:
            yield endpoint, server.calls
        finally:
            endpoint.close()


def fine(call: Call) -> None:
    call.json(completion())


def after(faults: int, fault: Callable[[Call], None]) -> Script:
    """So many faults, then an answer."""
    return lambda call: fault(call) if call.number <= faults else fine(call)


def test_an_answer_with_its_tokens_and_cost() -> None:
    with opened(fine, price_in=2.0, price_out=10.0) as (endpoint, calls):
        reply = endpoint.ask(ASK)
        assert (reply.text, reply.prompt_tokens, reply.sampled_tokens) == ("fine", 3, 2)
        assert reply.cost == pytest.approx((3 * 2 + 2 * 10) / 1e6)
        assert endpoint.spent == reply.cost
        assert (endpoint.calls, endpoint.failures, endpoint.retried) == (1, 0, 0)
        assert calls[0].body == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hello"},
            ],
            "temperature": 0.0,
            "seed": 5,
            "max_tokens": 8,
        }


def test_tokens_that_are_not_counted_are_estimated() -> None:
    body = completion("x" * 9, usage=None)
    with opened(lambda call: call.json(body), price_in=1.0) as (endpoint, _):
        reply = endpoint.ask(ASK)
    # 4 bytes a token, rounded up: 8 / 4 + ceil(5 / 4) in, ceil(9 / 4) out.
    assert (reply.prompt_tokens, reply.sampled_tokens) == (4, 3)
    assert reply.cost == pytest.approx(4e-6)


def refuse(status: int, **headers: str) -> Callable[[Call], None]:
    return lambda call: call.json({"error": {"message": "no"}}, status, **headers)


PASSING: dict[str, Callable[[Call], None]] = {
    "429": refuse(429, Retry_After="0.01"),
    "429 with a date": refuse(429, Retry_After=formatdate(0, usegmt=True)),
    "429 with nonsense": refuse(429, Retry_After="soon"),
    "500": refuse(500),
    "503": refuse(503),
    "reset": Call.reset,
    "cut off": lambda call: call.cut_off(b'{"choices"', 1000),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_what_may_pass_is_tried_again(fault: Callable[[Call], None]) -> None:
    with opened(after(1, fault)) as (endpoint, calls):
        assert endpoint.ask(ASK).text == "fine"
        assert (len(calls), endpoint.retried, endpoint.failures) == (2, 1, 0)


def test_as_often_as_configured() -> None:
    with opened(refuse(503, Retry_After="0.01"), retries=2) as (endpoint, calls):
        with pytest.raises(JudgeError, match="HTTP 503"):
            endpoint.ask(ASK)
        assert (len(calls), endpoint.retried, endpoint.failures) == (3, 2, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_plain_no_is_final(status: int) -> None:
    with opened(refuse(status)) as (endpoint, calls):
        with pytest.raises(JudgeError, match=f"HTTP {status}: .*no"):
            endpoint.ask(ASK)
        assert len(calls) == 1


def test_a_pause_longer_than_the_deadline_is_not_begun() -> None:
    with opened(refuse(429, Retry_After="3600"), deadline_s=60.0) as (endpoint, calls):
        with pytest.raises(JudgeError, match="HTTP 429"):
            endpoint.ask(ASK)
        assert len(calls) == 1


HANGING: dict[str, Callable[[Call], None]] = {
    "silence": Call.silence,
    "headers in drops": lambda call: call.drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "a body in drops": lambda call: call.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
}


@pytest.mark.parametrize("fault", HANGING.values(), ids=HANGING.keys())
def test_an_attempt_ends_at_its_time_wherever_it_hangs(fault: Callable[[Call], None]) -> None:
    with opened(after(1, fault), timeout_s=0.3) as (endpoint, calls):
        assert endpoint.ask(ASK).text == "fine"
        assert len(calls) == 2


def test_a_call_ends_at_the_deadline() -> None:
    with opened(Call.silence, deadline_s=0.3, timeout_s=60.0) as (endpoint, calls):
        with pytest.raises(JudgeError, match=r"no answer within 0\.3 s"):
            endpoint.ask(ASK)
        assert (len(calls), endpoint.failures) == (1, 1)


def with_choices(choices: Any) -> bytes:
    return json.dumps({"choices": choices}).encode()


GARBAGE = {
    "nothing": b"",
    "a page": b"<!doctype html><title>Sign in</title>",
    "cut short": b'{"choices": [{"message": {"content": "a',
    "another type": b"[1, 2]",
    "no choices": with_choices([]),
    "choices that are none": with_choices({"a": 1}),
    "no message": with_choices([{}]),
    "null": with_choices([{"message": {"content": None}}]),
    "a number": with_choices([{"message": {"content": 7}}]),
    "parts": with_choices([{"message": {"content": [{"text": "a"}]}}]),
    "a lone surrogate": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    "not UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "nested without end": b'{"choices": ' + b"[" * 100_000,
    "negative tokens": b'{"choices": [{"message": {"content": "a"}}], '
    b'"usage": {"prompt_tokens": -5}}',
    "endless tokens": b'{"choices": [{"message": {"content": "a"}}], '
    b'"usage": {"prompt_tokens": 1' + b"0" * 400 + b"}}",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_no_answer(body: bytes) -> None:
    with opened(lambda call: call.raw(body)) as (endpoint, calls):
        with pytest.raises(JudgeError, match=r"not a completion|without"):
            endpoint.ask(ASK)
        assert (len(calls), endpoint.failures) == (1, 1)


def test_a_body_without_an_end_is_not_read_to_its_end() -> None:
    with opened(Call.endless) as (endpoint, _), pytest.raises(JudgeError, match="more than"):
        endpoint.ask(ASK)


def test_a_packed_body_is_refused() -> None:
    bomb = gzip.compress(b"x" * 2**24)
    with (
        opened(lambda call: call.raw(bomb, Content_Encoding="gzip")) as (endpoint, calls),
        pytest.raises(JudgeError, match="packed"),
    ):
        endpoint.ask(ASK)
    assert calls[0].headers["accept-encoding"] == "identity"


def test_a_text_that_can_not_be_sent() -> None:
    broken = Ask(messages=(("user", "\ud800"),), max_tokens=1)
    with opened(fine) as (endpoint, calls):
        with pytest.raises(JudgeError, match="Unicode"):
            endpoint.ask(broken)
        assert not calls


LABELS = Ask(messages=ASK.messages, max_tokens=1, labels=("A", "B", "C"))


def test_labels_are_summed_over_their_spellings() -> None:
    top = {"A": math.log(0.5), " A": math.log(0.2), "B": math.log(0.25), "Ah": math.log(0.01)}
    with opened(lambda call: call.json(completion("A", top=top))) as (endpoint, calls):
        logprobs = endpoint.ask(LABELS).label_logprobs
        assert set(logprobs) == {"A", "B"}
        assert logprobs["A"] == pytest.approx(math.log(0.7))
        assert logprobs["B"] == pytest.approx(math.log(0.25))
        assert (calls[0].body["logprobs"], calls[0].body["top_logprobs"]) == (True, 20)


@pytest.mark.parametrize("limit", [5, 0])
def test_as_many_alternatives_as_the_server_gives(limit: int) -> None:
    def script(call: Call) -> None:
        if call.body.get("top_logprobs", 0) > limit:
            call.json({"error": {"message": "top_logprobs"}}, 400)
        else:
            call.json(completion("A", top={"A": -0.5} if limit else None))

    with opened(script) as (endpoint, calls):
        for _ in range(2):
            assert endpoint.ask(LABELS).label_logprobs == ({"A": -0.5} if limit else {})
        asked = [call.body.get("top_logprobs", 0) for call in calls]
        assert asked == ([20, 5, 5] if limit else [20, 5, 0, 0])  # what is refused is known then


def test_a_question_that_is_refused_for_itself_changes_nothing() -> None:
    with opened(lambda call: refuse(400)(call) if call.number <= 3 else fine(call)) as (e, calls):
        with pytest.raises(JudgeError, match="HTTP 400"):
            e.ask(LABELS)
        e.ask(LABELS)
        assert calls[-1].body["top_logprobs"] == 20


def test_the_newer_name_of_the_limit() -> None:
    def script(call: Call) -> None:
        if "max_tokens" in call.body:
            call.json({"error": {"message": "Use 'max_completion_tokens' instead."}}, 400)
        else:
            call.json(completion("A", top={"A": -0.5}))

    with opened(script) as (endpoint, calls):
        assert endpoint.ask(LABELS).label_logprobs == {"A": -0.5}
        endpoint.ask(LABELS)
        assert [c.body.get("max_completion_tokens") for c in calls] == [None, 1, 1]
        assert calls[-1].body["top_logprobs"] == 20


def test_the_newer_name_of_the_limit_for_many_at_once() -> None:
    """All are under way before the first refusal: none takes the others' for its own."""
    together = threading.Barrier(8)

    def script(call: Call) -> None:
        if "max_tokens" in call.body:
            together.wait(timeout=30)
            call.json({"error": {"message": "Use 'max_completion_tokens' instead."}}, 400)
        else:
            call.json(completion("A", top={"A": -0.5}))

    with opened(script, concurrency=8) as (endpoint, calls), ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: endpoint.ask(LABELS), range(8)))
        assert [reply.text for reply in replies] == ["A"] * 8
        assert calls[-1].body["top_logprobs"] == 20


@pytest.mark.parametrize("refused", [("seed",), ("temperature",), ("seed", "temperature")])
def test_what_a_server_refuses_by_name_is_left_out_from_then_on(refused: tuple[str, ...]) -> None:
    def script(call: Call) -> None:
        unknown = [name for name in refused if name in call.body]
        if unknown:
            call.json({"error": {"message": f"Unrecognized argument: {unknown[0]}"}}, 400)
        else:
            call.json(completion("A", top={"A": -0.5}))

    with opened(script) as (endpoint, calls):
        for _ in range(2):
            assert endpoint.ask(LABELS).label_logprobs == {"A": -0.5}
        assert len(calls) == len(refused) + 2
        assert not set(refused) & set(calls[-1].body)
        assert calls[-1].body["top_logprobs"] == 20


def test_a_question_that_is_refused_whatever_is_left_out_changes_nothing() -> None:
    def script(call: Call) -> None:
        if call.number <= 2:
            call.json({"error": {"message": "no seed of doubt: this content is refused"}}, 400)
        else:
            fine(call)

    with opened(script) as (endpoint, calls):
        with pytest.raises(JudgeError, match="HTTP 400"):
            endpoint.ask(ASK)
        endpoint.ask(ASK)
        assert ["seed" in call.body for call in calls] == [True, False, True]


def test_the_cap_is_kept_by_many_threads_at_once() -> None:
    # A call comes to 3 + 2 x 10 = 23 millionths; 4 + 8 x 10 = 84 are set aside for it. From 400
    # a call begins while spent + 84 fits: the last one at 23 x 13 = 299, so that 14 are answered.
    with opened(fine, concurrency=8, price_in=1.0, price_out=10.0, max_cost=400e-6) as (e, calls):

        def answered(_: int) -> bool:
            try:
                return e.ask(ASK).text == "fine"
            except JudgeError as error:
                assert "max_cost 0.0004 is spent" in str(error)
                return False

        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(answered, range(40)))
        assert sum(results) == len(calls) == 14
        assert e.spent == pytest.approx(14 * 23e-6)
        assert (e.calls, e.failures) == (40, 26)


def test_attempts_without_an_answer_may_be_billed_and_count() -> None:
    fault = after(1, Call.silence)
    with opened(fault, timeout_s=0.2, price_out=10.0, max_cost=1.0) as (endpoint, _):
        endpoint.ask(ASK)
        assert endpoint.spent == pytest.approx((8 * 10 + 2 * 10) / 1e6)


def test_a_run_that_goes_on_has_spent_before() -> None:
    with serving(fine) as server:
        endpoint = Endpoint(
            section(server.url, price_out=1.0, max_cost=1.0), concurrency=1, spent=1.0
        )
        with pytest.raises(JudgeError, match="is spent"):
            endpoint.ask(ASK)
        endpoint.close()
        assert server.calls == []


def test_users_of_one_endpoint_share_its_cap() -> None:
    # 3 prompt tokens at 1 each; 8 and 5 bytes, 4 to a token, are set aside as 4: the third
    # call is refused, since 6 + 4 exceeds 9.
    with serving(fine) as server:
        endpoints = Endpoints([section(server.url, price_in=1e6, max_cost=9.0)])
        one, other = (endpoints.line(n, concurrency=1, deadline_s=5, key="x") for n in ("", NAME))
        one.ask(ASK)
        other.ask(ASK)
        assert endpoints.take_exhausted() == []
        with pytest.raises(JudgeError, match="max_cost 9 is spent"):
            one.ask(ASK)
        assert [e.name for e in endpoints.take_exhausted()] == [NAME]
        assert endpoints.take_exhausted() == []  # said once
        assert (one.spent, other.spent, endpoints.spent) == (3.0, 3.0, {NAME: 6.0})
        one.close()
        one.close()
        with pytest.raises(JudgeError, match="is spent"):  # still open for the other
            other.ask(ASK)
        other.close()
        with pytest.raises(JudgeError, match="is closed"):
            other.ask(ASK)
        assert endpoints.spent == {NAME: 6.0}
        again = endpoints.line(NAME, concurrency=1, deadline_s=5, key="x")
        with pytest.raises(JudgeError, match="is spent"):
            again.ask(ASK)
        again.close()
        assert len(server.calls) == 2


def test_what_was_spent_before_counts_and_an_unknown_name_is_refused() -> None:
    endpoints = Endpoints([section()], {NAME: 2.5, "gone": 1.0})
    assert endpoints.spent == {NAME: 2.5, "gone": 1.0}
    endpoints.line("", concurrency=1, deadline_s=5, key="x").close()
    assert endpoints.spent == {NAME: 2.5, "gone": 1.0}
    with pytest.raises(ConfigError, match="my.key: expected the name of an entry"):
        endpoints.line("other", concurrency=1, deadline_s=5, key="my.key")


def test_no_more_calls_at_once_than_configured() -> None:
    lock, gate = threading.Lock(), threading.Barrier(2)
    now, most = 0, 0

    def script(call: Call) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait(10)  # two at once there must be
        with lock:
            now -= 1
        fine(call)

    with opened(script, concurrency=2) as (endpoint, calls), ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(lambda _: endpoint.ask(ASK), range(6)))) == len(calls) == 6
    assert most == 2


def test_closing_ends_what_is_under_way() -> None:
    arrived = threading.Event()

    def script(call: Call) -> None:
        arrived.set()
        call.silence()

    with opened(script, timeout_s=60.0) as (endpoint, _), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(endpoint.ask, ASK)
        assert arrived.wait(10)
        endpoint.close()
        endpoint.close()
        with pytest.raises(JudgeError, match="closed"):
            asked.result(10)
        with pytest.raises(JudgeError, match="closed"):
            endpoint.ask(ASK)


def echo(call: Call) -> None:
    """The worst a server can do with a key: say it."""
    said = call.headers["authorization"]
    bodies: list[Callable[[], None]] = [
        lambda: call.json({"error": {"message": f"wrong key: {said}"}}, 401),
        lambda: call.raw(said.encode()),
        lambda: call.json({"error": {"message": said}}, 503, Retry_After="0.01"),
        lambda: call.cut_off(said.encode(), 1000),
        lambda: call.raw(b"x" * 45 + said.encode()),  # where messages are cut
        lambda: call.raw(b"x" * 285 + said.encode(), 400),
    ]
    bodies[(call.number - 1) % len(bodies)]()


def test_the_key_is_sent_and_never_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    said = ""
    with opened(echo, key_env="JUDGE_KEY", retries=1) as (endpoint, calls):
        said += repr(endpoint) + endpoint.identity
        while len(calls) < 6:
            with pytest.raises(JudgeError) as caught:
                endpoint.ask(ASK)
            error = caught.value
            assert (error.__cause__, error.__context__) == (None, None)
            said += "".join(traceback.format_exception(error)) + repr(error.__dict__)
            said += repr(pickle.dumps(error)) + str(error.record())
        assert len(calls) == 6
        with pytest.raises(ConfigError) as refused:
            endpoint.check()
        said += "".join(traceback.format_exception(refused.value))
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(endpoint)
        assert {call.headers["authorization"] for call in calls} == {f"Bearer {KEY}"}
    out, err = capfd.readouterr()
    said += caplog.text + out + err + "".join(repr(record.__dict__) for record in caplog.records)
    assert "***" in said
    assert KEY[:8] not in said


@pytest.mark.parametrize("value", [None, "", "  ", "two\nlines", "schlüssel"])
def test_a_key_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("JUDGE_KEY", raising=False)
    else:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match=r"endpoints\.key_env: .*'JUDGE_KEY'") as caught:
        Endpoint(section(key_env="JUDGE_KEY"), concurrency=1)
    assert not (value and value.strip()) or value not in str(caught.value)


def test_what_is_meant_for_another_server_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with opened(fine) as (endpoint, calls):
        endpoint.ask(ASK)
    assert KEY not in str(calls[0].headers)


def test_checking_a_server_that_is_fine() -> None:
    with opened(fine) as (endpoint, calls):
        endpoint.check()
        assert calls[0].body["max_tokens"] == 1


@pytest.mark.parametrize(
    ("script", "key"),
    [
        (refuse(401), "key_env"),
        (refuse(404), "model or url"),
        (lambda call: call.raw(b"<html>"), "url"),
    ],
)
def test_checking_a_server_that_can_not_be_used(script: Script, key: str) -> None:
    with opened(script) as (endpoint, _), pytest.raises(ConfigError, match=rf"endpoints\.{key}: "):
        endpoint.check()


def test_checking_a_server_that_is_not_there() -> None:
    with serving(fine) as server:
        url = server.url
    endpoint = Endpoint(section(url, retries=0, max_cost=1.0, price_out=1.0), concurrency=1)
    with pytest.raises(ConfigError, match=r"endpoints\.url: .*Connect"):
        endpoint.check()
    assert endpoint.spent == 0  # nobody was there to bill it
    endpoint.close()


def test_checking_a_server_that_is_busy() -> None:
    with (
        opened(refuse(503, Retry_After="0.01"), retries=1) as (endpoint, _),
        pytest.raises(JudgeError, match="HTTP 503"),
    ):
        endpoint.check()
