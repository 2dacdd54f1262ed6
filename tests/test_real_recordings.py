"""The main job on real recordings. A file of its own, so that another test process can take it."""

import pandas as pd
import pytest
from conftest import need_shared

from tools.run_notebooks import main

pytestmark = pytest.mark.slow


def test_real_recordings_give_the_same_table(tmp_path):
    """A few real recordings in BSD10k layout: five classes with enough clips, some with too few."""
    source = need_shared("real_audio")
    metadata = pd.read_csv(source / "metadata" / "BSD10k_metadata.csv", dtype=str)
    chosen = metadata.groupby("class").head(7)
    root = tmp_path / "own recordings"
    (root / "metadata").mkdir(parents=True)
    chosen.to_csv(root / "metadata" / "BSD10k_metadata.csv", index=False)
    (root / "audio").symlink_to(source / "audio")
    assert main(["--data", str(root), "--profile", "tiny", "--runs", str(tmp_path / "runs")]) == 0
    table = pd.read_csv(tmp_path / "runs" / "own recordings-tiny" / "results.csv")
    assert len(table) >= 1
