"""What Windows lacks or refuses, on any system: its absence of POSIX, and its hold on files that are open or mapped.

Libraries choose their own way by the system that they are on, and are left alone: what is missing is missing for code
of atlas, and what files refuse they refuse to everybody.
"""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

MODULES = {
    "crypt",
    "fcntl",
    "grp",
    "nis",
    "ossaudiodev",
    "posix",
    "pty",
    "pwd",
    "resource",
    "spwd",
    "syslog",
    "termios",
}
MODULES |= {"tty", "readline", "curses"}
FUNCTIONS = (
    *("chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp", "getuid"),
    *("initgroups", "killpg", "mkfifo", "nice", "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "setsid"),
    *("statvfs", "sysconf", "uname", "wait", "waitid", "wait3", "wait4"),
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC"),
)
SIGNALS = ("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2")


class _Without:
    """A module without some of its names."""

    def __init__(self, module, missing):
        self._module, self._missing = module, missing

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._module, name)


def become(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process lack what Windows lacks; modules of atlas that are loaded are changed, too.

    Args:
        folder: whose files cannot be moved or removed while they are in use.
    """
    patch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)  # some signal that nothing else uses
    _hide(patch)
    _hold_files(patch, os.path.realpath(folder) + os.sep)


def _hide(patch: pytest.MonkeyPatch) -> None:
    missing = {"os": _Without(os, {*FUNCTIONS}), "signal": _Without(signal, {*SIGNALS})}
    load = builtins.__import__

    def imported(name, globals=None, *rest, **more):
        if not (globals or {}).get("__name__", "").startswith("atlas_cli"):
            return load(name, globals, *rest, **more)
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        return missing.get(name) or load(name, globals, *rest, **more)

    patch.setattr(builtins, "__import__", imported)
    for module in [each for name, each in sys.modules.items() if name.startswith("atlas_cli")]:
        for name, stand_in in missing.items():
            if getattr(module, name, None) is stand_in._module:
                patch.setattr(module, name, stand_in)


def _hold_files(patch: pytest.MonkeyPatch, folder: str) -> None:
    def in_use(path: str | os.PathLike[str]) -> bool:
        """Whether this process has a file open or mapped, or one inside a folder; locks are left to their library."""
        whole = os.path.realpath(path)
        if not whole.startswith(folder):
            return False
        opened = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_there(fd)}
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        mapped = {words[5] for line in lines if len(words := line.split(maxsplit=5)) > 5}
        held = {each for each in opened | mapped if not each.endswith(".lock")}
        return any(each == whole or each.startswith(whole + os.sep) for each in held)

    def unless_in_use(function):
        def call(*paths, **options):
            for path in paths:
                if os.path.lexists(path) and in_use(path):
                    error = PermissionError(errno.EACCES, "it is being used by another process", os.fspath(path))
                    error.winerror = 32
                    raise error
            return function(*paths, **options)

        return call

    for name in ("unlink", "remove", "rename", "replace"):
        patch.setattr(os, name, unless_in_use(getattr(os, name)))
    open_any, kill = os.open, os.kill

    def open_file(path, *rest, **options):
        if os.path.isdir(path) and os.path.realpath(path).startswith(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return open_any(path, *rest, **options)

    def ask_or_end(pid, number):
        if number != signal.SIGBREAK:
            raise AssertionError(f"os.kill({pid}, {number}) ends a process on Windows, whatever the signal")
        kill(pid, number)

    patch.setattr(shutil, "_use_fd_functions", False)
    patch.setattr(os, "open", open_file)
    patch.setattr(os, "kill", ask_or_end)


def _is_there(descriptor: str) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()
