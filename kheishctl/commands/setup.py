"""``kheishctl setup``: the first key, the first route and the first agent.

Each step is a command that works by itself; setup prints it before it carries it out.
"""

import json
import sys
from typing import NamedTuple

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command
from kheishctl.client import RequestRefused
from kheishctl.commands.route import format_test
from kheishctl.commands.secret import read_value
from kheishctl.contract import Json
from kheishctl.options import drop_unset
from protocol.text import one_line

INSTRUCTIONS = "You are a helpful assistant. Be brief and exact."

STEPS = ("key", "route", "agent")

QUESTIONS = {"model": "model", "base_url": "URL of the API"}
"""The settings that setup asks for again, by themselves."""


class Provider(NamedTuple):
    """The settings that a provider's route begins with, and the usual variable of its key; None: no key.

    ``note`` explains a name that does not explain itself.
    """

    settings: Json
    variable: str | None
    needs_url: bool = False
    note: str = ""


NOTES = {"gemini": "Gemini models, by Google's API with OpenAI's protocol"}

MODEL_EXAMPLES = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-5", "google": "gemini-3-pro"}
"""A model of each provider; the others are known for several, such as ``qwen3``."""

STAND_IN_MODEL = "stand-in"
"""The model of a route without a model."""

PROVIDERS: dict[str, Provider] = {
    "anthropic": Provider({"driver": "anthropic"}, "ANTHROPIC_API_KEY"),
    "openai": Provider({"preset": "openai"}, "OPENAI_API_KEY", note="the models of OpenAI itself"),
    "google": Provider({"driver": "google"}, "GEMINI_API_KEY", note="Gemini models, by Google's own API"),
    **{
        name: Provider({"preset": name}, f"{name.upper()}_API_KEY", name == "azure", NOTES.get(name, ""))
        for name in (
            "azure",
            "deepseek",
            "fireworks",
            "gemini",
            "groq",
            "litellm",
            "mistral",
            "moonshot",
            "openrouter",
            "together",
            "xai",
            "zai",
        )
    },
    **{
        name: Provider({"preset": name}, None, note="a server on this machine, without a key")
        for name in ("llamacpp", "lmstudio", "ollama", "vllm")
    },
    "other": Provider({"driver": "openai"}, "API_KEY", True, "any server with OpenAI's protocol, by its URL"),
    "stand-in": Provider({"driver": "offline"}, None, note="no model: canned answers, to try kheish"),
}
"""The choices of ``--preset``; ``other`` is any server with OpenAI's protocol."""


def merge_settings(stored: Json, settings: Json) -> Json:
    """Return new settings of a stored route, with its other ones if they lead to the same server.

    Key, options and prices are those of that server. Several keys stay if the new one is among them.
    """
    server = ("driver", "preset")
    is_same = all(stored.get(name) == settings.get(name) for name in server)
    if not is_same or settings.get("base_url", stored.get("base_url")) != stored.get("base_url"):
        return settings
    if settings.get("auth_ref") in stored.get("auth_refs", []):
        settings = {name: value for name, value in settings.items() if name != "auth_ref"}
    merged = {**stored, **settings}
    if "auth_ref" in settings:
        merged.pop("auth_refs", None)
    return merged


def find_wrong_answer(test: Json, settings: Json) -> str | None:
    """Return the answer that a failed test of a route calls into question: ``key``, ``url`` or ``model``."""
    failed = next((check["name"] for check in test["checks"] if check["status"] == "failed"), None)
    match failed:
        case "authenticate":
            return "key"
        case "connect":
            return "url" if "base_url" in settings else None
        case "stream":
            return "model"
        case _:
            return None


