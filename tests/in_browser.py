"What the tests in a real browser share: JupyterLab on this machine, and what is done in it."
import os
import re
import socket
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np

NBS = Path(__file__).resolve().parent.parent / "nbs"
CHAPTER = "31_explorers.ipynb"
PRESET = os.environ.get("MEMLOC_EXPLORER_PRESET", "smoke")   # latencies that mean something are those of `laptop`
PICTURES = os.environ.get("MEMLOC_SCREENSHOTS")              # a folder to keep the screenshots and times in
OUTPUT = ".jp-OutputArea-output"
TRACEBACK = "[data-mime-type='application/vnd.jupyter.error']"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(folder):
    "JupyterLab's, which keeps to its folder"
    own = {
        "MEMLOC_PRESET": PRESET, "JUPYTER_CONFIG_DIR": ".config", "JUPYTER_DATA_DIR": ".data", "IPYTHONDIR": ".ipython",
        "JUPYTERLAB_SETTINGS_DIR": ".settings", "JUPYTERLAB_WORKSPACES_DIR": ".workspaces",
    }
    return {**os.environ, **{k: f"{folder}/{v}" if v.startswith(".") else v for k, v in own.items()}}


def answers(address):
    try:
        urllib.request.urlopen(f"{address}/api").read()
        return True
    except OSError:
        return False


def opened(page, lab, name):
    "Open a notebook; what the console complains of is in `page.complaints`"
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(f"{m.text} {m.location}") if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto(f"{lab[0]}/lab/tree/{name}?reset&token={lab[2]}")
    wait_for_kernel(page)


def written(folder, name, code):
    "Write a notebook of one cell"
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / name)


def wait_for_kernel(page):
    "Until the chapter has a kernel that waits for work; before it has one, JupyterLab calls it idle too"
    page.get_by_title("Switch kernel").filter(has_text="Python 3").wait_for(timeout=90_000)
    time.sleep(1)                                  # what it is called follows a little later
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)


def menu(page, *names):
    "Choose from JupyterLab's menus"
    for name in names:
        entry = page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel", has_text=re.compile(f"^{name}$"))
        entry.first.click()


def run_at_end(page, code):
    "Run code in a new cell below the last one"
    page.locator(".jp-CodeCell .jp-InputPrompt").last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")


# A folded cell shows no number.
NUMBERED = r"""() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")];
    return prompts.length && prompts.every(e => /\d/.test(e.textContent));
}"""


def run_through(page):
    "Whether all cells have run; fails if one of them did"
    errors = page.locator(TRACEBACK).all_inner_texts()
    assert not errors, errors
    return page.evaluate(NUMBERED)


def until(done, seconds, sentence):
    "Wait until `done()` is true; if it never is, say `sentence`, or what it answers"
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, sentence() if callable(sentence) else sentence
        time.sleep(.02)


def choose_theme(page, theme):
    name = f"JupyterLab {theme}"
    menu(page, "Settings", "Theme", name)
    body = page.locator("body")
    until(lambda: body.get_attribute("data-jp-theme-name") == name, 20, f"the theme is not {theme}")
    time.sleep(.4)                                 # colours fade into one another


COLOURS = r"""e => {
    const clear = /rgba\(0, 0, 0, 0\)|transparent/;
    let behind = e;
    while (behind && clear.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const own = getComputedStyle(e);
    return [e.ownerSVGElement ? own.fill : own.color, getComputedStyle(behind).backgroundColor];
}"""


def light(colour):
    "Relative luminance of a colour of CSS"
    rgb = [float(v) / 255 for v in re.findall(r"[\d.]+", colour)[:3]]
    linear = [v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4 for v in rgb]
    return float(np.dot((.2126, .7152, .0722), linear))


def contrast(element):
    "Of an element's text with what is behind it, as the web's guidelines count it"
    dark, bright = sorted(map(light, element.evaluate(COLOURS)))
    return (bright + .05) / (dark + .05)
