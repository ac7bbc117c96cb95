"""A light parent process, which is still there when a library written in C ends the process that works.

It starts a run again. The slides that were in work are marked (`wsikit.batch.begun`): the next process does them last,
each in a process of its own, so that each crash costs at most the slides in work. Of other verbs it says what happened
and what to do. Linux only; elsewhere the same run, given again, goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

STARTED_AGAIN = ("run", "retry")
"""Verbs that mark the slides in work."""

EXPLAINED = ("info", "tile", "caption", "features", "predict", "localize", "verify", "export", "import", "doctor")
"""Verbs that read files of others, and would end silently."""

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")
_STALLED = "SIGALRM"
"""By which `wsikit.batch.stalled` ends the process, having said why."""

_MOST_RESTARTS = 10
_ENDING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_FROM_TERMINAL = 0x80
"""`si_code` of a signal of the kernel, as by Ctrl-C: the process that works has got it too."""


_is_started_again = False


def is_started_again() -> bool:
    """Whether a parent starts this process again if it ends by a crash, or by having stalled."""
    return _is_started_again


def survive_crashes(verb: str) -> None:
    """Returns in a new process, which works; this one waits, starts a run again after a crash, and does not return.

    Signals that ask to end are passed on. If this process is killed, the one that works ends as well.
    """
    if (
        verb not in STARTED_AGAIN + EXPLAINED
        or not hasattr(os, "fork")
        or not hasattr(signal, "sigwaitinfo")
        or threading.active_count() > 1
    ):
        return
    global _is_started_again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    for restarts in range(_MOST_RESTARTS + 1):
        end, own_end = os.pipe()
        child = os.fork()
        if child == 0:
            _is_started_again = verb in STARTED_AGAIN
            os.close(own_end)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            threading.Thread(target=_end_with, args=(end,), name="wsikit-guard", daemon=True).start()
            return
        os.close(end)
        status = _wait(child)
        os.close(own_end)
        if os.WIFEXITED(status):
            os._exit(os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        name = _name(number)
        if name not in (*_CRASHES, _STALLED) or verb in EXPLAINED or restarts == _MOST_RESTARTS:
            break
        if name == _STALLED:
            continue
        _say(
            f"wsikit: the process ended by {name}, a crash in a library written in C. It is started again; slides "
            "that were in work are done last, each in a process of its own."
        )
    _say(_last_words(verb, number))
    os._exit(128 + number)


def _last_words(verb: str, number: int) -> str:
    ended = f"wsikit: the process ended by {_name(number)}"
    if number == signal.SIGKILL:
        return (
            f"{ended}. Perhaps the memory of this machine is too small: use fewer workers (--workers). What is "
            "complete is kept; run the same command again."
        )
    if verb in EXPLAINED and _name(number) in _CRASHES:
        return (
            f"{ended}, a crash in a library written in C, while it read the given files. Copy them again from their "
            "source, or try another reader (--reader). If several were given, give them one by one to find which; "
            "wsikit run does the others by itself."
        )
    return f"{ended}. What is complete is kept; run the same command again."


def _wait(child: int) -> int:
    """The child's status, as of `os.waitpid`; signals that ask to end are passed on to it."""
    while True:
        found = signal.sigwaitinfo({*_ENDING, signal.SIGCHLD})
        if found.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif found.si_code != _FROM_TERMINAL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, found.si_signo)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: the other end of the pipe is closed then."""
    while os.read(parent, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
