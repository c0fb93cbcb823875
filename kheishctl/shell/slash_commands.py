"""The slash commands of the chat: lines that begin with a slash.

A command is one row of ``COMMANDS``. Parser, help, completion and execution read the rows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from kheishctl.client import Failure, RequestRefused
from kheishctl.contract import DEFAULT_GOAL_CONTINUATIONS, INDOUBT_OUTCOMES, PERMISSION_MODES
from kheishctl.render.agent import format_tree
from kheishctl.render.claims import format_claim
from kheishctl.render.daemon import format_daemon_status
from kheishctl.render.layout import wrap
from kheishctl.shell.session_commands import ConversationHandle, NoteView, SessionCommands, find_model
from kheishctl.shell.workspace_commands import WorkspaceCommands, WorkTarget, WorkView
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from kheishctl.contract import Json
    from kheishctl.shell.answers import AnswerSender
    from kheishctl.shell.pending import PendingRequest

DEFAULT_HISTORY_MESSAGES = 20
MAX_HISTORY_MESSAGES = 500

# The numbers of rows that fit a screen; the command line shows the rest.
MAX_TASKS_SHOWN = 20
MAX_ROUTES_SHOWN = 20
MAX_AGENTS_SHOWN = 50
MAX_SKILLS_SHOWN = 50

SKILL_METHODS = {"on": "skill.activate", "off": "skill.deactivate"}
GOAL_METHODS = {"pause": "goal.pause", "resume": "goal.resume", "clear": "goal.clear"}
# The words for which a change of the goal is suggested.
GOAL_WORDS = {"pause": "pause", "resume": "resume", "clear": "clear", "off": "clear", "stop": "pause"}

# The similarity of an unknown word to a command that makes it a typing error: "/rest" is similar enough to
# "/reset", "/call" is not to "/cancel".
MIN_SIMILARITY = 0.75

# Any name of a tool: the effective mode does not depend on it.
ANY_TOOL = "*"

DECISION_STYLES: dict[str, str] = {"allow": "green", "ask": "yellow", "deny": "red"}

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter", "insert a line break (a paste keeps its line breaks)"),
    ("!COMMAND", "run a command yourself, in the directory of the conversation"),
    ("@LETTERS", "name a file or an agent; Tab inserts the selected one"),
    ("//NAME", "send a message that begins with the name of a command"),
    ("Ctrl-C", "clear the line; on an empty line, stop the answer"),
    ("Esc", "stop the answer; the line is kept"),
    ("Ctrl-D", "leave, on an empty line; the run continues"),
    ("Up, Down", "recall earlier lines, from an empty line"),
    ("Alt-Up", "take the last queued message back into the line"),
    ("Ctrl-R", "search the earlier lines"),
    ("Ctrl-O", "show the conversation in full, with search"),
    ("Ctrl-G", "edit the line in $EDITOR"),
    ("PageUp, PageDown", "scroll the pending approval or question"),
    ("a r s d D e A X", "answer an approval, on an empty line; the panel explains the keys"),
    ("1-9 n", "answer a question, on an empty line"),
    ("?", "show these keys, on an empty line; /help adds the commands"),
)


DIRECTIVES = frozenset(("call", "then", "slow", "long", "think", "fail"))
"""The words to which the offline stand-in for a model reacts; lines with them are messages."""

# The word of a command; a path has more slashes.
_COMMAND_WORD = re.compile(r"/[A-Za-z][A-Za-z0-9_-]*")


class SlashCommand(Value, frozen=True):
    """A command line: the name of a command and its argument."""

    name: str
    argument: str = ""


class UnknownCommand(Value, frozen=True):
    """A line that begins like a command: the word after the slash, and the rest.

    ``problem`` is the message for a person.
    """

    name: str
    argument: str
    problem: str


class ShellLine(Value, frozen=True):
    """A line that the person runs in their own shell."""

    line: str


class CommandRow(Value, frozen=True):
    """A command: its summary and its handler. ``in_background``: the prompt does not wait for it."""

    summary: str
    run: Callable[[SlashHandler, str], Awaitable[None]]
    in_background: bool = False


class CommandTarget(WorkTarget, ConversationHandle, Protocol):
    """The conversation that commands change."""

    def preset(self, **properties: Any) -> None:
        """Set properties of the session that the first message will start."""
        ...

    @property
    def presets(self) -> Json:
        """The properties that were preset."""
        ...

    @property
    def outbox(self) -> Iterable[tuple[str, str]]:
        """The messages that were not accepted yet, each with its key."""
        ...

    def unsend(self, key: str) -> bool:
        """Remove a message from the outbox; False if the daemon may have accepted it already."""
        ...


class CommandView(WorkView, NoteView, Protocol):
    """The display of the chat."""

    def print_messages(self, messages: list[Json]) -> None:
        """Show messages of the history, oldest first."""
        ...

    def print_request(self, request: PendingRequest) -> None:
        """Show a whole approval or question."""
        ...

    def print_doubt(self, doubt: Json) -> None:
        """Show a call in doubt."""
        ...

    @property
    def keys(self) -> Sequence[tuple[str, str]]:
        """The keys of the chat, each with its meaning."""
        ...

    def interrupt(self) -> bool:
        """Stop the running run; whether there was something to stop."""
        ...

    def toggle_vi(self) -> bool:
        """Switch between the keys of vi and of emacs; whether those of vi are effective now."""
        ...

    def expand(self, number: int) -> bool:
        """Show the whole of a text of which a part was shown, 1 being the last; False: there is none."""
        ...

    async def view_transcript(self) -> None:
        """Show the whole conversation, full screen. Errors: RequestRefused, ConnectionLost."""
        ...

    @property
    def queue(self) -> Mapping[str, str]:
        """The queued messages, by run, in order."""
        ...

    def return_text(self, text: str) -> None:
        """Put a withdrawn message into the prompt."""
        ...

    def leave(self) -> None:
        """End the chat."""
        ...


class SlashHandler(WorkspaceCommands):
    """The handler of all slash commands of one chat."""

    def __init__(self, conversation: CommandTarget, answers: AnswerSender, view: CommandView) -> None:
        super().__init__(conversation, view)
        self._conversation: CommandTarget = conversation
        self._view: CommandView = view
        self._answers = answers
        self.session = SessionCommands(conversation, view)

    async def use_skill(self, command: UnknownCommand) -> bool:
        """Begin the skill that a line names; False if there is none, and the line is a mistake."""
        try:
            return await self.session.use_skill(command.name, command.argument)
        except Failure as failure:
            self._view.note(str(failure), "red")
            return True

    async def run(self, command: SlashCommand) -> None:
        """Run a command and show its failure, if it fails."""
        try:
            await COMMANDS[command.name].run(self, command.argument)
        except Failure as failure:
            self._view.note(str(failure), "red")

    # The chat.

    async def show_help(self, _: str) -> None:
        """Show all commands and keys."""
        self._view.print(format_help(self._view.display().width, self._view.keys) + "\n\n")

    async def show_history(self, argument: str) -> None:
        """Show the last messages."""
        count = int(argument) if argument.isdecimal() else 0
        limit = min(count, MAX_HISTORY_MESSAGES) or DEFAULT_HISTORY_MESSAGES
        params = self._conversation.address() | {"order": "newest", "limit": limit}
        page = await self._conversation.call("conversation.history", params)
        self._view.print_messages(page["messages"][::-1])

    async def show_status(self, _: str) -> None:
        """Show the status of the daemon."""
        status = await self._conversation.call("daemon.status")
        self._view.print(format_daemon_status(status, self._view.display()) + "\n\n")

    async def cancel(self, _: str) -> None:
        """Stop the running run."""
        if not self._view.interrupt():
            self._view.note("nothing is running")

    async def reset(self, _: str) -> None:
        """Unbind the session from the conversation."""
        try:
            await self._conversation.call("conversation.reset", self._conversation.address())
        except RequestRefused as refused:
            if refused.reason != "conversation_not_found":
                raise
            self._view.note("the conversation is already new; the next message starts it")

    async def toggle_vi(self, _: str) -> None:
        """Switch between the keys of vi and of emacs."""
        mode = "vi" if self._view.toggle_vi() else "emacs"
        self._view.note(f"the line has the keys of {mode} now; editing_mode in client.toml is for every chat")

    async def leave(self, _: str) -> None:
        """End the chat."""
        self._view.leave()

    # The run.

    async def steer(self, text: str) -> None:
        """Send a message to the running run."""
        if not text:
            self._view.note("usage: /steer MESSAGE", "yellow")
            return
        await self._conversation.call("conversation.steer", self._conversation.address() | {"content": text})

    async def compact(self, _: str) -> None:
        """Summarize the conversation; the journal reports the result, the answer why there is none."""
        params = self._conversation.address() | {"wait": "settled"}
        result = await self._conversation.call("conversation.compact", params)
        if note := result.get("note"):
            self._view.note(f"not compacted: {note}")

    async def expand(self, argument: str) -> None:
        """Show the whole of a text of which a part was shown."""
        number = int(argument) if argument.isdecimal() else 0 if argument else 1
        if not number:
            self._view.note("usage: /expand [NUMBER]; 1 is the last text of which a part was shown", "yellow")
        elif not self._view.expand(number):
            self._view.note("there is no such text; Ctrl-O shows the whole conversation")

    async def view_transcript(self, _: str) -> None:
        """Show the whole conversation, full screen."""
        await self._view.view_transcript()

    # The queue.

    def _list_queue(self) -> list[tuple[str, str, bool]]:
        """Return the id, the text and whether it was accepted, of each message that no run has read yet."""
        queued = [(run_id, text, True) for run_id, text in self._view.queue.items()]
        return queued + [(key, text, False) for key, text in self._conversation.outbox]

    async def show_queue(self, _: str) -> None:
        """Show the messages that wait, with their numbers."""
        rows = self._list_queue()
        for number, (_id, text, is_accepted) in enumerate(rows, 1):
            self._view.note(
                f"{number} of {len(rows)}, {'queued' if is_accepted else 'to be sent'}: {text}", ""
            )
        if not rows:
            self._view.note("no message is queued")

    async def withdraw(self, argument: str) -> None:
        """Withdraw a queued message, the last one by default, and put it into the line to be changed."""
        rows = self._list_queue()
        number = int(argument) if argument.isdecimal() else 0 if argument else len(rows)
        if not rows:
            self._view.note("no message is queued")
        elif not 1 <= number <= len(rows):
            self._view.note("usage: /withdraw [NUMBER]; /queue lists the numbers", "yellow")
        else:
            row_id, text, is_accepted = rows[number - 1]
            if is_accepted:
                await self._conversation.call("run.cancel", {"run_id": row_id})
            elif not self._conversation.unsend(row_id):
                self._view.note("the message is being sent; withdraw it once it is queued", "yellow")
                return
            self._view.return_text(text)

    # Approvals and questions.

    async def list_requests(self, _: str) -> None:
        """Show all pending requests in full."""
        requests = self._answers.pending.requests
        for number, request in enumerate(requests, 1):
            self._view.note(f"{number} of {len(requests)}")
            self._view.print_request(request)
        if not requests:
            self._view.note("nothing is pending")

    async def allow(self, argument: str) -> None:
        """Allow an approval, or all."""
        approvals, rest = self._select_approvals(argument)
        if rest:
            self._view.note("usage: /allow [NUMBER | all]", "yellow")
        elif approvals:
            await self._answers.carry_out(self._answers.pending.resolve(approvals, "allow"))

    async def deny(self, argument: str) -> None:
        """Deny an approval, or all, with an optional note."""
        approvals, rest = self._select_approvals(argument)
        if approvals:
            await self._answers.carry_out(self._answers.pending.resolve(approvals, "deny", note=rest))

    def _select_approvals(self, argument: str) -> tuple[list[PendingRequest], str]:
        """Return the approvals that an argument names, and the rest of the argument."""
        pending = self._answers.pending
        word, _, rest = argument.partition(" ")
        approvals = pending.approvals
        if word.isdecimal():
            # '/approvals' assigns the numbers, and also lists questions.
            number = int(word)
            approvals = [row for row in pending.requests[number - 1 : number] if not row.is_question]
        elif word != "all":
            approvals, rest = approvals[:1], argument
        if not approvals:
            self._view.note("no such approval is pending; see /approvals", "yellow")
            return [], ""
        return approvals, rest.strip()

    async def answer(self, argument: str) -> None:
        """Answer the oldest question: by the numbers of its options, else by text."""
        request = self._find_question()
        if request is None:
            return
        if not argument:
            self._view.note("usage: /answer NUMBER... or /answer TEXT", "yellow")
            return
        numbers = argument.replace(",", " ").split()
        options = [str(option["option_id"]) for option in request.options]
        if all(number.isdecimal() and 1 <= int(number) <= len(options) for number in numbers):
            selected = list(dict.fromkeys(options[int(number) - 1] for number in numbers))
            await self._answers.carry_out(self._answers.pending.answer(request, selected))
        else:
            await self._answers.carry_out(self._answers.pending.answer(request, [], argument))

    async def decline(self, _: str) -> None:
        """Decline the oldest question."""
        request = self._find_question()
        if request is not None:
            await self._answers.carry_out(self._answers.pending.decline(request))

    def _find_question(self) -> PendingRequest | None:
        request = next((row for row in self._answers.pending.requests if row.is_question), None)
        if request is None:
            self._view.note("no question is pending", "yellow")
        return request

    # Calls in doubt.

    async def list_doubts(self, _: str) -> None:
        """Show all calls in doubt."""
        doubts = list(self._answers.doubts.values())
        for number, doubt in enumerate(doubts, 1):
            self._view.note(f"{number} of {len(doubts)}")
            self._view.print_doubt(doubt)
        if not doubts:
            self._view.note("no call is in doubt")

    async def resolve(self, argument: str) -> None:
        """Resolve the only call in doubt, or one by its number, with an optional justification."""
        doubts = list(self._answers.doubts.values())
        words = argument.split()
        number = int(words.pop(0)) if words and words[0].isdecimal() else 1 if len(doubts) == 1 else 0
        outcome = words[0].replace("-", "_") if words else ""
        if not doubts:
            self._view.note("no call is in doubt", "yellow")
        elif outcome not in INDOUBT_OUTCOMES or not 1 <= number <= len(doubts):
            self._view.note(
                "usage: /resolve [NUMBER] done | not-done [JUSTIFICATION]; /doubts lists the numbers",
                "yellow",
            )
        else:
            params: Json = {"indoubt_id": doubts[number - 1]["indoubt_id"], "outcome": outcome}
            justification = {"justification": " ".join(words[1:])} if words[1:] else {}
            await self._answers.resolve_doubt(params | justification)

    # Agents, skills and the goal.

    async def show_agents(self, _: str) -> None:
        """Show the tree of agents of the session."""
        session_id = self._conversation.session_id
        if session_id is None:
            self._note_no_session()
            return
        params = {"root": session_id, "limit": MAX_AGENTS_SHOWN}
        page = await self._conversation.call("agent.list", params)
        self._view.print(format_tree(page["agents"], self._view.display()) + "\n\n")
        if page.get("next") is not None:
            self._view.note(f"more: kheishctl agent tree {session_id}")

    async def change_skills(self, argument: str) -> None:
        """Show the skills of the session; activate or deactivate one."""
        session_id = self._conversation.session_id
        if session_id is None:
            self._note_no_session()
            return
        verb, _, rest = argument.partition(" ")
        name, _, arguments = rest.strip().partition(" ")
        if verb in SKILL_METHODS and name:
            params: Json = {"session_id": session_id, "name": name}
            if verb == "on" and arguments:
                params["args"] = arguments
            await self._conversation.call(SKILL_METHODS[verb], params)
            self._view.note(f"the skill {name} is {verb}")
        elif argument:
            self._view.note("usage: /skills, /skills on NAME [ARGUMENTS], /skills off NAME", "yellow")
        else:
            await self._list_skills(session_id)

    async def _list_skills(self, session_id: str) -> None:
        params = {"session_id": session_id, "limit": MAX_SKILLS_SHOWN}
        page = await self._conversation.call("session.skills", params)
        active = {skill["name"] for skill in page["active"]}
        for name in sorted(active - {skill["name"] for skill in page["skills"]}):
            self._view.note(f"{name} (active)", "")
        for skill in page["skills"]:
            state = " (active)" if skill["name"] in active else ""
            self._view.note(f"{skill['name']}{state}: {skill['description']}", "")
        if not page["skills"] and not active:
            self._view.note("no skills; a directory with a SKILL.md in ~/.kheish/skills is one")
        elif page.get("next") is not None:
            self._view.note(f"more: kheishctl session skills {session_id}")

    async def change_goal(self, argument: str) -> None:
        """Show the goal of the session; set it, pause it, resume it or clear it."""
        session_id = self._conversation.session_id
        if session_id is None:
            self._note_no_session()
        elif argument in GOAL_METHODS:
            await self._conversation.call(GOAL_METHODS[argument], {"session_id": session_id})
        elif argument:
            from difflib import get_close_matches

            for word in get_close_matches(argument.lower(), GOAL_WORDS, 1, MIN_SIMILARITY):
                self._view.note(f"no goal was set; did you mean '/goal {GOAL_WORDS[word]}'?")
                return
            params = {"session_id": session_id, "objective": argument}
            goal = await self._conversation.call("goal.set", params)
            limit = goal.get("max_continuations", DEFAULT_GOAL_CONTINUATIONS)
            self._view.note(f"goal set, at most {limit} continuations; '/goal clear' ends it", "")
        else:
            try:
                goal = await self._conversation.call("goal.get", {"session_id": session_id})
            except RequestRefused as refused:
                if refused.reason != "goal_not_found":
                    raise
                self._view.note("no goal; '/goal TEXT' sets one")
                return
            waits = f", waits for {goal['waits_for']}" if goal.get("waits_for") else ""
            note = f": {goal['note']}" if goal.get("note") else ""
            self._view.note(f"{goal['status']}{waits}{note}", "")
            self._view.note(f"{goal['objective']} ({goal.get('continuations', 0)} continuations)", "")

    async def switch_sender(self, sender: str) -> None:
        """Continue as another sender, in that sender's conversation with the agent."""
        if not sender:
            name = self._conversation.address()["sender"]
            self._view.note(f"you are {name}; '/as NAME' continues as another sender")
        elif not self._conversation.switch_sender(sender):
            self._view.note("messages are still being sent; try again after them", "yellow")

    # Tasks, permissions and routes.

    async def list_tasks(self, _: str) -> None:
        """Show the open tasks and background shells of the session."""
        session_id = self._conversation.session_id
        page: Json = {"tasks": []}
        if session_id is not None:
            params = {"session_id": session_id, "limit": MAX_TASKS_SHOWN}
            page = await self._conversation.call("task.list", params)
        for task in page["tasks"]:
            kind = "shell, " if task.get("kind") == "shell" else ""
            self._view.note(f"{task['task_id']} {kind}{task['status']}: {task['title']}", "")
        if not page["tasks"]:
            self._view.note("no open tasks")
        elif page.get("next") is not None:
            self._view.note(f"more: kheishctl task list --session {session_id}")

    async def change_mode(self, mode: str) -> None:
        """Set the permission mode of the session; without a mode, show the effective one."""
        session_id = self._conversation.session_id
        if mode and mode not in PERMISSION_MODES:
            self._view.note(f"no mode '{mode}'; modes: {', '.join(PERMISSION_MODES)}", "yellow")
        elif session_id is None:
            self._note_no_session()
        elif mode:
            params = {"session_id": session_id, "permission_mode": mode}
            await self._conversation.call("session.update", params)
        else:
            params = {"tool": ANY_TOOL, "session_id": session_id}
            explanation = await self._conversation.call("permission.why", params)
            self._view.note(f"the permission mode is {explanation['mode']}")

    async def change_route(self, route: str) -> None:
        """Set the route of the session, with the route's own model; without a route, list the routes."""
        session_id = self._conversation.session_id
        if route and session_id is not None:
            params = {"session_id": session_id, "route": route, "model": None}
            await self._conversation.call("session.update", params)
        elif route:
            await self._conversation.call("route.get", {"route_id": route})
            self._conversation.preset(route=route, model=None)
            self._view.note(f"the route is {route}, from the first message on")
        else:
            page = await self._conversation.call("route.list", {"limit": MAX_ROUTES_SHOWN})
            for row in page["routes"]:
                state = " (default)" if row.get("default") else ""
                problem = f", not ready: {row['problem']}" if row.get("problem") else ""
                self._view.note(f"{row['route_id']}{state}: {row['model']} by {row['driver']}{problem}", "")
            if page.get("next") is not None:
                self._view.note("more: kheishctl route list")

    async def change_model(self, model: str) -> None:
        """Set the model of the session; without a model, show it."""
        session_id = self._conversation.session_id
        if session_id is None and model:
            self._conversation.preset(model=model)
            self._view.note(f"the model is {model}, from the first message on")
        elif model:
            params = {"session_id": session_id, "model": model}
            await self._conversation.call("session.update", params)
        else:
            session = self._conversation.presets
            if session_id is not None:
                session = await self._conversation.call("session.get", {"session_id": session_id})
            route, model = await find_model(self._conversation, session)
            self._view.note(f"the model is {model}, on route {route}; /route lists the routes")

    async def explain(self, argument: str) -> None:
        """Explain the verdict on a call, line by line."""
        tool, _, subject = argument.partition(" ")
        if not tool:
            self._view.note("usage: /why TOOL [SUBJECT], for example /why bash git push", "yellow")
            return
        session_id = self._conversation.session_id
        params = {"tool": tool, "subject": subject} | ({"session_id": session_id} if session_id else {})
        explanation = await self._conversation.call("permission.why", params)
        for line in explanation["lines"]:
            says = f"{line['says']}, " if line["says"] else ""
            self._view.note(f"{line['source']}: {says}{line['text']}")
        for claim in explanation.get("claims", ()):
            reason = claim.get("problem") or claim["why"]
            self._view.note(f"{claim['kind']} {format_claim(claim)}: {claim['says']}, {reason}")
        note = f": {explanation['note']}" if explanation.get("note") else ""
        decision = explanation["decision"]
        verdict = f"verdict: {decision}, by {explanation['why']}{note}, in mode {explanation['mode']}"
        self._view.note(verdict, DECISION_STYLES.get(decision, "dim"))


