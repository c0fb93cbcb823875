"""``kheishctl setup``."""

import json
import sys
from typing import get_args

import pytest

from kheishctl.commands.setup import PROVIDERS, find_wrong_answer, merge_settings
from protocol.objects.route import PresetName
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal

KEY = "sk-a-key-of-the-test"


def remove(ctl: Ctl, route: str, *, agent: str | None = None, slot: str | None = None) -> None:
    """Remove what a setup has made: other tests share the daemon."""
    assert ctl("route", "default", "--reset").code == 0
    assert ctl("route", "delete", route).code == 0
    if agent is not None:
        assert ctl("definition", "delete", agent).code == 0
    if slot is not None:
        assert ctl("secret", "delete", slot).code == 0


def test_every_preset_can_be_chosen() -> None:
    """Every server that the daemon knows is a choice."""
    presets = {name for name, provider in PROVIDERS.items() if provider.settings.get("preset") == name}
    assert presets == set(get_args(PresetName))


def test_merged_settings() -> None:
    """A route to the same server keeps what setup does not ask for; one to another server keeps nothing."""
    stored = {
        "model": "m",
        "preset": "ollama",
        "price_input": 1,
        "fallback": ["b"],
        "base_url": "http://a/v1",
    }
    again = {"model": "n", "preset": "ollama"}
    assert merge_settings(stored, again) == {**stored, "model": "n"}
    assert merge_settings(stored, {**again, "base_url": "http://b/v1"}) == {
        **again,
        "base_url": "http://b/v1",
    }
    assert merge_settings(stored, {"model": "n", "driver": "google"}) == {"model": "n", "driver": "google"}
    keys = {**stored, "auth_refs": ["env:A", "env:B"]}
    assert merge_settings(keys, {**again, "auth_ref": "env:B"}) == {**keys, "model": "n"}
    assert merge_settings(keys, {**again, "auth_ref": "env:C"}) == {
        **stored,
        **again,
        "auth_ref": "env:C",
    }


def test_it_keeps_the_other_settings(ctl: Ctl) -> None:
    """Repeated, it keeps the prices and the fallback of a stored route, and prints the whole command."""
    arguments = ["setup", "--preset", "stand-in", "--model", "m", "--route", "priced", "--skip", "agent"]
    settings = {"driver": "offline", "model": "m", "price_input": 1.0, "price_output": 2.0}
    assert ctl("route", "put", "priced", "--settings", json.dumps(settings)).code == 0
    done = ctl(*arguments, "--yes", "--json")
    assert (done.code, done.json["steps"][0]["result"]["settings"]) == (0, settings)
    assert "price_input" in done.json["steps"][0]["command"]
    remove(ctl, "priced")


def test_without_a_terminal(ctl: Ctl) -> None:
    """Options create a route and an agent; the steps are printed as commands, and can be repeated."""
    arguments = ["setup", "--preset", "stand-in", "--model", "m", "--agent", "first", "--yes"]
    done = ctl(*arguments)
    assert done.code == 0
    commands = [line.split(" ", 3)[-1] for line in done.err.splitlines() if line.startswith("$ ")]
    home = f"{ctl.home} "
    assert [command.removeprefix(home) for command in commands] == [
        "route put stand-in --model m --driver offline",
        "route test stand-in",
        "route default stand-in",
        "definition put first --instructions 'You are a helpful assistant. Be brief and exact.'",
    ]
    assert ctl.json("daemon", "status")["default_route"] == "stand-in"
    again = ctl.json(*arguments)
    assert (again["ok"], [step["result"].get("revision") for step in again["steps"]]) == (True, [1, None])
    assert ctl("send", "first", "hello").code == 0
    remove(ctl, "stand-in", agent="first")


def test_a_key_from_the_standard_input(ctl: Ctl) -> None:
    """The key goes into a slot that the route names; it is shown nowhere, and setup uses it the next time."""
    arguments = ["setup", "--preset", "other", "--base-url", "http://127.0.0.1:1/v1", "--model", "m"]
    done = ctl(
        *arguments, "--route", "keyed", "--slot", "setup-key", "--key-stdin", "--json", stdin=f"{KEY}\n"
    )
    assert (done.code, done.json["ok"]) == (1, False)
    assert KEY not in done.out + done.err
    route = ctl.json("route", "show", "keyed")
    assert route["auth_ref"] == "slot:setup-key"
    # The test of the route failed, so the default stays.
    assert "default_route" not in ctl.json("daemon", "status")
    again = ctl(*arguments, "--route", "keyed", "--slot", "setup-key", "--yes", "--json")
    assert [step["result"].get("revision") for step in again.json["steps"]] == [1, None]
    remove(ctl, "keyed", slot="setup-key")


