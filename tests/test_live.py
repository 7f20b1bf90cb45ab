"The live explorer in a real browser: JupyterLab on this machine, chromium, a network that trains meanwhile."
import re
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from in_browser import (
    OUTPUT,
    PICTURES,
    TRACEBACK,
    choose_theme,
    contrast,
    menu,
    opened,
    run_at_end,
    run_through,
    until,
    written,
)

NOTEBOOK = "living.ipynb"
CELL = """from memloc.data import load, sample
from memloc.live import LiveExplorer
from memloc.training import Recipe

truth, test = load("digits")
live = LiveExplorer(sample(truth, 300), sample(test, 100), Recipe(epochs=300, batch=64, peak=3, lr=.05))
live"""
MOST = 1000                                    # ms from a key to the picture, for 19 of 20; on an idle machine 500

# When a key or button was pressed, and when the browser has shown the mode that follows
FOLLOW = """figure => {
    const began = () => { window.began = performance.now(); };
    for (const event of ["keydown", "pointerdown"]) document.addEventListener(event, began, true);
    let mode = null;
    figure.on("plotly_afterplot", () => {
        const now = /mode (\\w+)/.exec(figure.getAttribute("aria-label"))[1];
        if (now === mode) return;
        mode = now;
        requestAnimationFrame(() => { window.seen = { mode, ms: performance.now() - window.began }; });
    });
}"""


class Shown:
    "The explorer as the browser shows it"
    def __init__(self, page):
        self.page = page
        self.figure = page.locator("[role=img][aria-label^='noise ']")
        self.root = page.locator(OUTPUT, has=self.figure)

    def alt(self): return self.figure.get_attribute("aria-label")
    def value(self, name): return re.search(rf"(?:^|, ){name} (.*?)(?:, |$)", self.alt())[1]
    def epoch(self): return int(self.value("epoch"))
    def button(self, name): return self.root.get_by_role("button", name=name)
    def curve(self): return self.figure.evaluate("e => e.data.find(trace => trace.meta === 'clean own').x")

    def reaches(self, epoch):
        until(lambda: self.epoch() >= epoch, 60, lambda: f"epoch {epoch} is not reached: {self.alt()}")

    def slider(self, label):
        control = self.root.locator(".widget-hslider", has=self.page.get_by_text(label, exact=True))
        return control.locator(".noUi-handle")

    def becomes(self, name, value):
        until(lambda: self.value(name) == value, 20, lambda: f"{name} is {self.value(name)} and not {value}")


@pytest.fixture(scope="module")
def page(lab, blank):
    "A notebook that opens the explorer"
    written(lab[1], NOTEBOOK, CELL)
    opened(blank, lab, NOTEBOOK)
    menu(blank, "Run", "Run All Cells")
    until(lambda: run_through(blank) and Shown(blank).figure.count(), 60, "the explorer did not open")
    return blank


@pytest.fixture
def shown(page):
    shown = Shown(page)
    shown.root.evaluate("e => e.scrollIntoView()")
    return shown


def screenshot(page, name, tmp_path): page.screenshot(path=Path(PICTURES or tmp_path, f"{name}.png"))


def test_start_by_mouse(shown, page, tmp_path):
    "Curves rise"
    until(lambda: shown.curve() == [0], 60, "the network has not been asked")
    screenshot(page, "LiveExplorer-begins", tmp_path)
    shown.button("start").click()
    shown.reaches(3)
    until(lambda: len(shown.curve()) > 3, 5, "the curve does not follow")
    assert shown.curve() == list(range(len(shown.curve())))
    assert shown.button("pause").count()


def test_a_key_drops(shown, page, tmp_path):
    "While it trains, `D` is answered at once: memory is dropped, and given back"
    shown.figure.evaluate(FOLLOW)
    shown.figure.click(position={"x": 5, "y": 5})
    times = []
    for k in range(20):
        mode = "own" if k % 2 else "dropped_recalibrated"
        page.keyboard.press("d")
        until(lambda mode=mode: page.evaluate("() => window.seen?.mode") == mode, 10, f"mode is not {mode}")
        times.append(page.evaluate("() => window.seen.ms"))
        time.sleep(.15)
    late = np.percentile(times, 95)
    text = f"from D to the picture, while it trains: median {np.median(times):.0f} ms, 95% in {late:.0f} ms"
    print(text)
    if PICTURES: Path(PICTURES, "latency-live.txt").write_text(text)
    assert late < MOST, times
    assert page.locator(".jp-Cell").count() == 1, "the key reached the notebook"
    assert shown.button("pause").count(), "it does not train any more"