COMMANDS: dict[str, CommandRow] = {
    "help": CommandRow("show this help", SlashHandler.show_help),
    "history": CommandRow("show the last messages ('/history 50': the last 50)", SlashHandler.show_history),
    "transcript": CommandRow(
        "show the conversation in full, with search, like Ctrl-O", SlashHandler.view_transcript
    ),
    "expand": CommandRow(
        "show all of the last long output or message; '/expand 2': of the one before", SlashHandler.expand
    ),
    "cd": CommandRow(
        "show the directory of the conversation, or change it: '/cd ~/src/shop'",
        SlashHandler.change_directory,
    ),
    "sessions": CommandRow(
        "list your sessions; '/sessions TEXT' searches, '/sessions 2' returns to one (also: /resume)",
        SlashHandler.list_sessions,
    ),
    "fork": CommandRow("continue in a copy; the session stays as it is", SlashHandler.fork),
    # In the background, so that the line is empty for the message's text.
    "rewind": CommandRow(
        "go back to before a message: '/rewind', then '/rewind 2'", SlashHandler.rewind, in_background=True
    ),
    "diff": CommandRow("show how the conversation has changed files", SlashHandler.show_diff),
    "undo": CommandRow(
        "undo the newest change of files, even of one that changed since: '/undo force'", SlashHandler.undo
    ),
    "redo": CommandRow("revert the newest undo", SlashHandler.redo),
    "status": CommandRow("show the status of the daemon", SlashHandler.show_status),
    "cancel": CommandRow("stop the answer, like Ctrl-C", SlashHandler.cancel),
    "steer": CommandRow("send a message to the current run: '/steer skip the tests'", SlashHandler.steer),
    "queue": CommandRow("show the queued messages", SlashHandler.show_queue),
    "withdraw": CommandRow(
        "take a queued message back into the line: the last, '/withdraw 1'", SlashHandler.withdraw
    ),
    "approvals": CommandRow("show all pending approvals and questions in full", SlashHandler.list_requests),
    "allow": CommandRow("allow an approval: the first, '/allow 2', '/allow all'", SlashHandler.allow),
    "deny": CommandRow("deny an approval, with a note if you like: '/deny all too risky'", SlashHandler.deny),
    "answer": CommandRow(
        "answer a question: '/answer 2', '/answer 1 3', '/answer TEXT'", SlashHandler.answer
    ),
    "decline": CommandRow("decline a question", SlashHandler.decline),
    "tasks": CommandRow("show open tasks and background shells", SlashHandler.list_tasks),
    "agents": CommandRow("show the tree of agents below this conversation", SlashHandler.show_agents),
    "skills": CommandRow(
        "show the skills, or '/skills on NAME', '/skills off NAME'", SlashHandler.change_skills
    ),
    "goal": CommandRow(
        "show the goal, or '/goal TEXT', '/goal pause | resume | clear'",
        SlashHandler.change_goal,
    ),
    "as": CommandRow("continue as another sender: '/as ann'", SlashHandler.switch_sender),
    "doubts": CommandRow("show calls whose outcome is unknown", SlashHandler.list_doubts),
    "resolve": CommandRow("record the outcome of such a call: '/resolve 2 not-done'", SlashHandler.resolve),
    "route": CommandRow("list the routes, or change the route: '/route claude'", SlashHandler.change_route),
    "model": CommandRow(
        "show the model, or take another one of the same route: '/model NAME'", SlashHandler.change_model
    ),
    "mode": CommandRow(
        "show the permission mode, or change it: '/mode acceptEdits'", SlashHandler.change_mode
    ),
    "why": CommandRow("explain the verdict on a call: '/why bash git push'", SlashHandler.explain),
    # The summary needs a model call, which takes time.
    "compact": CommandRow(
        "summarize the conversation; from now on the model sees the summary instead",
        SlashHandler.compact,
        in_background=True,
    ),
    "reset": CommandRow(
        "start over: the next message starts a new session (also: /new, /clear)", SlashHandler.reset
    ),
    "vi": CommandRow("switch between the keys of vi and of emacs", SlashHandler.toggle_vi),
    "agent": CommandRow(
        "show the agent, or talk to another one: '/agent reviewer'",
        lambda handler, argument: handler.session.switch_agent(argument),
    ),
    "cost": CommandRow(
        "show the tokens and the cost of the conversation",
        lambda handler, argument: handler.session.show_cost(argument),
    ),
    "context": CommandRow(
        "show how full the model's context is",
        lambda handler, argument: handler.session.show_context(argument),
    ),
    "permissions": CommandRow(
        "show the rules and grants that apply",
        lambda handler, argument: handler.session.show_permissions(argument),
    ),
    "copy": CommandRow(
        "copy the last answer to the clipboard", lambda handler, argument: handler.session.copy(argument)
    ),
    "share": CommandRow(
        "send the output of the last !COMMAND to the agent: '/share why does it fail?'",
        lambda handler, argument: handler.session.share(argument),
    ),
    "export": CommandRow(
        "write the conversation to a Markdown file: '/export notes.md'",
        lambda handler, argument: handler.session.export(argument),
    ),
    "quit": CommandRow("leave, like Ctrl-D; the run continues (also: /exit, /q)", SlashHandler.leave),
}

