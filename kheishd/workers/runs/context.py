"""The context of a run's model: the prompt of each call, and the compaction that keeps it short enough.

``core/context/compaction.py`` decides which compaction is due; this module performs it. Each compaction is
one event, committed before the model is called: a crash leaves either the whole of it or nothing. Summaries
come from the run's own model and are not streamed. Without a summary, the run continues with a long prompt.
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from kheishd.core.account import use_of
from kheishd.core.context.compaction import (
    MIN_SNIP_KEEP,
    DropResults,
    Prompt,
    Snip,
    Summarize,
    due_stage,
    estimate_stage,
    find_snip_cut,
    find_summary_cut,
    max_prompt_tokens,
    measure_prompt,
    tokens_after,
)
from kheishd.core.context.situation import format_situation
from kheishd.core.context.summary import (
    SUMMARY_INSTRUCTIONS,
    NoSummary,
    extract_summary,
    make_summary_request,
)
from kheishd.core.context.tokens import estimate_messages
from kheishd.core.context.transcript import format_framing
from kheishd.core.contract import format_instruction
from kheishd.core.run.answers import find_unmet
from kheishd.core.run.commands import Compact, Compaction, FailedCompaction, NoteAgentsFiles
from kheishd.core.trust import format_trust
from kheishd.kernel.agents_files import find_places, read_files
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, ModelRequest
from kheishd.objects.talk.contract import schema_text
from kheishd.objects.talk.hook import decide
from kheishd.objects.talk.workspace import list_trusted_directories
from kheishd.store.tables import BLOBS, SESSIONS
from kheishd.workers.completion import complete
from kheishd.workers.runs.memory import commit_compaction, load_recall
from protocol.events.run import AgentsFilesLoaded
from protocol.limits.budget import MAX_OVERDRAWN_TOKENS
from protocol.objects.run import RunError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kheishd.core.context.reduction import TranscriptEntry
    from kheishd.core.context.session_transcript import SessionTranscript
    from kheishd.kernel.hook import RunContext
    from kheishd.workers.runs.active import ActiveRun
    from kheishd.workers.runs.transcript import TranscriptReader
    from protocol.events.context import CompactTrigger

log = logging.getLogger("kheishd.runs")

_prompt_bytes = attrgetter("prompt_bytes")

MAX_SUMMARY_ATTEMPTS = 4
"""How often a summary is requested, each time of half as much text, while that is too long."""

MAX_OVERFLOWS = 4
"""How often the prompt of one turn is shortened because the provider refused it as too long."""


class ContextWindow:
    """The context window of one run's model."""

    def __init__(self, active: ActiveRun, transcript: TranscriptReader) -> None:
        self._active = active
        self._transcript = transcript
        # Consecutive summaries that failed; the turn of the last overflow, and how many it has had.
        self._failures = 0
        self._turn = -1
        self._has_begun = False
        self._overflows = 0
        # The estimated length of the last prompt that the provider refused.
        self._refused_tokens: int | None = None
        # The text of the workspace's AGENTS.md files, and that of the recalled notes, once they were read.
        self._agents_files: str | None = None
        self._recalled: str | None = None
        # Whether another route or key is asked after a failed summary, for a run with several.
        self.may_move: Callable[[ModelFailure], Awaitable[bool]] | None = None

    # The prompt.

    async def request(self) -> ModelRequest:
        """Return the next model call, after every compaction that is due.

        Errors: ModelFailure of a summary, if another route or key of the run can be asked instead.
        """
        active = self._active
        limits = active.runtime.config.context
        while True:
            request, prompt = await self._prompt()
            may_summarize = self._failures < limits.max_failures
            stage = due_stage(
                prompt, self._max_tokens(), active.state.now_ms(), limits, may_summarize=may_summarize
            )
            match stage:
                case None:
                    return self._cap(request, prompt)
                case Summarize(upto):
                    if not await self._summarize(prompt, upto, "auto"):
                        return self._cap(request, prompt)
                case _:
                    await self._drop(prompt, stage, "auto")

    async def measure(self) -> int:
        """Return the estimated tokens of the prompt as it is. Errors: as ``request``."""
        return (await self._prompt(check_route=False))[1].tokens

    def _cap(self, request: ModelRequest, prompt: Prompt) -> ModelRequest:
        """Return a model call whose answer ends where the budget of the session does.

        The length of the prompt is an estimate. Anthropic rejects a limit below that of the model's thoughts.
        """
        active = self._active
        if not active.pinned.is_accounted or "thinking" in active.pinned.options:
            return request
        with active.state.read() as store:
            left = use_of(store.need(SESSIONS, active.record.session_id)).left.tokens
        if left is None:
            return request
        return replace(request, max_answer_tokens=max(left - prompt.tokens, MAX_OVERDRAWN_TOKENS))

    async def _prompt(self, *, check_route: bool = True) -> tuple[ModelRequest, Prompt]:
        """Return a model call with the whole transcript, and its measured prompt.

        Errors: ModelFailure if the session may no longer use the route.
        """
        run = self._active.record
        context = self._active.context()
        problem = context.bounds.find_problem("route", context.pinned.route) if context.bounds else None
        if problem is not None and check_route:
            message = f"the session may no longer use the route '{context.pinned.route}': {problem}"
            raise ModelFailure("route_forbidden", message, retryable=False)
        if not self._has_begun:
            self._has_begun = True
            if await self._active.runtime.hooks.begin(context):
                context = self._active.context()
        instructions = self._instructions(context, await self._read_agents_files())
        session = await self._transcript.read()
        if self._recalled is None:
            self._recalled = await load_recall(self._active, context, session.transcript.entries)
        framed = session.view(speaker=run.guest or run.agent, primary=run.agent)
        hook_prompt = self._active.runtime.hooks.prompt(context)
        request = ModelRequest(
            pinned=context.pinned,
            instructions="\n\n".join(filter(None, [*instructions, *hook_prompt.sections])),
            messages=list(framed.messages),
            tools=hook_prompt.tools,
            marks=session.transcript.marks,
            encodings=framed.encodings,
            situation=self._situation(context, hook_prompt.situation, session),
            withheld=run.follow_up == "output_contract",
            session_id=run.session_id,
            run_id=run.run_id,
            turn=run.turn + 1,
            attempt=run.attempt,
        )
        texts = len(request.instructions.encode()) + len(request.situation.encode())
        overhead = texts + sum(map(_prompt_bytes, request.tools))
        prompt = measure_prompt(
            session.transcript.entries,
            session.transcript.counted,
            run.guest,
            overhead,
            hook_prompt.droppable,
            estimates=session.estimates,
        )
        return request, prompt

    def _instructions(self, context: RunContext, agents_files: str) -> list[str]:
        """Return the sections of the instructions before the hooks': the agent's, and the workspace's."""
        sections = []
        if (digest := context.pinned.instructions_digest) is not None:
            with self._active.state.read() as store:
                blobs = [store.get(BLOBS, name, 0) for name in (digest, *context.pinned.section_digests)]
            # A blank soul adds nothing.
            sections += [blob.decode() for blob in blobs if blob is not None and blob.strip()]
        return [*sections, agents_files]

    async def _read_agents_files(self) -> str:
        """Return the text of the workspace's AGENTS.md files as of the run's first model call."""
        if self._agents_files is None:
            self._agents_files = await self._load_agents_files()
        return self._agents_files

    async def _load_agents_files(self) -> str:
        active, run = self._active, self._active.record
        if run.guest is not None or run.kind == "compaction":
            return ""
        if run.agents_files_cursor is not None:
            with active.state.read() as store:
                event = active.read_event(store, run.agents_files_cursor)
                assert isinstance(event, AgentsFilesLoaded), "the record names the event"
                blob = store.get(BLOBS, event.text, 0) if event.text is not None else None
            return blob.decode() if blob is not None else ""
        if run.turn:
            # It had none at its first model call.
            return ""
        workspace = active.pinned.workspace or active.runtime.workspace_root
        with active.state.read() as store:
            directories = list_trusted_directories(store, active.current_runtime, workspace)
        places = find_places(active.runtime.workspaces.home, directories)
        if not places:
            return ""
        text, files = await trio.to_thread.run_sync(read_files, places, active.live.scrubber.scrub_cut)
        # The stored text has no secrets, and a daemon that resumes the run reads the stored one.
        text = active.live.scrubber.scrub_bytes(text.encode()).decode()
        digest = (await active.put_blob(text.encode()))[0] if text else None
        await active.commit(NoteAgentsFiles(files, digest))
        return text

    def _situation(self, context: RunContext, hook_texts: list[str], session: SessionTranscript) -> str:
        """Return the changing part of the prompt: the hooks' texts, other authors, the run's requirements."""
        run, pinned = self._active.record, context.pinned
        texts = [*filter(None, [self._recalled]), *hook_texts]
        guests = list(session.guests)
        if framing := format_framing(speaker=run.guest or run.agent, primary=run.agent, guests=guests):
            texts.append(framing)
        texts += format_trust(session.origins)
        if requirements := find_unmet(context.run, pinned):
            texts.append(f"Before you are done you must {' and '.join(requirements)}.")
        if pinned.output_contract is not None:
            with self._active.state.read() as store:
                texts.append(format_instruction(schema_text(store, pinned.output_contract.digest)))
        return format_situation(texts)

    def _max_tokens(self) -> int:
        """Return the number of tokens above which the prompt is compacted."""
        active = self._active
        limit = max_prompt_tokens(
            active.runtime.config.context, active.pinned.context_tokens, active.pinned.options
        )
        return limit if self._refused_tokens is None else min(limit, self._refused_tokens * 3 // 4)

    # Compaction.

    async def shrink(self) -> bool:
        """Shorten a prompt that the provider refused as too long; return whether that was possible.

        Errors: ModelFailure of a summary, if another route or key of the run can be asked instead.
        """
        turn = self._active.record.turn
        if turn != self._turn:
            self._turn, self._overflows = turn, 0
        self._overflows += 1
        if self._overflows > MAX_OVERFLOWS:
            return False
        _, prompt = await self._prompt(check_route=False)
        # The window is smaller than the configuration says, or the estimate too low: for the whole run.
        self._refused_tokens = prompt.tokens
        target = prompt.tokens // 2
        if self._overflows == 1:
            upto = find_summary_cut(prompt.entries, target, self._active.runtime.config.context)
            if upto is not None and await self._summarize(prompt, upto, "overflow"):
                return True
        upto = find_snip_cut(prompt, target, MIN_SNIP_KEEP)
        if upto is None:
            return False
        await self._drop(prompt, Snip(upto), "overflow")
        return True

    async def summarize_all(self) -> Compact:
        """Return the outcome of a compaction run. Errors: ModelFailure."""
        _, prompt = await self._prompt()
        upto = find_summary_cut(prompt.entries, self._max_tokens(), self._active.runtime.config.context)
        if upto is None:
            return Compact(None)
        return Compact(await self._summary(prompt, upto, "manual"))

    async def _drop(self, prompt: Prompt, stage: DropResults | Snip, trigger: CompactTrigger) -> None:
        """Drop old tool results, or old messages, from the prompt."""
        result = Compaction(
            upto=stage.upto,
            strategy="snip" if isinstance(stage, Snip) else "results",
            trigger=trigger,
            tools=[] if isinstance(stage, Snip) else list(prompt.droppable),
            pre_tokens=prompt.tokens,
            post_tokens=tokens_after(prompt, stage),
        )
        await self._active.commit(Compact(result))
        self._transcript.note_compaction()

    async def _summarize(self, prompt: Prompt, upto: int, trigger: CompactTrigger) -> bool:
        """Commit a summary of the messages up to a cursor, or the failure; return whether there is one.

        Errors: ModelFailure, if another route or key of the run can be asked instead.
        """
        try:
            result = await self._summary(prompt, upto, trigger)
        except ModelFailure as failure:
            if self.may_move is not None and await self.may_move(failure):
                raise
            result = FailedCompaction(trigger, failure.error, failure.usage)
        await commit_compaction(self._active, Compact(result))
        if isinstance(result, Compaction):
            self._failures = 0
            self._transcript.note_compaction()
            return True
        self._failures += 1
        log.warning("no summary: %s", result.error.message, extra={"run_id": self._active.record.run_id})
        return False

    async def _summary(
        self, prompt: Prompt, upto: int, trigger: CompactTrigger
    ) -> Compaction | FailedCompaction:
        """Ask the model for a summary. Errors: ModelFailure, also if a hook blocks the compaction."""
        run = self._active.record
        verdict = await decide(
            self._active.services,
            "pre_compact",
            trigger,
            f"{run.run_id}.{run.turn}.{upto}.pre_compact",
            lambda: {"agent": run.agent, "tokens": prompt.tokens, "upto": upto},
            workspace=self._active.pinned.workspace or self._active.runtime.workspace_root,
            run=run,
        )
        if verdict.block is not None:
            raise ModelFailure(
                "hook_blocked", f"the compaction must not be done: {verdict.block}", retryable=False
            )
        answer = await self._ask_for_summary([entry for entry in prompt.entries if entry.cursor <= upto])
        try:
            summary = extract_summary(answer.items)
            old_tokens, new_tokens = estimate_stage(prompt, Summarize(upto), summary)
            if new_tokens >= old_tokens:
                raise NoSummary("the summary is not shorter than the messages it replaces")
        except NoSummary as error:
            return FailedCompaction(trigger, RunError("no_summary", str(error)), answer.usage)
        return Compaction(
            upto=upto,
            strategy="summary",
            trigger=trigger,
            summary=summary,
            pre_tokens=prompt.tokens,
            post_tokens=tokens_after(prompt, Summarize(upto), summary),
            usage=answer.usage,
            model=answer.model,
        )

    async def _ask_for_summary(self, entries: Sequence[TranscriptEntry]) -> ModelAnswer:
        """Ask for a summary of messages, of fewer after each overflow. Errors: ModelFailure."""
        run, pinned, runtime = self._active.record, self._active.pinned, self._active.runtime
        # Estimates are a third too high on purpose; here, a request that is too long costs one more attempt.
        max_tokens, attempts = pinned.context_tokens * 4 // 3, MAX_SUMMARY_ATTEMPTS
        while True:
            messages = make_summary_request(entries, max_tokens, run.agent)
            request = ModelRequest(
                pinned=pinned,
                instructions=SUMMARY_INSTRUCTIONS,
                messages=messages,
                session_id=run.session_id,
                run_id=run.run_id,
                purpose="summary",
                max_answer_tokens=runtime.config.context.summary_tokens,
                turn=run.turn + 1,
                attempt=max(run.attempt, 1),
            )
            try:
                return await complete(runtime.models, request)
            except ModelFailure as failure:
                attempts -= 1
                if failure.reason != "context_too_long" or not attempts:
                    raise
                max_tokens = estimate_messages(messages) // 2