def test_pause_and_step(shown):
    "By keyboard and mouse"
    shown.button("pause").focus()
    shown.page.keyboard.press("Enter")
    until(lambda: shown.button("start").count(), 10, "pause did not answer")
    time.sleep(2)                                  # an epoch may have ended just then, and is looked at
    before = shown.epoch()
    time.sleep(1)
    assert shown.epoch() == before
    shown.button("step").click()
    shown.reaches(before + 1)
    time.sleep(1)
    assert shown.epoch() == before + 1
    shown.button("step").focus()
    shown.page.keyboard.press("Space")
    shown.reaches(before + 2)


def test_modes_and_drop_by_mouse(shown, page, tmp_path):
    for name, mode in (("recalibrated", "dropped_recalibrated"), ("dropped", "dropped"), ("own", "own")):
        shown.root.get_by_role("button", name=name, exact=True).click()
        shown.becomes("mode", mode)
    shown.button("drop memory").click()
    shown.becomes("mode", "dropped_recalibrated")
    screenshot(page, "LiveExplorer-dropped", tmp_path)
    shown.button("give back memory").click()
    shown.becomes("mode", "own")


def test_reset_while_it_trains(shown):
    shown.button("start").click()
    shown.reaches(shown.epoch() + 2)
    shown.button("reset").click()
    until(lambda: shown.curve() == [0], 20, "it did not begin anew")
    time.sleep(1)
    assert (shown.epoch(), shown.button("start").count()) == (0, 1)
    shown.button("start").click()
    shown.reaches(1)


def test_sliders_begin_anew(shown, page):
    "By keyboard and by mouse, while it trains"
    for name, value in (("noise", "0.2"), ("p_gen", "0.3"), ("p_mem", "0.2"), ("width", "0.5")):
        shown.button("start").click() if shown.button("start").count() else None
        shown.slider(name).focus()
        page.keyboard.press("ArrowRight")
        shown.becomes(name, value)
        until(lambda: shown.button("start").count(), 10, "it goes on")
    until(lambda: shown.curve() == [0], 30, "it did not begin anew")
    handle = shown.slider("width").bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 5)
    page.mouse.down()
    page.mouse.move(handle["x"] - 300, handle["y"] + 5, steps=5)
    page.mouse.up()
    shown.becomes("width", "0.125")
    shown.slider("p_gen").focus()
    page.keyboard.press("Home")
    alert = shown.root.locator("[role=alert]")
    until(lambda: alert.count(), 20, "what is impossible is not said")
    assert "leaves not one that always fires" in alert.inner_text()
    assert shown.button("start").is_disabled()
    page.keyboard.press("ArrowRight")
    until(lambda: shown.curve() == [0], 30, "it did not begin anew")
    assert not alert.count()


def test_light_and_dark(shown, page, tmp_path):
    "Text keeps its contrast in both themes"
    for theme in ("Dark", "Light"):
        choose_theme(page, theme)
        shown.root.evaluate("e => e.scrollIntoView()")
        time.sleep(.3)
        screenshot(page, f"LiveExplorer-{theme.lower()}", tmp_path)
        parts = [*shown.root.locator(".widget-label, .widget-html-content").all()[:2],
                 shown.figure.locator(".infolayer text").first, shown.figure.locator("[class*=tick] text").first]
        for part in parts: assert contrast(part) > 4.5, (theme, part.text_content())
        assert shown.root.bounding_box()["height"] < 720


def trainers(folder):
    "The processes that train for a kernel in a folder"
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or ())
        if "spawn_main" in command and process.info["cwd"] == str(folder): found.append(process)
    return found


def test_it_ends(shown, page, lab):
    "With the explorer, and with the kernel; nothing was complained of"
    assert len(trainers(lab[1])) == 1
    run_at_end(page, "live.close()\nother = LiveExplorer(truth, test)\nother.start()")
    until(lambda: run_through(page) and not shown.figure.count(), 30, "the explorer did not go")
    assert len(trainers(lab[1])) == 1
    menu(page, "Kernel", "Shut Down Kernel")
    until(lambda: not trainers(lab[1]), 20, "a process is left")
    assert not page.complaints
    assert not page.locator(TRACEBACK).count()
    assert "Traceback" not in (lab[1] / "lab.log").read_text()
