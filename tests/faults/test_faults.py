import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_nothing_is_lost_and_the_table_has_a_row_for_each_kind():
    command = [sys.executable, str(REPOSITORY / "tests/faults"), "--kills", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = done.stdout, (REPOSITORY / "tests/README.md").read_text("utf-8")
    found, listed = (set(re.findall(r"^\| ([\w :]+?) \| \d", text, re.M)) for text in texts)
    assert found <= listed and len(found) > 15
