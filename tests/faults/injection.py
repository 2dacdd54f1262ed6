"""Faults at the n-th file operation of a forked process: a kill, an error, a delay.

Counted are, below one folder, what Python reports to audit hooks (open, rename, replace, remove, mkdir), and calls of
fsync and of write. A kill in a write leaves half of it. Of what libraries write in C++, creation and renaming count.
"""

import builtins
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from haf_utils.io.progress import FORESEEABLE

_AUDITED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_REAL = builtins.open


@dataclass
class Injector:
    """Does `action` ("kill", "delay", or an errno) at operation number `at` below `root`; 0: only counts."""

    root: str
    at: int = 0
    action: str | int = "kill"
    count: int = 0

    def tick(self, path, write: Callable[[], object] = lambda: None) -> None:
        if not isinstance(path, str | os.PathLike) or not os.path.abspath(os.fspath(path)).startswith(self.root):
            return
        self.count += 1
        if self.count == self.at and self.action == "delay":
            time.sleep(0.3)
        elif self.count == self.at and self.action == "kill":
            write()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.count == self.at:
            raise OSError(self.action, os.strerror(self.action), str(path))

    def install(self) -> None:
        injector = self

        class Raw(io.FileIO):
            def write(self, data) -> int:
                view = memoryview(data).cast("B")
                injector.tick(self.name, lambda: io.FileIO.write(self, view[: len(view) // 2]))
                return super().write(data)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest):
            if not set(mode) & set("wax+") or not isinstance(file, str | os.PathLike):
                return _REAL(file, mode, buffering, encoding, errors, newline, *rest)
            raw = Raw(os.fspath(file), mode.replace("b", "").replace("t", ""), *rest)
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            in_text = "b" not in mode
            return io.TextIOWrapper(buffered, encoding, errors, newline) if in_text else buffered if buffering else raw

        def fsync(descriptor) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            injector.tick(os.readlink(f"/proc/self/fd/{number}"))
            real_fsync(number)

        real_fsync, os.fsync = os.fsync, fsync
        builtins.open = io.open = opened
        sys.addaudithook(lambda event, arguments: injector.tick(arguments[0]) if event in _AUDITED else None)


@dataclass
class Ended:
    """How a process ended: "done", "sentence" (a user can mend it), "killed", "mistake" (any other error) or "hangs";
    its result, the message, operations counted, and most memory (bytes)."""

    how: str
    result: object = None
    message: str = ""
    count: int = 0
    memory: int = 0


def run(work: Callable[[], object], injector: Injector | None = None) -> Ended:
    """`work()`, whose result is plain JSON, in a forked process with the faults of `injector`."""
    return start(work, injector)()


def start(work: Callable[[], object], injector: Injector | None = None) -> Callable[[], Ended]:
    """Start what `run` runs -> function that waits for it, 120 s at most."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        ended = Ended("done")
        try:
            if injector:
                injector.install()
            ended.result = work()
        except FORESEEABLE as error:
            ended.how, ended.message = "sentence", str(error) or type(error).__name__
        except BaseException:
            ended.how, ended.message = "mistake", traceback.format_exc()
        ended.count = injector.count if injector else 0
        ended.memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writer, json.dumps(vars(ended))[-60_000:].encode())
        os._exit(0)
    os.close(writer)

    def wait() -> Ended:
        until = time.monotonic() + 120
        while not (found := os.waitpid(process, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                os.close(reader)
                return Ended("hangs")
            time.sleep(0.005)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        return Ended(**json.loads(said)) if said and found[1] == 0 else Ended("killed", message=str(found[1]))

    return wait
