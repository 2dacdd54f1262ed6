"""What `make run` and `make figures` call: the notebooks one after the other, the plan, the publication."""

import sys


def _sentence(kind, error, trace) -> None:
    """Ctrl-C at any moment, also while torch is imported, is answered by a sentence; all else as Python shows it."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted; run the same command again", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # a debugger's, or Jupyter's, stays
    sys.excepthook = _sentence
