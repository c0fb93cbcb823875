"""The filter of system calls, executed by a small interpreter: for machines that this one is not, too."""

import errno
import os
import socket
import struct

import pytest

from kheishd.hooks.os.shell.seccomp import MACHINES, build_filter, open_filter

ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
EPERM = ERROR | errno.EPERM
NEWUSER, NEWTIME, FILES = 0x10000000, 0x80, 0x400


def run(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """Return the verdict of a program about a call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *padded)
    steps = list(struct.iter_unpack("<HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, operand = steps[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x06:
                return int(operand)
            case 0x15:
                position += if_true if accumulator == operand else if_false
            case 0x35:
                position += if_true if accumulator >= operand else if_false
            case 0x45:
                position += if_true if accumulator & operand else if_false
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize("name", MACHINES)
def test_verdicts(name: str) -> None:
    """Dangerous calls fail, sockets are those of the machine and the internet, and all others pass."""
    machine = MACHINES[name]
    program = build_filter(machine)

    def verdict(number: int, *arguments: int) -> int:
        return run(program, machine.audit, number, *arguments)

    assert {verdict(number) for number in machine.denied.values()} == {EPERM}
    for denied in ("ptrace", "keyctl", "mount", "bpf", "io_uring_setup", "process_vm_readv", "setns"):
        assert denied in machine.denied
    special = {machine.clone, machine.unshare, machine.socket, machine.socketpair, machine.ioctl, 435}
    for number in set(range(480)) - set(machine.denied.values()) - special:
        assert verdict(number) == ALLOW, number
    for call in (machine.socket, machine.socketpair):
        for family in range(60):
            usual = family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
            assert verdict(call, family) == (ALLOW if usual else ERROR | errno.EAFNOSUPPORT)
    assert verdict(machine.clone, 17) == verdict(machine.unshare, FILES) == ALLOW
    assert verdict(machine.clone, NEWUSER | 17) == verdict(machine.unshare, NEWTIME) == EPERM
    # A signal number of a clone looks like the flag of time namespaces.
    assert verdict(machine.clone, NEWTIME) == ALLOW
    assert verdict(435) == ERROR | errno.ENOSYS
    for request in (0x5412, 0x541C, 0x1_0000_5412):
        assert verdict(machine.ioctl, 0, request) == EPERM
    assert verdict(machine.ioctl, 0, 0x5413) == ALLOW


@pytest.mark.parametrize("name", MACHINES)
def test_foreign_calls(name: str) -> None:
    """A process of another architecture is killed, and a second set of numbers is of no use."""
    machine = MACHINES[name]
    program = build_filter(machine)
    for foreign in (0x40000003, 0x40000028, *(other.audit for other in MACHINES.values())):
        assert run(program, foreign, 400) == (ALLOW if foreign == machine.audit else KILL)
    assert run(program, MACHINES["x86_64"].audit, 0x40000000 | 101) in (EPERM, KILL)


def test_each_command_reads_it_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every descriptor has the whole program; an unknown machine has none."""
    for _ in range(2):
        descriptor = open_filter()
        if descriptor is None:
            pytest.skip(f"there is no filter for {os.uname().machine}")
        assert os.read(descriptor, 100_000) == build_filter(MACHINES[os.uname().machine])
        os.close(descriptor)
    monkeypatch.setattr("kheishd.hooks.os.shell.seccomp.MACHINES", {})
    assert open_filter() is None
