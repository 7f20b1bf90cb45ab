"The explorers in a real browser: JupyterLab on this machine, chromium, every control moved with mouse and keyboard."
import html
import io
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from nbconvert import HTMLExporter
from PIL import Image
from playwright.sync_api import sync_playwright

from memloc.data import add_label_noise, load, sample
from memloc.dropout import mode_accuracy, mode_answers
from memloc.explorer import DropoutExplorer, GradientExplorer, NeuronExplorer, PatternExplorer, RewindExplorer
from memloc.fitting import scales
from memloc.gradients import GradientAccounting
from memloc.models import resnet9
from memloc.neurons import accuracy_without, answers_without
from memloc.patterns import fit_dcgan, maximize, pattern_scales, probabilities
from memloc.rewinding import rewind
from memloc.training import Run, device, fit, predict, preset

NBS = Path(__file__).resolve().parent.parent / "nbs"
PRESET = os.environ.get("MEMLOC_EXPLORER_PRESET", "smoke")     # latencies that mean something are measured with `laptop`
PICTURES = os.environ.get("MEMLOC_SCREENSHOTS")                # a folder to keep the screenshots and times in
NAMES = ["RewindExplorer", "GradientExplorer", "NeuronExplorer", "DropoutExplorer", "PatternExplorer"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of a JupyterLab, and the folder that it shows: a copy of the chapter, and of the runs that are there"
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NBS / "13_explorer.ipynb", folder)
    if (NBS / "runs" / PRESET).is_dir(): shutil.copytree(NBS / "runs" / PRESET, folder / "runs" / PRESET)
    (folder / "nbdev.py").write_text("def nbdev_export(): pass\n")          # the chapter's last cell is for those who edit it
    settings = folder / ".settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [Path(sys.executable).parent / "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    env = {**os.environ, "MEMLOC_PRESET": PRESET, "JUPYTER_CONFIG_DIR": f"{folder}/.config", "JUPYTER_DATA_DIR": f"{folder}/.data", "IPYTHONDIR": f"{folder}/.ipython",
           "JUPYTERLAB_SETTINGS_DIR": f"{folder}/.settings", "JUPYTERLAB_WORKSPACES_DIR": f"{folder}/.workspaces"}
    address, log = f"http://127.0.0.1:{port}", folder / "lab.log"
    with log.open("w") as out: server = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=env, cwd=folder)
    try:
        for _ in range(300):
            try: urllib.request.urlopen(f"{address}/api").read(); break
            except OSError: time.sleep(.2)
        else: raise AssertionError("JupyterLab did not start: " + log.read_text())
        yield address, folder
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "there is no chromium on PATH, and the explorers are tested in it: install it (Debian: apt-get install chromium)"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


WATCH = """() => {
    const began = () => { window.began = performance.now(); window.changed = 0; };
    for (const event of ["keydown", "pointerdown", "change"]) document.addEventListener(event, began, true);
    document.addEventListener("load", e => { if (e.target.alt && !window.changed) window.changed = performance.now(); }, true);
}"""


@pytest.fixture(scope="module")
def page(lab, browser):
    "The chapter, run from top to bottom in JupyterLab; what the console complained of is in `page.complaints`"
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto(f"{lab[0]}/lab/tree/13_explorer.ipynb?reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)
    page.evaluate(WATCH)
    menu(page, "Run", "Run All Cells")
    until(lambda: run_through(page), 900, "the chapter was not through")
    return page


def menu(page, *names):
    "Choose from JupyterLab's menus"
    for name in names: page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).first.click()


def run_through(page):
    "Whether all cells have run; fails if one of them did"
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    assert not errors, errors
    return page.evaluate(r"() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(e => /\d/.test(e.textContent))")


def until(done, seconds, sentence):
    "Wait until `done()` is true"
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, sentence
        time.sleep(.05)


