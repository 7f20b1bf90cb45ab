"One JupyterLab and one chromium for all tests in a browser."
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from in_browser import CHAPTER, NBS, PRESET, answers, environment, free_port, until


def copied(folder):
    "Put into a folder what JupyterLab is to show: the chapter, and the runs that are there"
    shutil.copy(NBS / CHAPTER, folder)
    shutil.copytree(NBS / "pictures", folder / "pictures")
    if (NBS / "runs" / PRESET).is_dir(): shutil.copytree(NBS / "runs" / PRESET, folder / "runs" / PRESET)
    (folder / "nbdev.py").write_text("def nbdev_export(): pass\n")    # the last cell is for those who edit
    settings = folder / ".settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "Address of a JupyterLab, the folder that it shows, and the token that it asks for"
    folder = tmp_path_factory.mktemp("lab")
    copied(folder)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", f"--ServerApp.root_dir={folder}",
    ]
    token = secrets.token_hex()                       # nobody else on this machine may run code there
    log = folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder,
                                  env=environment(folder) | {"JUPYTER_TOKEN": token})
    try:
        until(lambda: answers(address), 60, lambda: "JupyterLab did not start: " + log.read_text())
        yield address, folder, token
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright  # which other tests do without
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, ("there is no chromium on PATH, and the explorers are tested in it: "
                  "install it (Debian: apt-get install chromium)")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def blank(browser):
    "An empty page"
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    yield page
    page.close()
