"""The runner of lifecycle hooks: attempts within one time, outcomes, and the record of failures."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.hook import NO_OBJECTION, HookVerdict, add_outcome
from kheishd.core.text.scrub import cut_text
from kheishd.hooks.lifecycle.command import CommandFailed, make_environment, run_command, shorten
from kheishd.hooks.lifecycle.files import InvalidHooksFile, read_workspace_hooks
from kheishd.kernel.credentials import CredentialMissing
from kheishd.kernel.lifecycle import WORKSPACE_FILE
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import HOOK_DEAD_LETTERS, HOOK_DEAD_LETTERS_BY_AGE
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.events.hook import HookFailed
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.hook import (
    MAX_HOOK_DEAD_LETTERS,
    MAX_HOOK_INPUT_BYTES,
    MAX_HOOK_PAYLOAD_BYTES,
    MAX_HOOK_PROBLEM_BYTES,
    MAX_HOOKS_AT_ONCE,
)
from protocol.objects.hook import HookOutcome, HookTrial
from protocol.rpc.wire import find_storage_problem
from protocol.text import truncate

if TYPE_CHECKING:
    import ssl

    from kheishd.kernel.lifecycle import HookSpec, HookSubject
    from kheishd.kernel.live import Live
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.hooks")

BACKOFF_SECONDS: Final = (0.05, 0.1, 0.2)
BLOCK_EXIT_CODE: Final = 2

_SIGNALLED: Final = 128
"""An exit code above this is that of a signal, or of a shell whose command was ended by one."""

MAX_SUBJECT_BYTES: Final = 1024
"""The part of a subject that is kept with a failure."""

_outcome_decoder = msgspec.json.Decoder(HookOutcome)


class _Contract(Struct, frozen=True):
    """The version of an outcome, which decides how the rest of it is read."""

    contract_version: int = 1


class HookFailure(Exception):
    """A failed attempt; ``after_s`` is when it may be repeated, None if that would not help.

    ``trial`` is what is known of it.
    """

    def __init__(self, problem: str, *, after_s: float | None = None, trial: HookTrial | None = None) -> None:
        super().__init__(problem)
        self.after_s = after_s
        self.trial = trial


class LifecycleRunner:
    """Runs hooks, at most some at once.

    ``read_credential`` returns the credential of a reference. Errors: CredentialMissing.
    """

    def __init__(
        self,
        state: State,
        live: Live,
        read_credential: Callable[[str], str],
        environ: Mapping[str, str] = os.environ,
        home_mark: str = "",
    ) -> None:
        self._state = state
        self._live = live
        self._read_credential = read_credential
        self._environ = environ
        # The mark of each command's processes: two of them must not have the same one.
        self._marks = (f"{home_mark}.hook.{number}" for number in count())
        self._limiter = trio.CapacityLimiter(MAX_HOOKS_AT_ONCE)
        # Hooks that hang after an event must not keep those that guard one from running.
        self._observers = trio.CapacityLimiter(MAX_HOOKS_AT_ONCE)
        self._secure: ssl.SSLContext | None = None
        # The hooks of each workspace, and the problem of an invalid guard, as of this generation.
        self._generation = 0
        self._workspaces: dict[str, tuple[Sequence[HookSpec], str | None]] = {}

    async def decide(self, hooks: Sequence[HookSpec], subject: HookSubject) -> HookVerdict:
        """Run the hooks of a policy event one by one, up to the first block."""
        verdict = NO_OBJECTION
        for hook in hooks:
            trial = await self._run(hook, subject, self._limiter)
            if trial.outcome is not None:
                verdict = add_outcome(verdict, hook.name, trial.outcome, is_operators=hook.is_operators)
            else:
                await self._record(hook, subject, trial)
                if hook.policy == "closed":
                    block = (
                        f"the hook '{hook.name}' failed, and without its consent this must not be done; "
                        "hook.dead_letters has the reason"
                    )
                    verdict = replace(verdict, block=block, blocked_by=hook.name)
            if verdict.block is not None:
                break
        return verdict

    async def notify(self, hooks: Sequence[HookSpec], subject: HookSubject) -> None:
        """Run the hooks of any other event side by side; only their failures matter."""

        async def run(hook: HookSpec) -> None:
            # There may be many events at once, so waiting does not count as the hook's time.
            async with self._observers:
                trial = await self._run(hook, subject)
            if trial.outcome is None:
                await self._record(hook, subject, trial)

        async with trio.open_nursery() as nursery:
            for hook in hooks:
                nursery.start_soon(run, hook)

    async def test(self, hook: HookSpec, subject: HookSubject) -> HookTrial:
        """Run a hook and return its outcome, from which nothing follows."""
        return await self._run(hook, subject, self._limiter)

    def preview(self, hook: HookSpec, subject: HookSubject) -> HookTrial:
        """Return the input that a hook would get; nothing is run."""
        return HookTrial(hook=hook.name, matches=True, payload=self._make_payload(hook, subject))

    def workspace_hooks(self, workspace: str, generation: int) -> tuple[Sequence[HookSpec], str | None]:
        """Return the hooks of a trusted workspace; and the problem if a guard among them is invalid."""
        if generation != self._generation:
            self._generation, self._workspaces = generation, {}
        known = self._workspaces.get(workspace)
        if known is None:
            known = (), None
            if os.path.lexists(f"{workspace}/{WORKSPACE_FILE}"):
                try:
                    known = read_workspace_hooks(workspace), None
                except InvalidHooksFile as error:
                    log.warning("a workspace's hooks are invalid: %s", error, extra={"workspace": workspace})
                    known = (), f"the workspace's {error}" if error.may_guard else None
            self._workspaces[workspace] = known
        return known

    # One hook.

    async def _run(
        self, hook: HookSpec, subject: HookSubject, limiter: trio.CapacityLimiter | None = None
    ) -> HookTrial:
        """Run a hook with all its attempts, in its time. A trial without an outcome has failed."""
        payload = self._make_payload(hook, subject)
        content = msgspec.json.encode(payload)
        trial = HookTrial(hook=hook.name, matches=True, payload=payload)
        if len(content) > MAX_HOOK_INPUT_BYTES:
            problem = f"its input has {len(content)} bytes; the limit is {MAX_HOOK_INPUT_BYTES}"
            return replace(trial, problem=problem)
        began = trio.current_time()
        problem = ""
        with trio.move_on_after(hook.timeout_s) as scope:
            async with limiter or nullcontext():
                for attempt in range(hook.max_retries + 1):
                    trial = replace(trial, attempts=attempt + 1)
                    try:
                        trial = await self._attempt(hook, content, trial)
                        break
                    except HookFailure as failure:
                        problem, trial = str(failure), failure.trial or trial
                        if failure.after_s is None or attempt == hook.max_retries:
                            break
                        pause_s = BACKOFF_SECONDS[attempt] * (1 + random.random())
                        await trio.sleep(max(pause_s, failure.after_s))
                    except Exception:
                        log.exception("the hook '%s' could not be run", hook.name)
                        problem = "something failed inside the daemon; its log has the details"
                        break
        took_ms = round((trio.current_time() - began) * 1000)
        if trial.outcome is None:
            if scope.cancelled_caught:
                problem = "; ".join(filter(None, (f"it took longer than {hook.timeout_s:g} s", problem)))
            problem = truncate(self._scrub(problem), MAX_HOOK_PROBLEM_BYTES)
            return replace(trial, problem=problem, took_ms=took_ms)
        return replace(trial, took_ms=took_ms)

    def _make_payload(self, hook: HookSpec, subject: HookSubject) -> dict[str, Any]:
        """Return the input of a hook, without secrets."""
        payload = {
            "contract_version": 1,
            "invocation_key": f"{subject.key}.{hook.name}",
            "hook": hook.name,
            "event": subject.event,
            "subject": subject.subject,
            "session_id": subject.session_id,
            "run_id": subject.run_id,
            "payload": _encodable(subject.payload),
        }
        scrubbed = self._live.scrubber.scrub_journal_line(msgspec.json.encode(payload))
        decoded: dict[str, Any] = msgspec.json.decode(scrubbed)
        return decoded

    def _scrub(self, text: str) -> str:
        return self._live.scrubber.scrub_text(text)

    def _shorten(self, output: bytes) -> str:
        """Return an output, scrubbed and then shortened: a part of a secret would not be recognized."""
        return shorten(self._live.scrubber.scrub_bytes(output))

    async def _attempt(self, hook: HookSpec, content: bytes, trial: HookTrial) -> HookTrial:
        """Run a hook once; return the trial with its outcome. Errors: HookFailure."""
        if hook.url is not None:
            return await self._post(hook, content, trial)
        environment = make_environment(self._environ, hook.event)
        try:
            mark = next(self._marks)
            result = await run_command(hook.argv, hook.directory, environment, content, mark)
        except CommandFailed as error:
            raise HookFailure(str(error), after_s=0.0) from None
        stderr = self._shorten(result.stderr)
        trial = replace(
            trial,
            exit_code=result.exit_code,
            stdout=self._shorten(result.stdout),
            stderr=stderr,
        )
        if result.exit_code == BLOCK_EXIT_CODE:
            return replace(trial, outcome=HookOutcome(decision="block", reason=stderr))
        if result.exit_code != 0:
            how = f"it ended with exit code {result.exit_code}"
            if result.exit_code > _SIGNALLED:
                how += f", as by signal {result.exit_code - _SIGNALLED}"
            raise HookFailure(how + (f": {stderr}" if stderr else ""), after_s=0.0, trial=trial)
        return _with_outcome(trial, result.stdout, self._scrub)

    async def _post(self, hook: HookSpec, content: bytes, trial: HookTrial) -> HookTrial:
        from kheishd.hooks.lifecycle.http import RequestFailed, load_tls, post

        assert hook.url is not None, "only a hook with a server posts"
        headers: dict[str, str] = {}
        if hook.auth_ref is not None:
            try:
                credential = self._read_credential(hook.auth_ref)
            except CredentialMissing as error:
                raise HookFailure(f"its credential is missing: {error}") from None
            prefix = "Bearer " if hook.auth_header.lower() == "authorization" else ""
            headers[hook.auth_header] = prefix + credential
        if self._secure is None:
            self._secure = await trio.to_thread.run_sync(load_tls)
        try:
            answer = await post(hook.url, headers, content, hook.private_hosts, self._secure)
        except RequestFailed as error:
            after_s = error.retry_after_s if error.retryable else None
            trial = replace(trial, status=error.status)
            raise HookFailure(str(error), after_s=after_s, trial=trial) from None
        trial = replace(trial, status=answer.status, stdout=self._shorten(answer.body))
        return _with_outcome(trial, answer.body, self._scrub)

    # Failures.

    async def _record(self, hook: HookSpec, subject: HookSubject, trial: HookTrial) -> None:
        """Record the failure of a hook, and drop the oldest ones beyond the limit."""
        log.warning("the hook '%s' failed for %s: %s", hook.name, subject.event, trial.problem)
        event = HookFailed(
            dead_letter_id=self._state.new_id(ids.HOOK_FAILURE),
            hook=hook.name,
            event=subject.event,
            subject=cut_text(subject.subject, MAX_SUBJECT_BYTES, self._live.scrubber.scrub_cut),
            invocation_key=str(trial.payload["invocation_key"]),
            policy=hook.policy,
            problem=trial.problem or "",
            attempts=trial.attempts,
            payload=truncate(msgspec.json.encode(trial.payload).decode(), MAX_HOOK_PAYLOAD_BYTES),
            on_session=subject.session_id,
            on_run=subject.run_id,
        )

        def record(tx: Transaction) -> None:
            surplus = max(tx.count(HOOK_DEAD_LETTERS) + 1 - MAX_HOOK_DEAD_LETTERS, 0)
            rows = tx.scan(HOOK_DEAD_LETTERS_BY_AGE)
            dropped = [dead_letter_id for (_, dead_letter_id), _ in zip(rows, range(surplus), strict=False)]
            writer = StreamWriter(tx, DAEMON_STREAM)
            writer.append(replace(event, dropped=dropped))
            writer.write()

        try:
            await self._state.update(record)
        except Refusal as error:
            log.warning("the failure of a hook could not be recorded: %s", error)


def _with_outcome(trial: HookTrial, content: bytes, scrub: Callable[[str], str]) -> HookTrial:
    """Return the trial with the outcome in an output; an empty one has no objection. Errors: HookFailure."""
    if not content.strip():
        return replace(trial, outcome=HookOutcome())
    try:
        version = msgspec.json.decode(content, type=_Contract).contract_version
        if version != 1:
            problem = f"its answer has the contract version {version}; this daemon reads version 1"
            raise HookFailure(problem, trial=trial)
        outcome = _outcome_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HookFailure(f"its answer is not a valid outcome: {error}", trial=trial) from None
    unstorable = find_storage_problem(outcome.updated_input)
    if unstorable is not None:
        text = f"its answer is not a valid outcome: the values of updated_input {unstorable}"
        raise HookFailure(text, trial=trial)
    # Their texts are cut later, and a part of a secret would not be recognized then.
    reason, context = scrub(outcome.reason), scrub(outcome.additional_context)
    return replace(trial, outcome=replace(outcome, reason=reason, additional_context=context))


def _encodable(value: Any) -> Any:
    """Return a payload that UTF-8 can encode: models and programs write surrogates."""
    match value:
        case str():
            return value if value.isascii() else value.encode(errors="replace").decode()
        case Mapping():
            return {_encodable(str(key)): _encodable(element) for key, element in value.items()}
        case list() | tuple():
            return [_encodable(element) for element in value]
        case _:
            return value