class Shown:
    "An explorer as the browser shows it, and the same one, made here by the library from the same runs, to compare with"
    def __init__(self, page, own):
        self.page, self.own, first = page, own, next(iter(own.state))
        self.picture = page.locator(f".jp-OutputArea-output img[alt^='{first} ']")
        assert self.picture.count() == 1
        self.root = page.locator(".jp-OutputArea-output", has=page.locator(f"img[alt^='{first} ']"))
        self.times = {}
        self.root.scroll_into_view_if_needed()

    def control(self, kind, label): return self.root.locator(f".widget-{kind}", has=self.page.get_by_text(label, exact=True))
    def slider(self, label): return self.control("hslider", label).locator(".noUi-handle")
    def value(self, name): return re.search(rf"(?:^|, ){name} (.*?)(?:, \w+ |$)", self.picture.get_attribute("alt"))[1]

    def after(self, what, act):
        "Do something to the explorer in the browser, and wait for the picture to change; the time that this took is kept"
        self.page.evaluate("() => { window.changed = 0; window.began = 0; }")
        act()
        until(lambda: self.page.evaluate("() => window.changed"), 30, f"{what}: the picture did not change")
        self.times.setdefault(what, []).append(self.page.evaluate("() => window.changed - window.began"))

    def click(self, ax, x, y):
        "Click at a point of some axes of the picture"
        box, (px, py), size = self.picture.bounding_box(), ax.transData.transform((x, y)), self.own.figure.bbox
        self.picture.click(position={"x": px / size.width * box["width"], "y": (1 - py / size.height) * box["height"]})

    def drag(self, label, share):
        "Drag a slider's handle to a share of its length"
        handle, track = self.slider(label).bounding_box(), self.control("hslider", label).locator(".noUi-base").bounding_box()
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        for k in range(1, 6): self.page.mouse.move(track["x"] + share * k / 5 * track["width"], y)
        self.page.mouse.up()

    def check(self):
        "Numbers and picture are what the library makes of the same state; returns that state"
        self.own.wait()
        def same(): return self.picture.get_attribute("alt") == self.own.picture.alt and np.abs(self.pixels() - pixels(self.own.picture.png)).mean() < .1
        until(same, 10, f"the browser shows {self.picture.get_attribute('alt')}, and the library says {self.own.picture.alt}")
        assert self.root.locator(".widget-html-content").first.inner_text().split() == plain(self.own.caption.value).split()
        return self.own.state

    def pixels(self):
        return pixels(bytes(self.page.evaluate("async a => [...new Uint8Array(await (await fetch(document.querySelector(`img[alt=\"${a}\"]`).src)).arrayBuffer())]", self.picture.get_attribute("alt"))))


def pixels(png): return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
def plain(text): return html.unescape(re.sub("<[^>]*>", "", text))


@pytest.fixture(scope="module")
def size(): return preset(PRESET)


@pytest.fixture(scope="module")
def data(size):
    train, test = load("digits")
    return add_label_noise(sample(train, size.examples or len(train)), 0.1, seed=0), test


@pytest.fixture(scope="module")
def runs(lab, page): return lab[1] / "runs" / PRESET


@pytest.fixture(scope="module", autouse=True)
def report(lab):
    "Say how long changes took, and keep it beside the screenshots"
    rows = []
    yield rows
    text = "\n".join(f"{name:18} {what:28} {statistics.median(t):6.0f} {max(t):6.0f}" for name, times in rows for what, t in times.items())
    text = f"\nfrom control to picture, preset {PRESET}: median and maximum in ms\n{text}"
    print(text)
    if PICTURES: Path(PICTURES, f"latency-{PRESET}.txt").write_text(text)


def finish(shown, report):
    "Every change took less than the time that people wait; screenshots are kept where they are wanted"
    report.append((type(shown.own).__name__, shown.times))
    assert statistics.median(t for times in shown.times.values() for t in times) < 300, shown.times
    assert not shown.page.complaints and not shown.page.locator("[data-mime-type='application/vnd.jupyter.error']").count(), shown.page.complaints


