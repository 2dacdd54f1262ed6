"""What `make run` and `make figures` call: the notebooks one after the other, the plan, the publication."""

import os
import signal
import sys

__all__ = ["leave"]

_SENTENCE = "\ninterrupted; run the same command again"


def leave(number, frame) -> None:
    """Answers Ctrl-C while the main job's packages are imported: torch's C++ aborts where Python raises through it."""
    os.write(2, f"{_SENTENCE}\n".encode())
    os._exit(130)


def _sentence(kind, error, trace) -> None:
    """Ctrl-C is answered by a sentence, also before a command can answer; all else as Python shows it."""
    if issubclass(kind, KeyboardInterrupt):
        print(_SENTENCE, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # a debugger's, or Jupyter's, stays
    sys.excepthook = _sentence
if "tools.run_notebooks" in sys.orig_argv[:4] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)  # until `main` begins