def test_missing_options(ctl: Ctl) -> None:
    """Without a terminal, the message names the option that is needed."""
    for arguments, option in (
        ([], "--preset is needed: one of anthropic, openai, google, azure"),
        (["--preset", "ollama"], "--model is needed: the provider's name of a model, such as qwen3"),
        (["--preset", "openai", "--model", "m", "--slot", "nothing"], "--key-stdin or --auth-ref"),
        (["--preset", "other", "--model", "m", "--skip", "key"], "--base-url"),
    ):
        done = ctl("setup", *arguments)
        assert (done.code, option in " ".join(done.err.split())) == (2, True)


def test_skipped_steps(ctl: Ctl) -> None:
    """Every step can be skipped; an agent that exists stays."""
    skipped = ctl.json("setup", "--skip", "route", "--agent", "default")
    assert skipped == {"ok": True, "steps": []}


def test_on_a_terminal(ctl: Ctl) -> None:
    """A person picks a provider, and answers a question for each step."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(ctl.home), "setup", "--route", "picked"]
    with Terminal(command, {}, columns=120) as terminal:
        terminal.sees("gemini      Gemini models, by Google's API with OpenAI's protocol")
        terminal.sees("Number or name")
        terminal.say("")
        terminal.sees("There is no default: type a number or a name of the list.")
        terminal.say("stand-in")
        # The stand-in has no model to choose.
        terminal.sees("Name of your first agent")
        terminal.say("helper")
        terminal.sees("Its instructions")
        terminal.say("Help.")
        terminal.sees("chat helper")
    assert ctl.json("definition", "show", "helper")["instructions"] == "Help."
    remove(ctl, "picked", agent="helper")


def test_only_the_wrong_answer_is_asked_for_again(ctl: Ctl) -> None:
    """A typo costs one question, not the whole setup, whether the daemon or the route's test finds it."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(ctl.home), "setup"]
    with Terminal([*command, "--route", "typos", "--skip", "key"], {}, columns=120) as terminal:
        terminal.sees("Number or name")
        terminal.say("othr")
        terminal.sees("There is no provider 'othr'")
        terminal.say("other")
        terminal.sees("Model:")
        terminal.say("")
        terminal.sees("There is no default: the provider's name of a model, such as qwen3.")
        terminal.say("m")
        terminal.sees("URL of the API:")
        terminal.say("nonsense")
        terminal.sees("URL of the API [nonsense]:")
        terminal.say("http://127.0.0.1:1/v1")
        terminal.sees("Another URL of the API (Enter: leave it)")
        terminal.say("")
        terminal.sees("The test failed")
        terminal.say("A B")
        terminal.sees("Name of your first agent [assistant]:")
        terminal.say("typist")
        terminal.sees("Its instructions")
        terminal.say("Help.")
        terminal.sees("chat typist")
    assert ctl.json("route", "show", "typos")["base_url"] == "http://127.0.0.1:1/v1"
    assert ctl.json("definition", "show", "typist")["instructions"] == "Help."
    remove(ctl, "typos", agent="typist")


@pytest.mark.parametrize(
    ("step", "settings", "answer"),
    [
        ("authenticate", {}, "key"),
        ("connect", {"base_url": "http://a"}, "url"),
        ("connect", {}, None),
        ("stream", {}, "model"),
        ("tool_call", {}, None),
    ],
)
def test_the_wrong_answer(step: str, settings: dict[str, str], answer: str | None) -> None:
    """The failed step says which answer to ask for again; none if no answer could have caused it."""
    checks = [{"name": "usage", "status": "ok"}, {"name": step, "status": "failed"}]
    assert find_wrong_answer({"checks": checks}, settings) == answer


def test_a_dry_run(ctl: Ctl) -> None:
    """A dry run prints and validates the steps, and changes nothing."""
    arguments = ["setup", "--preset", "ollama", "--model", "m", "--agent", "dry", "--yes", "--check"]
    done = ctl(*arguments)
    assert (done.code, done.err.count("$ "), "nothing was changed" in done.err) == (0, 2, True)
    assert (ctl("route", "show", "ollama").code, ctl("definition", "show", "dry").code) == (1, 1)
    refused = ctl(*arguments, "--base-url", "nonsense")
    assert (refused.code, "base_url" in refused.err) == (1, True)