def test_rewind(page, runs, data, report):
    train, _ = data
    s = Shown(page, RewindExplorer(runs / "gradients", train, progress=False))
    own, frame = s.own, rewind(Run(runs / "gradients"), train, progress=False).set_index(["layer", "epoch"])
    s.after("layer, list", lambda: s.control("dropdown", "layer").locator("select").select_option("conv1"))
    s.slider("back to epoch").focus()
    for key in ("Home", *["ArrowRight"] * 3): s.after("epoch, key", lambda: page.keyboard.press(key)) if (key != "Home" or s.value("epoch") != "0") else None
    assert (s.value("layer"), s.value("epoch")) == ("conv1", "3")
    own.set(layer="conv1", epoch=3)
    s.check()
    assert f"{frame.noisy[('conv1', 3)]:.3f}" in s.root.inner_text() and f"{frame.clean[('conv1', 3)]:.3f}" in s.root.inner_text()
    s.after("lost or kept, mouse", lambda: s.root.get_by_role("button", name="kept").click())
    own.show = "kept"
    s.check()
    s.root.get_by_role("button", name="lost").focus()
    s.after("lost or kept, key", lambda: page.keyboard.press("Space"))
    own.show = "lost"
    s.check()
    for x, y in ((1, 3), (2, 0), (0, 8)):
        s.after("map, click", lambda: s.click(own.marks[1].axes, x, y))
        own.set(layer=own.choices["layer"][y], epoch=own.choices["epoch"][x])
        s.check()
    s.after("epoch, drag", lambda: s.drag("back to epoch", .5))
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    assert 0 < own.epoch < own.choices["epoch"][-1]
    s.check()
    s.after("play", lambda: s.root.locator(".widget-play button").first.click())
    until(lambda: int(s.value("epoch")) >= own.epoch + 2, 30, "play did not go on")
    s.root.locator(".widget-play button").first.click()
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    s.check()
    finish(s, report)


def test_gradients(page, runs, size, data, report):
    accounting, (train, test) = GradientAccounting(), data
    fit(resnet9(channels=1, width=size.width), train, test, size.recipe, runs / "gradients", observers=[accounting], progress=False)
    s = Shown(page, GradientExplorer(accounting.frame))
    own = s.own
    s.slider("epoch").focus()
    page.keyboard.press("Home")
    time.sleep(.5)
    for _ in range(4): s.after("epoch, key", lambda: page.keyboard.press("ArrowRight"))
    own.epoch = 5
    s.check()
    rows = accounting.frame[accounting.frame.epoch == 5]
    assert f"{rows.clean_norm.mean():.3f}" in s.root.inner_text() and f"{rows.cosine.astype(float).mean():.2f}" in s.root.inner_text()
    for epoch in (2, 6):
        s.after("curves, click", lambda: s.click(own.marks[1].axes, epoch, 0))
        own.epoch = epoch
        s.check()
    s.after("epoch, drag", lambda: s.drag("epoch", 0))
    time.sleep(.5)
    own.epoch = 1
    s.check()
    s.after("play", lambda: s.root.locator(".widget-play button").first.click())
    until(lambda: int(s.value("epoch")) >= 3, 30, "play did not go on")
    s.root.locator(".widget-play button").first.click()
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    s.check()
    finish(s, report)


