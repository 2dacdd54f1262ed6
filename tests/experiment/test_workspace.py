"""Ctrl-C while the embedded dataset is made ends what makes it, too."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, hear_interrupts

from haf_utils.experiment.workspace import _output


def test_an_interrupt_leaves_the_script_time_to_end_its_workers(tmp_path):
    slow = f"""
import sys, time
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # longer than subprocess.run would wait
    open({str(tmp_path / "ended")!r}, "w").close()
"""
    code = "import sys; from haf_utils.experiment.workspace import _output; print('on', flush=True)"
    code += f"; _output([sys.executable, '-c', {slow!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    assert process.stdout.readline() == b"on\n"
    time.sleep(1)  # until it sleeps
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in error and (tmp_path / "ended").exists()


def test_what_fails_is_not_taken_for_made():
    assert _output([sys.executable, "-c", "print('made')"]) == "made\n"
    with pytest.raises(RuntimeError, match="the embedded dataset could not be made: .* ended with 3"):
        _output([sys.executable, "-c", "raise SystemExit(3)"])
