"""What several test files share."""

import os
import signal
import sys
from pathlib import Path

# Test processes side by side: threads of each would wait for the cores that the others' hold. Before torch is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine makes no test fail.
hypothesis.settings.register_profile("haf", deadline=None)
hypothesis.settings.load_profile("haf")

REPOSITORY = Path(__file__).resolve().parent.parent
HAF = str(Path(sys.executable).with_name("haf"))  # the command line, as it is installed
SHARED = REPOSITORY.parent / "shared"  # real recordings, real metadata, golden values: not part of the repository


# What `make test-fast` leaves out of the tests of the flat files, beside all that read real data.
NETWORKS = ("test_clap", "test_hatr", "test_passt", "test_pretraining", "test_real_recordings", "test_repository")

# Plain and fast ways through the networks; `.ci/run` repeats them with HAF_FAST=0.
PARITY = ("test_clap", "test_htsat", "test_passt", "test_roberta")


def pytest_collection_modifyitems(items):
    """Mark the tests of the lanes; the longest files first, so that no process ends long after the others."""
    for item in items:
        flat = item.path.parent == REPOSITORY / "tests" and item.path.stem not in NETWORKS
        if flat and "_real_" not in item.name and "slow" not in item.keywords:
            item.add_marker("fast")
        if item.path.stem in PARITY:
            item.add_marker("parity")
    items.sort(key=lambda item: item.path.stem not in ("test_run_notebooks", "test_real_recordings"))


def need_shared(name: str) -> Path:
    """Path of the real data called `name`, or skip the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data absent: {path}")
    return path


def hear_interrupts() -> None:
    """Tests that run in a shell's background are deaf to SIGINT, and what they start would be, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`Workspace` of the embedded dataset at its smallest (made in data/tiny where it is absent), with runs of its own.

    Loading it needs torch, which takes seconds that most test files need not spend.
    """
    from haf_utils.experiment.workspace import workspace

    return workspace(profile="tiny", runs=str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(autouse=True)
def readable(request, monkeypatch):
    """Each figure that a test of the figures draws can be read: no word is smaller than 8 points."""
    if request.path.parent.name != "plots":
        yield
        return
    import matplotlib
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    from haf_utils.plots.style import style

    close, found = plt.close, []

    def checked(which=None):
        for number in plt.get_fignums():
            words = [
                text for text in plt.figure(number).findobj(Text) if text.get_visible() and text.get_text().strip()
            ]
            found.extend(f"{text.get_text()}: {text.get_fontsize():.1f}" for text in words if text.get_fontsize() < 8)
        close(which)

    monkeypatch.setattr(plt, "close", checked)
    with matplotlib.rc_context():
        style()
        yield
        checked("all")
    assert not found, found[:5]
