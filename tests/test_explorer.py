"The explorers in a real browser: JupyterLab on this machine, Debian's chromium, every control moved with mouse and keyboard."
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

from memloc.data import add_label_noise, load, sample
from memloc.dropout import mode_accuracy, mode_answers
from memloc.neurons import accuracy_without, answers_without, remove_neurons
from memloc.patterns import fit_dcgan, maximize, pattern_scales, probabilities
from memloc.rewinding import rewind
from memloc.fitting import scales
from memloc.training import Run, preset

NBS = Path(__file__).resolve().parent.parent / "nbs"
PRESET = os.environ.get("MEMLOC_EXPLORER_PRESET", "smoke")     # latencies that mean something are measured with `laptop`
PICTURES = os.environ.get("MEMLOC_SCREENSHOTS")                # a folder to keep the screenshots in
NAMES = ["RewindExplorer", "GradientExplorer", "NeuronExplorer", "DropoutExplorer", "PatternExplorer"]   # as they come in the chapter


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of a JupyterLab, and the folder that it shows: a copy of the chapter, and of the runs that are there"
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NBS / "13_explorer.ipynb", folder)
    if (NBS / "runs" / PRESET).is_dir(): shutil.copytree(NBS / "runs" / PRESET, folder / "runs" / PRESET)
    (folder / "nbdev.py").write_text("def nbdev_export(): pass\n")          # the chapter's last cell is for those who edit it
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [Path(sys.executable).parent / "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=",
               "--ServerApp.password=", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={folder}"]
    log = open(folder / "lab.log", "w")
    env = {**os.environ, "MEMLOC_PRESET": PRESET, "JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTER_DATA_DIR": str(folder / ".data"), "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
           "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"), "IPYTHONDIR": str(folder / ".ipython")}
    server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=env, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try: urllib.request.urlopen(f"{address}/api").read(); break
        except OSError: time.sleep(.2)
    else: raise AssertionError("JupyterLab did not start: " + (folder / "lab.log").read_text())
    yield address, folder
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "there is no chromium on PATH, and the explorers are tested in it: install it (Debian: apt-get install chromium)"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(lab, browser):
    "The chapter, run from top to bottom in JupyterLab; what the console complained of is in `page.complaints`"
    address, folder = lab
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto(f"{address}/lab/tree/13_explorer.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)
    command(page, "Run All Cells")
    return page


def command(page, name):
    "Run one of JupyterLab's commands from its palette"
    page.keyboard.press("Control+Shift+C")
    page.fill("#modal-command-palette input", name)
    page.locator("#modal-command-palette .lm-CommandPalette-itemLabel", has_text=re.compile(f"^{name}$")).first.click()