ALIASES = {"resume": "sessions", "new": "reset", "clear": "reset", "exit": "quit", "q": "quit"}
"""Other names of commands."""


def parse(text: str) -> SlashCommand | UnknownCommand | ShellLine | None:
    """Return the command of a line, an unknown command, a line for the shell, or None for a message.

    A line is a command if its first word is a slash and a name: ``/etc/hosts is odd`` is a message, and so is
    a text of several lines. A second slash makes a message of a command (see :func:`unescape`).
    """
    if text.startswith("!") and not text.startswith("!!") and text[1:].strip() and "\n" not in text.strip():
        return ShellLine(text[1:].strip())
    word, _, rest = text.strip().partition(" ")
    if _COMMAND_WORD.fullmatch(word) is None or word[1:] in DIRECTIVES or "\n" in text.strip():
        return None
    name = ALIASES.get(word[1:], word[1:])
    if name in COMMANDS:
        return SlashCommand(name, rest.strip())
    from difflib import get_close_matches

    names = [*COMMANDS, *ALIASES]
    near = [f"/{known}" for known in names if known.startswith(name)][:3]
    near = near or [f"/{known}" for known in get_close_matches(name, names, 3, MIN_SIMILARITY)]
    question = f"; did you mean {' or '.join(near)}?" if near else "; /help lists the commands."
    problem = f"no command {word}{question} Enter sends the line to the agent, as a second slash would"
    return UnknownCommand(word[1:], rest.strip(), problem)


def unescape(text: str) -> str:
    """Return the message of a line: of two leading slashes or exclamation marks, one is removed."""
    return text[1:] if text.startswith(("//", "!!")) else text


def escape(text: str) -> str:
    """Return the line whose message is a text: nothing that somebody else wrote becomes a command.

    It is the reverse of :func:`unescape`.
    """
    line = text.lstrip()
    return line[0] + line if line.startswith(("/", "!")) else text


def format_help(columns: int | None = None, keys: Sequence[tuple[str, str]] = KEYS) -> str:
    """Return all keys and, after a blank line, all commands, one per line, wrapped at words."""
    commands = [(f"/{name}", row.summary) for name, row in COMMANDS.items()]
    return f"{_format_rows(keys, columns)}\n\n{_format_rows(commands, columns)}"


def format_keys(columns: int | None = None) -> str:
    """Return the keys, one per line, wrapped at words."""
    return _format_rows(KEYS, columns)


def _format_rows(rows: Sequence[tuple[str, str]], columns: int | None) -> str:
    longest = max(len(name) for name, _ in rows)
    lines = (f"  {name.ljust(longest)}  {summary}" for name, summary in rows)
    return "\n".join(part for line in lines for part in wrap(line, columns, longest + 4))
