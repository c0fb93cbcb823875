"""Servers of hooks, on the loopback address."""

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from kheishd.hooks.lifecycle.http import HookAnswer, RequestFailed, load_tls, post
from kheishd.hooks.lifecycle.runner import LifecycleRunner
from kheishd.kernel.lifecycle import HookSpec, HookSubject
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES
from protocol.objects.hook import HookOutcome
from tests.support.web_server import WebServer, answer, redirect, web_server

PRIVATE = ("127.0.0.1",)


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    """Provide a server."""
    async with web_server() as web:
        yield web


@pytest.fixture(scope="module")
def secure() -> ssl.SSLContext:
    """Provide the settings of TLS."""
    return load_tls()


async def test_an_event_is_posted(web: WebServer, secure: ssl.SSLContext) -> None:
    """The headers hold the credential."""
    web.answers["/hook"] = answer(b'{"decision": "block"}')
    got = await post(web.url("/hook"), {"x-token": "t"}, b'{"a": 1}', PRIVATE, secure)
    assert got == HookAnswer(200, b'{"decision": "block"}')
    (head,) = web.requests
    assert head.startswith("POST /hook HTTP/1.1\r\n")
    assert "x-token: t\r\n" in head
    assert "content-type: application/json\r\n" in head


async def test_private_hosts_are_listed(web: WebServer, secure: ssl.SSLContext) -> None:
    """A host that is not on the public internet is not connected to, unless the operator lists it."""
    for hosts in ((), ("127.0.0.2",)):
        with pytest.raises(RequestFailed, match="list the host in 'private_hosts'"):
            await post(web.url("/hook"), {}, b"{}", hosts, secure)
    assert web.requests == []


@pytest.mark.parametrize(
    ("response", "retryable", "after_s"),
    [
        (redirect("/other"), False, 0.0),
        (answer(b"", status=404), False, 0.0),
        (answer(b"", status=503), True, 0.0),
        (answer(b"", status=429, retry_after="7"), True, 7.0),
        (answer(b"", status=429, retry_after="Tue, 01 Dec 2026 11:00:00 GMT"), True, 0.0),
        (answer(b"x" * (MAX_HOOK_OUTPUT_BYTES + 1)), False, 0.0),
        (b"garbage\r\n\r\n", True, 0.0),
        (b"", True, 0.0),
    ],
)
async def test_failures(
    web: WebServer, secure: ssl.SSLContext, response: bytes, retryable: bool, after_s: float
) -> None:
    """A redirect is not followed; some failures may be repeated."""
    web.answers["/hook"] = response
    with pytest.raises(RequestFailed) as error:
        await post(web.url("/hook"), {}, b"{}", PRIVATE, secure)
    assert (error.value.retryable, error.value.retry_after_s) == (retryable, after_s)
    assert len(web.requests) == 1


class Runner(LifecycleRunner):
    """A runner without a store."""

    def _make_payload(self, hook: HookSpec, subject: HookSubject) -> dict[str, Any]:
        return {"subject": subject.subject}

    def _shorten(self, output: bytes) -> str:
        return output.decode()

    def _scrub(self, text: str) -> str:
        return text


async def run(web: WebServer, **facts: Any) -> Any:
    """Run a hook of the server."""
    runner = Runner(None, None, lambda reference: "secret-of-hook", {})  # type: ignore[arg-type]
    hook = HookSpec("a", "stop", "/x", "/", url=web.url("/hook"), private_hosts=PRIVATE, **facts)
    return await runner.test(hook, HookSubject("stop", "s", "k"))


async def test_the_outcome_of_a_server(web: WebServer) -> None:
    """The body is an outcome, an empty one has no objection; a credential is a bearer token."""
    web.answers["/hook"] = answer(b'{"reason": "x"}')
    trial = await run(web, auth_ref="env:X")
    assert (trial.outcome, trial.status) == (HookOutcome(reason="x"), 200)
    assert "authorization: Bearer secret-of-hook\r\n" in web.requests[0]
    web.answers["/hook"] = answer(b"", status=204)
    assert (await run(web)).outcome == HookOutcome()
    web.answers["/hook"] = answer(b"<html>")
    assert "not a valid outcome" in (await run(web)).problem


async def test_retries(web: WebServer) -> None:
    """A busy server is asked again, and not longer than the hook's time, whatever it says."""
    answers = [answer(b"", status=503), answer(json.dumps({"reason": "x"}).encode())]

    async def reply(stream: trio.abc.Stream) -> None:
        await stream.send_all(answers.pop(0))

    web.answers["/hook"] = reply
    trial = await run(web, max_retries=1)
    assert (trial.attempts, trial.outcome) == (2, HookOutcome(reason="x"))
    web.answers["/hook"] = answer(b"", status=429, retry_after="1000")
    trial = await run(web, max_retries=1, timeout_s=0.3)
    assert "took longer than 0.3 s; 127.0.0.1" in trial.problem
    web.answers["/hook"] = answer(b"", status=404)
    assert (await run(web, max_retries=3)).attempts == 1


async def test_a_server_that_never_answers(web: WebServer) -> None:
    """The time is the hook's."""

    async def hang(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    web.answers["/hook"] = hang
    assert (await run(web, timeout_s=0.2)).problem == "it took longer than 0.2 s"
