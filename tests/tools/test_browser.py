"""JupyterLab and the demo in a real browser, headless Chromium. Only where HAF_TEST_BROWSER=1.

Spoken to by Chromium's debugging protocol, for which a websocket is enough.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import websocket
from conftest import REPOSITORY

from tools import site
from tools.lab import WORK, working_copy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("HAF_TEST_BROWSER") != "1", reason="HAF_TEST_BROWSER=1 switches it on"),
]


def until(question, seconds, what):
    """The first true answer to `question()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := question()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return found


class Page:
    """One page of a browser; `errors`: what its console complained of."""

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.errors, self.events, self.number = [], [], 0
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)
            said = message.get("params", {})
            if message["method"] == "Runtime.exceptionThrown":
                self.errors.append(said["exceptionDetails"].get("exception", {}).get("description", str(said)))
            elif message["method"] == "Runtime.consoleAPICalled" and said["type"] == "error":
                self.errors.append(
                    str([argument.get("value") or argument.get("description") for argument in said["args"]])
                )
            elif message["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
                self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def js(self, expression: str):
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def run_all(self, seconds: int) -> None:
        """Run the open notebook to its end."""
        here = "[...(window.jupyterapp?.shell.widgets('main') || [])][0]?.sessionContext?.session?.kernel?.status"
        until(lambda: self.js(here) == "idle", 120, "a kernel")
        self.js("void window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.ended = true)")
        until(lambda: self.js("window.ended"), seconds, "all cells")
        assert self.js("document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.stderr\"] .ansi-red-fg, "
                       ".jp-RenderedText[data-mime-type=\"application/vnd.jupyter.error\"]').length") == 0  # fmt: skip

    def choose(self, which: int, index: int) -> None:
        """Option `index` of the menu number `which`."""
        self.js(
            f"(menu => {{menu.selectedIndex = {index}; menu.dispatchEvent(new Event('change', {{bubbles: true}}))}})"
            f"(document.querySelectorAll('.widget-dropdown select')[{which}])"
        )

    def shown(self) -> list:
        """The sources of the picture and of the player below the widget."""
        below = "document.querySelector('.widget-dropdown')?.closest('.widget-vbox')"
        return self.js(
            f"['img', 'audio'].map(tag => ({below}?.querySelector(tag + '[src], ' + tag + ' [src]') || {{}}).src)"
        )

    def settled(self) -> list:
        """The same, once both are there and have not changed for two seconds."""

        def still():
            first = self.shown()
            time.sleep(2)
            return first if all(first) and self.shown() == first else None

        return until(still, 120, "a picture and a player")


@contextmanager
def jupyterlab(root: Path, module: str, *arguments, **environment):
    """Address and token of the JupyterLab that `python -m module arguments` becomes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = root / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # all cells are in the page
    own = {"JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "JUPYTER_DATA_DIR": str(root / "data")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces")}
    options = [f"--ServerApp.port={port}", "--no-browser", "--allow-root", "--IdentityProvider.token=t"]
    surroundings = {name: value for name, value in os.environ.items() if name != "HAF_PROGRESS"}  # as a user has it
    with open(root / "lab.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *options],
            cwd=REPOSITORY, env=surroundings | own | environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: f"http://127.0.0.1:{port}/" in (root / "lab.log").read_text(), 120, "JupyterLab")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab on a working copy at tiny size, with a folder for runs."""
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(root / "data"))
        working_copy(REPOSITORY / "notebooks", root / WORK.name)
    for path in (root / WORK.name).glob("0[146]_*.ipynb"):
        text = path.read_text("utf-8").replace('profile: str = \\"mini\\"', 'profile: str = \\"tiny\\"')
        path.write_text(text.replace('runs: str = \\"\\"', f'runs: str = \\"{root / "runs"}\\"'), "utf-8")
    options = f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"
    with jupyterlab(root, "tools.lab", *options, HAF_OUTPUTS=str(root / "outputs")) as address:
        yield address


@pytest.fixture
def demo(tmp_path, tiny):
    """Address of the demo, with two runs of "ours" of its own."""
    from haf_utils.experiment.finetune import finetune
    from haf_utils.experiment.members import member_configs

    some = ("smoothing (ours)", "plain (ours)"), "Equal"
    for config in member_configs(tiny, systems={"ours": some}, epochs=1)[0].values():
        finetune(config, quiet=True)
    with jupyterlab(tmp_path, "tools.demo", tiny.runs) as address:
        yield address


@pytest.fixture
def page(tmp_path):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "chromium is not installed"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"]
    browser = subprocess.Popen(
        [program, *options, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        port = tmp_path / "profile" / "DevToolsActivePort"
        until(lambda: port.is_file() and len(port.read_text().splitlines()) == 2, 60, "Chromium")
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json") as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        yield Page(target["webSocketDebuggerUrl"])
    finally:
        os.killpg(browser.pid, signal.SIGTERM)
        browser.wait(30)


@pytest.mark.parametrize(
    "notebook, menu, seconds",
    [("01_data_exploration", 1, 300), ("04_finetuning", 0, 600), ("06_ensemble_evaluation", 1, 600)],
)
def test_the_explorer_shows_and_plays_the_clip_that_is_chosen(lab, page, notebook, menu, seconds):
    page.open(f"{lab}/lab/tree/{WORK.name}/{notebook}.ipynb?token=t&reset")
    page.run_all(seconds)
    shown = page.settled()
    for clip in (1, 2):
        page.choose(menu, clip)

        def another(before=shown):
            now = page.settled()
            return now if all(new != old for new, old in zip(now, before, strict=True)) else None

        shown = until(another, 120, "another picture and another sound")
    assert not page.errors, page.errors
    assert "official Jupyter news" not in page.js("document.body.innerText")


def test_a_mark_on_the_map_of_the_page_tells_and_plays_its_clip(page, tmp_path):
    notebook = nbformat.read(REPOSITORY / "notebooks" / "04_finetuning.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "spots" in str(cell.get("outputs"))]
    (tmp_path / "map.html").write_text(site.page(notebook, "map"), "utf-8")
    page.open((tmp_path / "map.html").as_uri())
    until(lambda: page.js("!!document.querySelector('circle')"), 60, "the map")
    page.js("document.querySelector('circle').dispatchEvent(new MouseEvent('click'))")
    until(lambda: page.js("document.querySelector('audio').duration > 0"), 20, "a sound")
    told = page.js("document.querySelector('audio').previousElementSibling.innerText")
    assert told and told == page.js("document.querySelector('circle').textContent")
    assert page.js("document.querySelectorAll('.chosen').length") == 2 and not page.errors, page.errors


def test_the_pages_show_the_diagram_that_jupyterlab_draws(lab, page, tmp_path):
    notebook = (REPOSITORY / "notebooks" / "06_ensemble_evaluation.ipynb").read_text("utf-8")
    code = "".join(line for cell in json.loads(notebook)["cells"] for line in cell["source"])
    kept = site.diagram(re.search("```mermaid\n(.*?)```", code, re.S)[1])
    page.open(f"{lab}/lab/tree/{WORK.name}/06_ensemble_evaluation.ipynb?token=t&reset")
    drawn = until(lambda: page.js("document.querySelector('.jp-RenderedMermaid img')?.src"), 120, "the diagram")
    drawn = "<svg" + unquote(drawn).partition("<svg")[2]
    new = tmp_path / kept.name
    new.write_text(drawn, "utf-8")
    assert kept.is_file(), f"the diagram has changed: copy {new} to {kept.parent}"
    words = [
        re.sub("<style.*?</style>|<[^>]*>", " ", file.read_text("utf-8"), flags=re.S).split() for file in (new, kept)
    ]
    assert words[0] == words[1] and "attention" in words[0]


def test_the_demo_answers_a_sound_words_and_a_bad_file(demo, page, tmp_path):
    page.open(f"{demo}/?token=t")  # leads to the page, which runs itself
    until(lambda: page.js("!!document.querySelector('.widget-upload, .jupyter-button')"), 240, "the upload")
    page.call("Page.setInterceptFileChooserDialog", enabled=True)

    def drop(file: Path) -> None:
        page.js("document.querySelector('.widget-upload, .jupyter-button').click()")
        chosen = until(
            lambda: page.js("1") and [e for e in page.events if e["method"] == "Page.fileChooserOpened"], 20, "?"
        )
        page.events.clear()
        page.call("DOM.setFileInputFiles", files=[str(file)], backendNodeId=chosen[0]["params"]["backendNodeId"])

    image = "(document.querySelector('.jp-OutputArea-output img') || {}).src"
    drop(next((REPOSITORY / "data" / "tiny" / "evaluation" / "audio").iterdir()))
    without_words = until(lambda: page.js(image), 120, "an answer")
    until(lambda: page.js("document.querySelectorAll('audio').length") == 5, 60, "the nearest clips")
    say = "for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true}))"
    page.js(f"(box => {{box.value = 'a dog barks'; {say}}})(document.querySelector('.widget-text input'))")
    until(lambda: page.js(image) not in (None, without_words), 60, "another answer")
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    drop(bad)
    until(lambda: "a text or a web page, no recording" in page.js("document.body.innerText"), 60, "the reason")
    assert not page.errors, page.errors
    assert "official Jupyter news" not in page.js("document.body.innerText")