class Guide:
    """One setup: its questions, and the steps that it has carried out, or with ``check`` would carry out."""

    def __init__(self, app: App, *, asks: bool, check: bool = False) -> None:
        self.app = app
        self.asks = asks
        self.check = check
        self.steps: list[Json] = []

    def ask(
        self,
        question: str,
        option: str,
        default: str | None = None,
        *,
        hidden: bool = False,
        advice: str = "an answer is needed",
    ) -> str:
        """Return the answer to a question; without a default, ``advice`` follows an empty one.

        Errors: a usage error that names the option and has the advice, if it cannot ask.
        """
        if not self.asks:
            raise click.UsageError(f"without a terminal, {option} is needed: {advice}")
        while True:
            answer = click.prompt(
                question, default=default or "", show_default=bool(default), hide_input=hidden, err=True
            )
            if str(answer).strip() or default is not None:
                return str(answer).strip()
            self.app.note(f"There is no default: {advice}.")

    def perform(self, method: str, params: Json, *words: str) -> Json:
        """Carry out one step, after the command that does the same; a dry run only validates it."""
        line = self.app.command_line(*words)
        self.app.note(f"$ {line}")
        result: Json = self.app.client.call(method, {**params, "check": True} if self.check else params)
        self.steps.append({"command": line, "result": result})
        return result

    def choose_provider(self) -> str:
        """Return the provider that a person picks from a list; an unknown one is asked for again."""
        if self.asks:
            self.app.note("Which provider?")
            for number, (name, provider) in enumerate(PROVIDERS.items(), 1):
                self.app.note(f"  {number:>2}  {name:<10}  {provider.note}".rstrip())
        names = list(PROVIDERS)
        advice = "type a number or a name of the list" if self.asks else f"one of {', '.join(names)}"
        while True:
            answer = self.ask("Number or name", "--preset", advice=advice)
            name = names[int(answer) - 1] if answer.isdecimal() and 1 <= int(answer) <= len(names) else answer
            if name in PROVIDERS:
                return name
            self.app.note(f"There is no provider '{one_line(name)}'; type its number or its name.")

    def choose_model(self, preset: str) -> str:
        """Return the model that a person names; the stand-in has none to choose."""
        if preset == "stand-in":
            return STAND_IN_MODEL
        advice = f"the provider's name of a model, such as {MODEL_EXAMPLES.get(preset, 'qwen3')}"
        return self.ask("Model", "--model", advice=advice)

    def find_key(self, provider: Provider, slot: str, *, from_stdin: bool) -> str | None:
        """Store a new key in a slot, or find one that is there; return its reference, None without a key."""
        if provider.variable is None and not from_stdin:
            return None
        words = ("secret", "put", slot, "--kind", "api_key", *(["--stdin"] if from_stdin else []))
        while True:
            if from_stdin:
                value = read_value()
            elif self.asks:
                value = self.ask("API key (hidden; Enter: one that is there already)", "", "", hidden=True)
            else:
                value = ""
            if not value:
                break
            try:
                self.perform("secret.put", {"slot_id": slot, "value": value, "kind": "api_key"}, *words)
            except RequestRefused as refused:
                if from_stdin or refused.data.get("field") != "$.params.value":
                    raise
                self.app.note(f"{refused.text}.")
                continue
            return f"slot:{slot}"
        if self._has_slot(slot):
            self.app.note(f"The key in the slot '{slot}' is used.")
            return f"slot:{slot}"
        variable = self.ask(
            "Variable of the daemon's environment",
            "--key-stdin or --auth-ref",
            provider.variable,
            advice=f"the key, or such as env:{provider.variable}",
        )
        return f"env:{variable}"

    def _has_slot(self, slot: str) -> bool:
        after = None
        while True:
            page = self.app.call("secret.list", drop_unset(after=after))
            if any(row["slot_id"] == slot for row in page["secrets"]):
                return True
            after = page["next"]
            if after is None:
                return False

    def put_route(self, route_id: str, settings: Json) -> None:
        """Store a route; a model or URL that the daemon refuses is asked for again, and nothing else is."""
        while True:
            arguments = ((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
            words = [word for pair in arguments for word in pair]
            params: Json = {"route_id": route_id, "settings": settings}
            stored = self._find_stored(route_id)
            if stored is not None:
                params["settings"] = merge_settings(stored["settings"], settings)
                params["expected_revision"] = stored["revision"]
                if params["settings"] != settings:
                    words = ["--settings", json.dumps(params["settings"], ensure_ascii=False)]
            try:
                self.perform("route.put", params, "route", "put", route_id, *words)
            except RequestRefused as refused:
                name = str(refused.data.get("field")).removeprefix("$.params.settings.")
                if not self.asks or name not in QUESTIONS:
                    raise
                self.app.note(f"{refused.text}.")
                settings[name] = self.ask(QUESTIONS[name], "", str(settings.get(name, "")) or None)
            else:
                return

    def try_route(self, route_id: str, settings: Json, slot: str) -> bool:
        """Test a route; after a failure, ask for the wrong answer only. Return whether the test succeeded."""
        while True:
            test = self.perform("route.test", {"route_id": route_id}, "route", "test", route_id)
            if not self.app.as_json:
                self.app.print(format_test(test, self.app.display()))
            if test["ok"]:
                return True
            wrong = find_wrong_answer(test, settings) if self.asks else None
            value = ""
            if wrong == "key" and settings.get("auth_ref") == f"slot:{slot}":
                value = self.ask("Another API key (hidden; Enter: leave it)", "", "", hidden=True)
                if value:
                    words = ("secret", "put", slot, "--kind", "api_key")
                    self.perform("secret.put", {"slot_id": slot, "value": value, "kind": "api_key"}, *words)
            elif wrong in ("url", "model"):
                name = "base_url" if wrong == "url" else "model"
                value = self.ask(f"Another {QUESTIONS[name]} (Enter: leave it)", "", "")
                if value:
                    settings[name] = value
                    self.put_route(route_id, settings)
            if not value:
                self.app.note("The test failed: the route is stored, and not the default. Run setup again.")
                return False

    def make_default(self, route_id: str) -> None:
        """Make a route the default one if the stand-in is, or if a person agrees."""
        default = self.app.call("daemon.status").get("default_route", "offline")
        if default == "offline" or (
            default != route_id
            and self.asks
            and click.confirm(f"Make '{route_id}' the default route instead of '{default}'?", err=True)
        ):
            self.perform("route.default", {"route_id": route_id}, "route", "default", route_id)

    def _find_stored(self, route_id: str) -> Json | None:
        """Return the current revision of a stored route; None if the store has none of this id."""
        try:
            route = self.app.call("route.get", {"route_id": route_id})
        except RequestRefused as refused:
            if refused.reason != "route_not_found":
                raise
            return None
        revisions: list[Json] = route.get("revisions", [])
        return revisions[0] if revisions else None

    def make_agent(self, name: str, instructions: str | None) -> str:
        """Store an agent's definition; return its name, since one that is refused is asked for again.

        An agent that exists is kept, unless there are instructions for it.
        """
        while True:
            try:
                self.app.call("definition.get", {"name": name})
                if instructions is None:
                    self.app.note(f"The agent '{name}' exists and stays as it is.")
                    return name
            except RequestRefused as refused:
                if refused.reason != "agent_not_found":
                    raise
            try:
                # A name that is refused must not cost the text of the instructions.
                dry_run = {"name": name, "instructions": INSTRUCTIONS, "check": True}
                self.app.client.call("definition.put", dry_run)
                break
            except RequestRefused as refused:
                if not self.asks or refused.reason != "definition_invalid":
                    raise
                self.app.note(f"{refused.text}.")
                name = self.ask("Name of your first agent", "--agent", "assistant")
        if instructions is None:
            instructions = self.ask("Its instructions", "", INSTRUCTIONS) if self.asks else INSTRUCTIONS
        words = ("definition", "put", name, "--instructions", instructions)
        self.perform("definition.put", {"name": name, "instructions": instructions}, *words)
        return name


@command(
    None,
    "setup",
    examples=(
        "kheishctl setup",
        "kheishctl setup --preset ollama --model qwen3 --agent helper --yes",
        "kheishctl setup --preset anthropic --model claude-sonnet-4-5 --key-stdin --yes < key.txt",
    ),
)
@click.option("--preset", type=click.Choice(tuple(PROVIDERS)), metavar="NAME", help="The provider.")
@click.option("--model", metavar="NAME", help="The model, as the provider knows it.")
@click.option("--base-url", metavar="URL", help="The URL of the API, for --preset other and azure.")
@click.option("--route", "route_id", metavar="ID", help="The id of the route (default: the provider).")
@click.option("--key-stdin", is_flag=True, help="Read the key from the standard input, into a slot.")
@click.option("--slot", metavar="SLOT", help="The slot of the key (default: the provider).")
@click.option("--auth-ref", metavar="REF", help="Use a key that is there: env:NAME, slot:NAME ...")
@click.option("--agent", metavar="NAME", help="The name of the agent.")
@click.option("--instructions", metavar="TEXT", help="Its instructions.")
@click.option(
    "--skip", type=click.Choice(STEPS), multiple=True, metavar="STEP", help="Skip key, route or agent."
)
@click.option("--yes", is_flag=True, help="Ask nothing: use the options and the defaults.")
@click.option("--check", is_flag=True, help="Dry run: print and validate each step, and change nothing.")
def setup(
    app: App,
    preset: str | None,
    route_id: str | None,
    key_stdin: bool,
    slot: str | None,
    auth_ref: str | None,
    agent: str | None,
    instructions: str | None,
    skip: tuple[str, ...],
    yes: bool,
    check: bool,
    **named: str | None,
) -> None:
    """Create the first key, route and agent.

    It asks for everything that no option states, and prints each step as the command that does the same. An
    answer that turns out to be wrong is asked for again, and only that. Setup can be repeated: a key, a route
    and an agent that exist stay, or are replaced by the new ones; a route to the same server keeps its other
    settings. A dry run makes no call to the provider. The exit code is 1 if the test of the route failed.
    """
    guide = Guide(app, asks=not yes and not key_stdin and sys.stdin.isatty(), check=check)
    app.call("rpc.ping")
    is_ready = True
    if "route" not in skip:
        preset = preset or guide.choose_provider()
        provider = PROVIDERS[preset]
        if auth_ref is None and "key" not in skip:
            auth_ref = guide.find_key(provider, slot or preset, from_stdin=key_stdin)
        settings: Json = {"model": named["model"] or guide.choose_model(preset), **provider.settings}
        if named["base_url"] or provider.needs_url:
            settings["base_url"] = named["base_url"] or guide.ask(
                "URL of the API", "--base-url", advice="such as https://api.example.com/v1"
            )
        if auth_ref is not None:
            settings["auth_ref"] = auth_ref
        guide.put_route(route_id or preset, settings)
        if not check:
            is_ready = guide.try_route(route_id or preset, settings, slot or preset)
            if is_ready:
                guide.make_default(route_id or preset)
    if "agent" not in skip:
        if agent is None and guide.asks:
            agent = guide.ask("Name of your first agent ('-': none)", "--agent", "assistant")
        if agent not in (None, "-"):
            agent = guide.make_agent(str(agent), instructions)
            if not check:
                app.note(f"Talk to it: {app.command_line('chat', agent)}")
    if check:
        app.note("Dry run: nothing was changed; the route was not tested.")
    if app.as_json:
        app.print_json({"ok": is_ready, "steps": guide.steps})
    click.get_current_context().exit(exit_codes.OK if is_ready else exit_codes.FAILED)