def test_neurons(page, runs, data, report):
    train, _ = data
    run = Run(runs / "gradients")
    s = Shown(page, NeuronExplorer(run, train, progress=False))
    own = s.own
    own.pick_layer.value = s.control("dropdown", "layer").locator("select").input_value()                 # where the chapter left the cursor
    own.pick_neuron.value = int(s.control("text", "neuron").locator("input").input_value())
    def settled():
        until(lambda: not s.root.locator("progress").count(), 60, "the background did not end")
        own.wait()
    for group, k in (("clean", 2), ("noisy", 0), ("clean", 0)):
        g = own.galleries[group]
        s.after("example, click", lambda: s.click(g.ax, g.wide * (k + .4), g.high / 2))
        own.example = own.offered[group][k]
        s.check()
    names = own.removed[own.example]
    s.slider("neurons removed").focus()
    for step in range(1, min(4, len(names)) + 1):
        s.after("step, key", lambda: page.keyboard.press("ArrowRight"))
        settled()
        own.step = step
        s.check()
    said = answers_without(run.model(), train, own.example, [names[:own.step]]).values[0]
    accuracy = accuracy_without(run.model(), train, names[:own.step])
    assert all(f"{v:.3f}" in s.root.inner_text() for v in (said[train.y[own.example]], *accuracy.values()))
    for name in (("conv1", 1), ("conv4", 0), ("conv1", 1)):
        s.after("neuron, click", lambda: s.click(own.cells.axes, *own.place[name]))
        settled()
        own._point(name)
        settled()
        s.check()
    assert f"{accuracy_without(run.model(), train, own.off)['clean']:.3f}" in s.root.inner_text()
    s.after("neuron's layer, list", lambda: s.control("dropdown", "layer").locator("select").select_option("conv3"))
    own.pick_layer.value = "conv3"
    number = s.control("text", "neuron").locator("input")
    number.fill("5")
    s.after("neuron's number, key", lambda: page.keyboard.press("Enter"))
    own.pick_neuron.value = 5
    s.check()
    s.root.get_by_role("button", name="switch off or on").focus()
    s.after("switch, key", lambda: page.keyboard.press("Enter"))
    own.toggle("conv3", 5)
    settled()
    s.check()
    assert ("conv3", 5) in own.off
    s.after("undo, click", lambda: s.root.get_by_role("button", name="undo switches").click())
    own.off = tuple(names[:own.step])
    s.check()
    s.after("removals, click", lambda: s.click(own.now.axes, 0, 2))
    own.step = 0
    s.check()
    other = next(i for i in range(len(train)) if i not in own.removed and predict(run.model(), train)[i].argmax() == train.y[i])
    s.control("text", "example").locator("input").fill(str(other))
    s.after("any example, key", lambda: page.keyboard.press("Enter"))
    settled()
    own.example = other
    settled()
    s.check()
    s.after("play", lambda: s.root.locator(".widget-play button").first.click())
    until(lambda: int(s.value("step")) == len(own.removed[other]), 60, "play did not go on to the end")
    settled()
    own.step = len(own.removed[other])
    settled()
    s.check()
    finish(s, report)


def test_dropout(page, runs, data, report):
    train, test = data
    s = Shown(page, DropoutExplorer(runs / "map", train, test, progress=False))
    own = s.own
    for mode, name in (("own", "own"), ("expected", "expected"), ("dropped", "dropped"), ("dropped_recalibrated", "recalibrated")):
        s.after("mode, click", lambda: s.root.get_by_role("button", name=name, exact=True).click())
        own.mode = mode
        s.check()
    s.root.get_by_role("button", name="dropped", exact=True).focus()
    s.after("mode, key", lambda: page.keyboard.press("Space"))
    own.mode = "dropped"
    for name in ("p_gen", "p_mem"):
        s.slider(name).focus()
        page.keyboard.press("Home")
        time.sleep(.5)
        s.after(f"{name}, key", lambda: page.keyboard.press("ArrowRight"))
        setattr(own, name, own.choices[name][1])
        s.check()
    tied = Run(runs / "map" / f"p_gen-{own.p_gen}-p_mem-{own.p_mem}").model()
    row = mode_accuracy(tied, train, test).set_index("mode").loc["dropped"]
    assert all(f"{v:.3f}" in s.root.inner_text() for v in row)
    changed = (mode_answers(tied, train).eval("dropped != own").values & train.noisy.numpy()).sum()
    assert int(s.value("noisy_changed")) == changed
    for x, y in ((0, 0), (1, 1), (0, 1)):
        s.after("map, click", lambda: s.click(own.marks[1].axes, x, y))
        own.set(p_gen=own.choices["p_gen"][y], p_mem=own.choices["p_mem"][x])
        s.check()
    s.after("p_gen, drag", lambda: s.drag("p_gen", 0))
    own.p_gen = own.choices["p_gen"][0]
    s.check()
    finish(s, report)


