"""Each figure that a test of these draws can be read: no word is smaller than 8 points."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from haf_utils.plots.style import style


def small_words(figure) -> list[str]:
    words = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [f"{text.get_text()}: {text.get_fontsize():.1f}" for text in words if text.get_fontsize() < 8]


@pytest.fixture(autouse=True)
def readable(monkeypatch):
    close, found = plt.close, []

    def checked(which=None):
        for number in plt.get_fignums():
            found.extend(small_words(plt.figure(number)))
        close(which)

    monkeypatch.setattr(plt, "close", checked)
    with matplotlib.rc_context():
        style()
        yield
        checked("all")
    assert not found, found[:5]
