"""The filter of system calls in the sandbox: a program for the kernel's seccomp, made for this machine.

It is a denylist of calls that no build, test or script needs and that reach far into the kernel: key rings,
tracing of other processes, mounts, new namespaces, BPF, io_uring, modules. Sockets are an allowlist of
address families: local ones and the internet's. A denied call fails with EPERM, and the program goes on.

Written by hand: ``pyseccomp`` and ``seccomp`` on PyPI need libseccomp on the machine, for a program of a
hundred instructions that never changes.

A process of a foreign ABI (32-bit code on a 64-bit machine) is killed: the numbers of its calls mean
something else. The number of ``clone3`` says nothing about its flags, which are in memory, so it does not
exist (ENOSYS), and the C library uses ``clone``.
"""

import errno
import os
import socket
import struct
from typing import Final

from protocol.structs import Value

# <linux/bpf_common.h>, <linux/seccomp.h>: the offsets are those of struct seccomp_data, little-endian.
_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_IF_BITS: Final = 0x45
_RETURN: Final = 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

# All CLONE_NEW* flags; that of time namespaces is a signal number to ``clone``, so only ``unshare`` takes it.
_NAMESPACES: Final = 0x7E020000
_TIME_NAMESPACE: Final = 0x80

# Calls of x32, the second ABI of x86_64, have this bit in their number.
_X32: Final = 0x40000000

# ioctl requests that put characters into a terminal's input.
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C

_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

# The same numbers everywhere: calls that are newer than the unification of the tables.
_NEW_CALLS: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}
_CLONE3: Final = 435


class Machine(Value, frozen=True):
    """The numbers of one architecture's calls; ``denied`` fail with EPERM."""

    audit: int
    clone: int
    unshare: int
    socket: int
    socketpair: int
    ioctl: int
    denied: dict[str, int]
    second_abi: int | None = None


MACHINES: Final = {
    "x86_64": Machine(
        audit=0xC000003E,
        clone=56,
        unshare=272,
        socket=41,
        socketpair=53,
        ioctl=16,
        second_abi=_X32,
        denied={
            **{"ptrace": 101, "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153},
            **{"modify_ldt": 154, "pivot_root": 155, "_sysctl": 156, "acct": 163, "settimeofday": 164},
            **{"mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "iopl": 172},
            **{"ioperm": 173, "create_module": 174, "init_module": 175, "delete_module": 176},
            **{"get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180},
            **{"lookup_dcookie": 212, "clock_settime": 227, "kexec_load": 246, "add_key": 248},
            **{"request_key": 249, "keyctl": 250, "perf_event_open": 298, "fanotify_init": 300},
            **{"name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308},
            **{"process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313},
            **{"kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "chroot": 161},
            **_NEW_CALLS,
        },
    ),
    "aarch64": Machine(
        audit=0xC00000B7,
        clone=220,
        unshare=97,
        socket=198,
        socketpair=199,
        ioctl=29,
        denied={
            **{"lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42},
            **{"chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89, "kexec_load": 104},
            **{"init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116},
            **{"ptrace": 117, "reboot": 142, "settimeofday": 170, "add_key": 217, "request_key": 218},
            **{"keyctl": 219, "swapon": 224, "swapoff": 225, "perf_event_open": 241},
            **{"fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265},
            **{"clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271},
            **{"kcmp": 272, "finit_module": 273, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294},
            **_NEW_CALLS,
        },
    ),
}
"""The architectures with a filter; on others the sandbox has none, and the daemon's log says so."""


def build_filter(machine: Machine) -> bytes:
    """Return the program for an architecture, as an array of struct sock_filter.

    Shape:  jumps go forward by at most 255 instructions, so each check of arguments ends by itself.
    """
    denied = sorted(machine.denied.values())
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, machine.audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine.second_abi is not None:
        steps += [_step(_IF_AT_LEAST, machine.second_abi, 0, 1), _refuse(errno.EPERM)]
    for number in (machine.socket, machine.socketpair):
        checks = [_step(_LOAD, _FIRST)]
        checks += [
            _step(_IF_EQUAL, family, len(_FAMILIES) - index, 0) for index, family in enumerate(_FAMILIES)
        ]
        steps += _only(number, [*checks, _refuse(errno.EAFNOSUPPORT), _step(_RETURN, _ALLOW)])
    for number, flags in (
        (machine.clone, _NAMESPACES),
        (machine.unshare, _NAMESPACES | _TIME_NAMESPACE),
    ):
        checks = [_step(_LOAD, _FIRST), _step(_IF_BITS, flags, 0, 1), _refuse(errno.EPERM)]
        steps += _only(number, [*checks, _step(_RETURN, _ALLOW)])
    checks = [_step(_LOAD, _SECOND), _step(_IF_EQUAL, _TIOCSTI, 1, 0), _step(_IF_EQUAL, _TIOCLINUX, 0, 1)]
    steps += _only(machine.ioctl, [*checks, _refuse(errno.EPERM), _step(_RETURN, _ALLOW)])
    steps += _only(_CLONE3, [_refuse(errno.ENOSYS)])
    steps += [_step(_IF_EQUAL, number, len(denied) - index, 0) for index, number in enumerate(denied)]
    steps += [_step(_RETURN, _ALLOW), _refuse(errno.EPERM)]
    return b"".join(steps)


def open_filter() -> int | None:
    """Return a descriptor from which the program for this machine can be read; None without one."""
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        return None
    # Each reader moves the position, so every command needs a file of its own.
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, build_filter(machine))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERROR | number)


def _only(number: int, checks: list[bytes]) -> list[bytes]:
    """Return checks for one call; other calls skip them, and still have their number loaded."""
    return [_step(_IF_EQUAL, number, 0, len(checks)), *checks]