def test_patterns(page, runs, size, report):
    truth, scale = load("digits")[0], scales[size.name]
    truth = sample(truth, scale.examples or len(truth))
    nets = {name: Run(runs / "fitting" / f"{name.split()[0]}-vgg11-0").model().to(device()) for name in ("true labels", "random labels")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = fit_dcgan(truth, runs / "dcgan", **pattern_scales[size.name].gan).generator
    steps = pattern_scales[size.name].ascent.get("steps", 1000)
    s = Shown(page, PatternExplorer(nets, generator, steps=steps, progress=False))
    own = s.own
    own.set(network="random labels", other="true labels", label=3, start=1)       # where the chapter has left it
    for what, name, label, option in (("network", "network", "network", "true labels"), ("class", "label", "class", "7"), ("other", "other", "compare with", "random labels")):
        s.after(f"{what}, list", lambda: s.control("dropdown", label).locator("select").select_option(option))
        setattr(own, name, 7 if name == "label" else option)
        s.check()
    s.slider("start").focus()
    page.keyboard.press("Home")
    time.sleep(.5)
    for start in (1, 2, 3):
        s.after("start, key", lambda: page.keyboard.press("ArrowRight"))
        own.start = start
        s.check()
    s.after("film, click", lambda: s.click(own.film.axes, 1, 3))
    own.step = 0
    s.check()
    s.after("curve, click", lambda: s.click(own.mark.axes, steps, .5))
    own.step = steps
    s.check()
    found = maximize(nets["true labels"], generator, range(10), starts=6, steps=steps, progress=False)
    at = 7 * 6 + 3
    assert f"{found.confidence_after[at]:.3f}" in s.root.inner_text()
    assert f"{probabilities(nets['random labels'], found.images[at])[7]:.3f}" in s.root.inner_text()
    s.after("step, drag", lambda: s.drag("step", 0))
    time.sleep(.5)
    own.step = 0
    s.check()
    s.after("play", lambda: s.root.locator(".widget-play button").first.click())
    until(lambda: int(s.value("step")) == steps, 60, "play did not go on to the end")
    own.step = steps
    s.check()
    finish(s, report)


def test_wrong_use_in_the_browser(page):
    "A sentence in the explorer's place"
    page.locator(".jp-CodeCell").last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text("RewindExplorer('nowhere', train)")
    page.keyboard.press("Shift+Enter")
    alert = page.locator(".jp-OutputArea-output [role=alert]")
    alert.wait_for(timeout=20_000)
    assert alert.inner_text() == "nowhere holds no run: give a folder that `fit` has written"
    assert not page.locator("[data-mime-type='application/vnd.jupyter.error']").count()


def test_light_and_dark(page, lab, tmp_path):
    "Text keeps its contrast in both themes, and nothing was complained of, in the browser or in the kernel"
    folder = Path(PICTURES or tmp_path)
    for theme in ("Light", "Dark"):
        menu(page, "Settings", "Theme", f"JupyterLab {theme}")
        until(lambda: page.locator("body").get_attribute("data-jp-theme-name") == f"JupyterLab {theme}", 20, f"the theme is not {theme}")
        time.sleep(1)
        for name, first in zip(NAMES, ("layer", "epoch", "example", "p_gen", "network")):
            picture = page.locator(f".jp-OutputArea-output img[alt^='{first} ']")
            root = page.locator(".jp-OutputArea-output", has=page.locator(f"img[alt^='{first} ']"))
            root.evaluate("e => e.scrollIntoView()")
            time.sleep(.3)
            page.screenshot(path=folder / f"{name}-{theme.lower()}.png")
            for element in root.locator(".widget-label, .widget-html-content").all()[:2]:
                assert contrast(element) > 4.5, (name, theme, element.inner_text())
            box = root.bounding_box()
            assert box["height"] < 690 and picture.bounding_box()["width"] > 700, (name, box)
    assert not page.complaints
    assert "Traceback" not in (lab[1] / "lab.log").read_text()


def contrast(element):
    "Of an element's text with what is behind it, as the web's guidelines count it"
    colours = element.evaluate("""e => { let b = e; while (b && /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(b).backgroundColor)) b = b.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; }""")
    def light(colour):
        rgb = [float(v) / 255 for v in re.findall(r"[\d.]+", colour)[:3]]
        return sum(w * (v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4) for w, v in zip((.2126, .7152, .0722), rgb))
    a, b = sorted(map(light, colours))
    return (b + .05) / (a + .05)


def test_where_no_kernel_runs():
    "The stored chapter as a page: a picture for each explorer"
    page, _ = HTMLExporter().from_filename(NBS / "13_explorer.ipynb")
    after = page.split("RewindExplorer</span><span class=\"p\">(</span><span class=\"n\">run")[1]
    assert after.count('src="data:image/png;base64') >= 5
