"""The daemon's own methods, over a socket."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import to_builtins

from kheishd.config.sections.config import Config
from kheishd.kernel.master_key import write_master_keys
from kheishd.kernel.runtime import Runtime
from kheishd.objects.node.daemon import HANDLERS, backup_path
from kheishd.store.backup import restore
from kheishd.store.tables import JOURNAL
from kheishd.store.writer import Store
from protocol.errors.daemon import ConfigInvalid, PathRefused
from protocol.objects.daemon import Counts, DaemonStatus, Disk
from tests.support.histories import dump, rich_history
from tests.support.rpc_server import FakeControl, rpc_server
from tests.support.runtimes import make_runtime


@dataclass
class Control(FakeControl):
    """Controls that report a status."""

    def status(self) -> DaemonStatus:
        return DaemonStatus(
            version="1",
            pid=os.getpid(),
            uptime_s=1.5,
            started_at_ms=1,
            schema=1,
            generation=1,
            home="/h",
            listeners=[],
            counts=Counts(
                sessions=0,
                conversations=0,
                runs=0,
                runs_active=0,
                runs_ready=0,
                tokens=0,
                connections=0,
                subscriptions=0,
            ),
            disk=Disk(path="/h/state", used_bytes=0, file_bytes=0, free_bytes=0, map_bytes=0),
            cursor=0,
            memory_bytes=0,
            warnings=["the disk is nearly full"],
        )

    def config_path(self) -> str | None:
        return "/h/config.toml"


def runtime() -> Runtime:
    """Make a runtime with a configuration."""
    return make_runtime(3, default_agent="writer")


async def test_daemon_status_ok(tmp_path: Path) -> None:
    """The daemon reports its status."""
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        status = await (await server.connect()).call("daemon.status")
    assert (status["pid"], status["uptime_s"], status["warnings"]) == (
        os.getpid(),
        1.5,
        ["the disk is nearly full"],
    )


async def test_daemon_reload_ok(tmp_path: Path) -> None:
    """A reload returns the new generation and the skipped agents."""
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        assert await (await server.connect()).call("daemon.reload") == {"generation": 2, "warnings": []}


async def test_daemon_reload_config_invalid(tmp_path: Path) -> None:
    """The refusal names the key and the line."""
    control = Control(problem="config.toml:2: defualt_agent: unknown key")
    async with rpc_server(tmp_path, HANDLERS, control=control) as server:
        client = await server.connect()
        with pytest.raises(ConfigInvalid, match=r"config\.toml:2: defualt_agent"):
            await client.call("daemon.reload")


async def test_daemon_shutdown_ok(tmp_path: Path) -> None:
    """The daemon begins to stop with the given drain time, and answers."""
    control = Control()
    async with rpc_server(tmp_path, HANDLERS, control=control) as server:
        client = await server.connect()
        assert await client.call("daemon.shutdown", drain_s=2.5) == {"pid": os.getpid()}
    assert control.shutdowns == [2.5]


async def test_daemon_config_ok(tmp_path: Path) -> None:
    """The configuration in force is returned with its generation and its path."""
    async with rpc_server(tmp_path, HANDLERS, control=Control(), runtimes=runtime()) as server:
        result = await (await server.connect()).call("daemon.config")
    assert (result["generation"], result["path"]) == (3, "/h/config.toml")
    assert result["config"] == to_builtins(Config(default_agent="writer"))


async def test_daemon_backup_ok(tmp_path: Path) -> None:
    """A backup restores to the same content."""
    target = tmp_path / "copy"
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        await server.token()
        made = await (await server.connect()).call("daemon.backup", path=str(target))
        original = dump(server.state.store)
    assert made["path"] == str(target)
    assert made["bytes"] == sum(file.stat().st_size for file in target.iterdir())
    restore(target, tmp_path / "restored")
    store = Store.open(tmp_path / "restored", on_group=lambda group: None, threaded=False, version="test")
    restored = dump(store)
    store.close()
    meta = dict(restored.pop("meta"))
    assert meta.items() >= dict(original.pop("meta")).items()
    assert restored == original
    assert made["cursor"] == max(key[0] for key, _ in restored["cursors"])


async def test_daemon_backup_path_refused(tmp_path: Path) -> None:
    """A refused path is named as a field, and nothing is created."""
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        client = await server.connect()
        with pytest.raises(PathRefused) as refused:
            await client.call("daemon.backup", path="copy")
    assert refused.value.field == "$.params.path"


def test_backup_paths(tmp_path: Path) -> None:
    """Each rule for the path of a backup has its own message; a good path is returned."""
    state = tmp_path / "home" / "state"
    state.mkdir(parents=True)
    (tmp_path / "link").symlink_to(state)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path, words in (
        ("copy", "not an absolute path"),
        (f"{tmp_path}/a\0b", "not an absolute path"),
        (str(tmp_path / "home"), "exists already"),
        (str(tmp_path / "dangling"), "exists already"),
        (str(tmp_path / "gone" / "copy"), "is not a directory"),
        (str(state / "copy"), "inside the store's own"),
        (str(tmp_path / "link" / "copy"), "inside the store's own"),
        (str(tmp_path / "home" / ".." / "home" / "state" / "x"), "inside the store's own"),
    ):
        with pytest.raises(PathRefused, match=words):
            backup_path(path, state)
    assert backup_path(str(tmp_path / "copy"), state) == tmp_path / "copy"


async def test_daemon_metrics_ok(tmp_path: Path) -> None:
    """The metrics are served over the wire, and count the refusals before them."""
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        client = await server.connect()
        with pytest.raises(PathRefused):
            await client.call("daemon.backup", path="relative")
        result = await client.call("daemon.metrics")
    samples = {metric["name"]: metric["samples"] for metric in result["metrics"]}
    assert samples["kheish_refusals_total"] == [{"value": 1.0, "labels": {"reason": "path_refused"}}]
    assert result["started_at_ms"] <= result["at_ms"]


async def test_daemon_doctor_ok(tmp_path: Path, store_dir: Path) -> None:
    """The doctor examines a store with history over the wire, deep or not."""
    store = Store.open(store_dir, on_group=lambda group: None, threaded=False, version="test")
    rich_history(store)
    with store.read() as snapshot:
        streams = {key[0] for key, _ in snapshot.scan(JOURNAL)}
    store.close()
    async with rpc_server(tmp_path, HANDLERS, control=Control()) as server:
        client = await server.connect()
        (finding,) = (await client.call("daemon.doctor"))["findings"]
        assert (finding["kind"], "is missing; put it back" in finding["message"]) == ("unreadable", True)
        write_master_keys(tmp_path / "master.key", [bytes(32)], replaces=False)
        server.services.secrets.reload_keys()
        for deep in (False, True):
            diagnosis = await client.call("daemon.doctor", deep=deep)
            assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)
            assert diagnosis["streams"] == len(streams)
