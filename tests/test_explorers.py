"The explorers in a real browser: JupyterLab on this machine, chromium, every control moved with mouse and keyboard."
import html
import re
import runpy
import shutil
import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_browser import (
    CHAPTER,
    NBS,
    OUTPUT,
    PICTURES,
    PRESET,
    TRACEBACK,
    choose_theme,
    contrast,
    menu,
    opened,
    run_at_end,
    run_through,
    until,
)
from nbconvert import HTMLExporter

from memloc.data import add_label_noise, load, sample
from memloc.explorers import DropoutExplorer, GradientExplorer, NeuronExplorer, PatternExplorer, RewindExplorer
from memloc.fitting import fitting_presets
from memloc.gradients import GradientAccounting
from memloc.networks import resnet9
from memloc.patterns import fit_dcgan, maximize, pattern_presets, probabilities
from memloc.removal import accuracy_without, answers_without
from memloc.rewinding import rewind
from memloc.runs import Run, fit
from memloc.tied_dropout import mode_accuracy, mode_answers
from memloc.training import device, predict, preset

FIRST = {                                                    # explorers, and the first part of the state of each
    "RewindExplorer": "layer", "GradientExplorer": "epoch", "NeuronExplorer": "example", "DropoutExplorer": "way",
    "PatternExplorer": "network",
}
WATCH = """() => {
    const began = () => { window.began = performance.now(); window.changed = 0; };
    for (const event of ["keydown", "pointerdown", "change"]) document.addEventListener(event, began, true);
}"""


@pytest.fixture(scope="module")
def page(lab, blank):
    "The chapter, run from top to bottom in JupyterLab"
    opened(blank, lab, CHAPTER)
    blank.evaluate(WATCH)
    menu(blank, "Run", "Run All Cells")
    until(lambda: run_through(blank), 900, "the chapter was not through")
    return blank


# A change is seen when plotly has drawn and the browser has shown it.
FOLLOW = """figure => figure.on("plotly_afterplot", () => requestAnimationFrame(() => {
    if (!window.changed) window.changed = performance.now();
}))"""
PLACE = """(figure, [name, x, y]) => {
    const trace = figure._fullData.find(trace => trace.meta === name);
    const [across, down] = ["x", "y"].map(letter => {
        return figure._fullLayout[trace[`${letter}axis`].replace(letter, `${letter}axis`)];
    });
    const box = figure.getBoundingClientRect();
    return [box.left + across._offset + across.c2p(across.d2c(x)), box.top + down._offset + down.c2p(down.d2c(y))];
}"""
OVER = "annotations", "shapes", "images"             # what lies over the traces
DRAWN = "(figure, kinds) => [...figure.data, ...kinds.flatMap(kind => figure.layout[kind])]"


class Shown:
    "An explorer as the browser shows it, and the same one, made here from the same runs, to compare with"
    def __init__(self, page, own):
        first = next(iter(own.state))
        self.page = page
        self.own = own
        self.root, self.figure = found(page, first)
        self.times = {}
        assert self.figure.count() == 1
        self.root.evaluate("e => e.scrollIntoView()")
        self.figure.evaluate(FOLLOW)

    def control(self, kind, label):
        return self.root.locator(f".widget-{kind}", has=self.page.get_by_text(label, exact=True))

    def slider(self, label): return self.control("hslider", label).locator(".noUi-handle")
    def dropdown(self, label): return self.control("dropdown", label).locator("select")
    def number(self, label): return self.control("text", label).locator("input")
    def button(self, name): return self.root.get_by_role("button", name=name, exact=True)
    def play(self): return self.root.locator(".widget-play button").first
    def alt(self): return self.figure.get_attribute("aria-label")
    def value(self, name): return re.search(rf"(?:^|, ){name} (.*?)(?:, \w+ |$)", self.alt())[1]
    def says(self, *numbers): return all(number in self.root.inner_text() for number in numbers)

    def after(self, what, act):
        "Do something in the browser, and wait for the picture to change; the time that this took is kept"
        self.page.evaluate("() => { window.changed = 0; window.began = 0; }")
        act()
        until(lambda: self.page.evaluate("() => window.changed"), 30, f"{what}: the picture did not change")
        taken = self.page.evaluate("() => window.changed - window.began")
        self.times.setdefault(what, []).append(taken)

    def press(self, what, key): self.after(what, lambda: self.page.keyboard.press(key))
    def push(self, what, name): self.after(what, lambda: self.button(name).click())
    def hit(self, what, trace, x, y): self.after(what, lambda: self.click(trace, x, y))
    def choose(self, what, label, option): self.after(what, lambda: self.dropdown(label).select_option(option))

    def home(self, label):
        "Put a slider to its beginning, with the keyboard"
        self.slider(label).focus()
        self.page.keyboard.press("Home")
        time.sleep(.5)

    def trace(self, name):
        "A trace of our own explorer"
        return next(trace for trace in self.own.figure.spec["data"] if trace["meta"] == name)

    def point(self, trace, x, y):
        "Put the pointer on a point of a trace; where that is"
        at = self.figure.evaluate(PLACE, [trace, x, y])
        self.page.mouse.move(at[0] + 2, at[1])
        self.page.mouse.move(*at)
        time.sleep(.2)                                   # plotly looks what is there a little later
        return at

    def click(self, trace, x, y): self.page.mouse.click(*self.point(trace, x, y))

    def under(self, trace, x, y):
        "What is said of a point when the pointer is on it"
        self.point(trace, x, y)
        return " ".join(self.figure.locator(".hoverlayer text").all_text_contents())

    def drag(self, label, share):
        "Drag a slider's handle to a share of its length"
        handle = self.slider(label).bounding_box()
        track = self.control("hslider", label).locator(".noUi-base").bounding_box()
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        for k in range(1, 6): self.page.mouse.move(track["x"] + share * k / 5 * track["width"], y)
        self.page.mouse.up()

    def play_until(self, done, sentence, seconds=30):
        "Press play, and wait"
        self.after("play", lambda: self.play().click())
        until(done, seconds, sentence)

    def differs(self):
        "What the browser shows otherwise than the library would; empty if nothing"
        spec = self.own.figure.spec
        if self.alt() != spec["layout"]["meta"]: return self.alt(), spec["layout"]["meta"]
        ours = [*spec["data"], *(part for kind in OVER for part in spec["layout"][kind])]
        theirs = self.figure.evaluate(DRAWN, OVER)
        if len(ours) != len(theirs): return len(ours), len(theirs)
        different = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if not alike(mine, other)]
        return different[:1]

    def check(self):
        "Numbers and figure are what the library makes of the same state"
        self.own.wait()
        until(lambda: not self.differs(), 10, lambda: f"shown and of the library: {self.differs()}")
        said = self.root.locator(".widget-html-content").first.inner_text()
        assert said.split() == plain(self.own.caption.value).split()


def found(page, first):
    "Output and figure of the explorer whose state begins with this"
    figure = page.locator(f"[role=img][aria-label^='{first} ']")
    return page.locator(OUTPUT, has=figure), figure


def alike(ours, theirs):
    "Whether the browser has all that is ours; plotly adds to it, and numbers are the same to five digits"
    if isinstance(ours, dict): return all(alike(value, theirs.get(key)) for key, value in ours.items())
    if isinstance(ours, list): return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float): return theirs == pytest.approx(ours, abs=1e-5)
    return ours == theirs


def plain(text): return html.unescape(re.sub("<[^>]*>", "", text))


@pytest.fixture(scope="module")
def size(): return preset(PRESET)


@pytest.fixture(scope="module")
def data(size):
    train, test = load("digits")
    return add_label_noise(sample(train, size.examples or len(train)), 0.1, seed=0), test


@pytest.fixture(scope="module")
def runs(lab, page): return lab[1] / "runs" / PRESET / "explorers"


@pytest.fixture(scope="module", autouse=True)
def report(lab):
    "Say how long changes took, and keep it beside the screenshots"
    rows = []
    yield rows
    every = [t for _, times in rows for taken in times.values() for t in taken]
    lines = [f"\nfrom control to picture, preset {PRESET}: median and maximum in ms"]
    if every: lines.append(f"all: median {statistics.median(every):.0f}, 95% below {np.quantile(every, .95):.0f}")
    for name, times in rows:
        for what, t in times.items(): lines.append(f"{name:18} {what:28} {statistics.median(t):6.0f} {max(t):6.0f}")
    text = "\n".join(lines)
    print(text)
    if PICTURES: Path(PICTURES, f"latency-{PRESET}.txt").write_text(text)


def finish(shown, report):
    "Changes took less than the time that people wait, and nothing was complained of"
    report.append((type(shown.own).__name__, shown.times))
    times = [t for taken in shown.times.values() for t in taken]
    assert statistics.median(times) < 300 and np.quantile(times, .95) < 600, shown.times
    assert not shown.page.complaints, shown.page.complaints
    assert not shown.page.locator(TRACEBACK).count()


def test_rewind(page, runs, data, report):
    train, _ = data
    s = Shown(page, RewindExplorer(runs / "gradients", train, progress=False))
    own = s.own
    frame = rewind(Run(runs / "gradients"), train, progress=False).set_index(["layer", "epoch"])
    s.choose("layer, list", "layer", "conv1")
    s.slider("back to epoch").focus()
    if s.value("epoch") != "0": s.press("epoch, key", "Home")
    for _ in range(3): s.press("epoch, key", "ArrowRight")
    assert (s.value("layer"), s.value("epoch")) == ("conv1", "3")
    own.set(layer="conv1", epoch=3)
    s.check()
    cell = frame.loc[("conv1", 3)]
    assert s.says(f"{cell.noisy:.3f}", f"{cell.clean:.3f}")
    s.push("lost or kept, mouse", "kept")
    own.show = "kept"
    s.check()
    s.button("lost").focus()
    s.press("lost or kept, key", "Space")
    own.show = "lost"
    s.check()
    for x, y in ((1, 3), (2, 0), (0, 8)):
        layer, epoch = own.choices["layer"][y], own.choices["epoch"][x]
        assert f"{layer}, epoch {epoch}: {frame.loc[(layer, epoch)].noisy:.3f}" in s.under("noisy", str(epoch), layer)
        s.hit("map, click", "noisy", str(epoch), layer)
        own.set(layer=layer, epoch=epoch)
        s.check()
    s.hit("curve, click", "clean curve", 3, s.trace("clean curve")["y"][3])
    own.epoch = 3
    s.check()
    s.after("epoch, drag", lambda: s.drag("back to epoch", .5))
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    assert 0 < own.epoch < own.choices["epoch"][-1]
    s.check()
    s.play_until(lambda: int(s.value("epoch")) >= own.epoch + 2, "play did not go on")
    s.play().click()
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    s.check()
    finish(s, report)


def test_gradients(page, runs, size, data, report):
    train, test = data
    accounting = GradientAccounting()
    net = resnet9(channels=1, width=max(size.width / 2, .125))
    short = replace(size.recipe, epochs=max(8, size.recipe.epochs // 3), peak=size.recipe.peak / 2)
    fit(net, train, test, short, runs / "gradients", observers=[accounting], progress=False)
    s = Shown(page, GradientExplorer(accounting.frame))
    own = s.own
    s.home("epoch")
    for _ in range(4): s.press("epoch, key", "ArrowRight")
    own.epoch = 5
    s.check()
    rows = accounting.frame[accounting.frame.epoch == 5]
    assert s.says(f"{rows.clean_norm.mean():.3f}", f"{rows.cosine.astype(float).mean():.2f}")
    for epoch in (2, 6):
        s.hit("curves, click", "cosine curve", epoch, s.trace("cosine curve")["y"][epoch - 1])
        own.epoch = epoch
        s.check()
    s.after("epoch, drag", lambda: s.drag("epoch", 0))
    time.sleep(.5)
    own.epoch = 1
    s.check()
    s.play_until(lambda: int(s.value("epoch")) >= 3, "play did not go on")
    s.play().click()
    time.sleep(1)
    own.epoch = int(s.value("epoch"))
    s.check()
    finish(s, report)


def settled(s):
    "Wait until nothing is done in the background, there and here"
    until(lambda: not s.root.locator("progress").count(), 60, "the background did not end")
    s.own.wait()


@pytest.fixture
def apart(page, runs, data):
    "The explorer of neurons, with the cursor where the chapter left it"
    train, _ = data
    s = Shown(page, NeuronExplorer(Run(runs / "gradients"), train, progress=False))
    s.own.set(layer=s.dropdown("layer").input_value(), neuron=int(s.number("neuron").input_value()))
    return s


def test_neurons(apart, page, runs, data, report):
    train, _ = data
    s = apart
    own = s.own
    model = Run(runs / "gradients").model()
    for group, k in (("clean", 2), ("noisy", 0), ("clean", 0)):
        s.hit("example, click", group, s.trace(group)["x"][k], 5)
        own.example = own.offered[group][k]
        s.check()
    names = own.removed[own.example]
    s.slider("neurons removed").focus()
    for step in range(1, min(4, len(names)) + 1):
        s.press("step, key", "ArrowRight")
        settled(s)
        own.step = step
        s.check()
    gone = names[:own.step]
    said = answers_without(model, train, own.example, [gone]).values[0]
    accuracy = accuracy_without(model, train, gone)
    assert s.says(*(f"{v:.3f}" for v in (said[train.y[own.example]], *accuracy.values())))
    for name in (("conv1", 1), ("conv4", 0), ("conv1", 1)):
        s.hit("neuron, click", "neurons", *own.place[name])
        settled(s)
        own.toggle(*name)
        settled(s)
        s.check()
    assert s.says(f"{accuracy_without(model, train, own.off)['clean']:.3f}")
    s.choose("neuron's layer, list", "layer", "conv3")
    own.layer = "conv3"
    s.number("neuron").fill("5")
    s.press("neuron's number, key", "Enter")
    own.neuron = 5
    s.check()
    s.button("switch off or on").focus()
    s.press("switch, key", "Enter")
    own.toggle("conv3", 5)
    settled(s)
    s.check()
    assert ("conv3", 5) in own.off
    s.push("undo, click", "undo switches")
    own.off = tuple(gone)
    s.check()
    s.hit("removals, click", "course", "0", "2")
    own.step = 0
    s.check()
    right = predict(model, train).argmax(1) == train.y
    other = next(i for i in range(len(train)) if i not in own.removed and right[i])
    s.number("example").fill(str(other))
    s.press("any example, key", "Enter")
    settled(s)
    own.example = other
    settled(s)
    s.check()
    last = len(own.removed[other])
    s.play_until(lambda: int(s.value("step")) == last, "play did not go on to the end", 60)
    settled(s)
    own.step = last
    settled(s)
    s.check()
    finish(s, report)


def test_dropout(page, runs, data, report):
    train, test = data
    s = Shown(page, DropoutExplorer(runs / "map", train, test, progress=False))
    own = s.own
    for mode in ("own", "expected", "dropped", "dropped_recalibrated"):
        name = mode.removeprefix("dropped_")
        s.push("mode, click", name)
        own.mode = mode
        s.check()
    s.button("dropped").focus()
    s.press("mode, key", "Space")
    own.mode = "dropped"
    for name in ("p_gen", "p_mem"):
        s.home(name)
        s.press(f"{name}, key", "ArrowRight")
        setattr(own, name, own.choices[name][1])
        s.check()
    tied = Run(runs / "map" / f"p_gen-{own.p_gen}-p_mem-{own.p_mem}").model()
    row = mode_accuracy(tied, train, test).set_index("mode").loc["dropped"]
    assert s.says(*(f"{v:.3f}" for v in row))
    changed = mode_answers(tied, train).eval("dropped != own").values & train.noisy.numpy()
    assert int(s.value("noisy_changed")) == changed.sum()
    for x, y in ((0, 0), (1, 1), (0, 1)):
        p_gen, p_mem = own.choices["p_gen"][y], own.choices["p_mem"][x]
        s.hit("map, click", "noisy map", str(p_mem), str(p_gen))
        own.set(p_gen=p_gen, p_mem=p_mem)
        s.check()
    s.after("p_gen, drag", lambda: s.drag("p_gen", 0))
    own.p_gen = own.choices["p_gen"][0]
    s.check()
    s.choose("way, list", "trained", "in two stages")
    own.way = "in two stages"
    s.check()
    tied = Run(runs / "map" / f"two-stages-{own.p_gen}" / "memorize").model()
    assert s.says(*(f"{v:.3f}" for v in mode_accuracy(tied, train, test).set_index("mode").loc[own.mode]))
    finish(s, report)


@pytest.fixture
def nets(runs):
    kinds = ("true labels", "random labels")
    return {kind: Run(runs / "fitting" / f"{kind.split()[0]}-vgg11-0").model().to(device()) for kind in kinds}


@pytest.fixture
def generator(runs, size):
    few = fitting_presets[size.name].examples
    truth, _ = load("digits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train = sample(truth, few or len(truth))
        of_gan = dict(pattern_presets[size.name].gan)
        if size.name == "laptop": of_gan |= {"steps": 1000, "width": .25}
        return fit_dcgan(train, runs / "dcgan", **of_gan).generator


def test_patterns(page, nets, generator, size, report):
    steps = min(pattern_presets[size.name].ascent.get("steps", 1000), 200)
    s = Shown(page, PatternExplorer(nets, generator, steps=steps, progress=False))
    own = s.own
    own.set(network="random labels", other="true labels", label=3, start=1)       # where the chapter has left it
    s.choose("network, list", "network", "true labels")
    own.network = "true labels"
    s.check()
    s.choose("class, list", "class", "7")
    own.label = 7
    s.check()
    s.choose("other, list", "compare with", "random labels")
    own.other = "random labels"
    s.check()
    s.home("start")
    for start in (1, 2, 3):
        s.press("start, key", "ArrowRight")
        own.start = start
        s.check()
    s.hit("film, click", "film", s.trace("film")["x"][0], 5)
    own.step = 0
    s.check()
    s.hit("curve, click", "network curve", steps, s.trace("network curve")["y"][-1])
    own.step = steps
    s.check()
    found = maximize(nets["true labels"], generator, range(10), starts=6, steps=steps, progress=False)
    at = 7 * 6 + 3
    asked = probabilities(nets["random labels"], found.images)[at, 7]
    assert s.says(f"{found.confidence_after[at]:.3f}", f"{asked:.3f}")
    s.after("step, drag", lambda: s.drag("step", 0))
    time.sleep(.5)
    own.step = 0
    s.check()
    s.play_until(lambda: int(s.value("step")) == steps, "play did not go on to the end", 60)
    own.step = steps
    s.check()
    finish(s, report)


def test_wrong_use_in_the_browser(page):
    "A sentence in the explorer's place"
    run_at_end(page, "RewindExplorer('nowhere', train)")
    alert = page.locator(f"{OUTPUT} [role=alert]")
    alert.wait_for(timeout=20_000)
    assert alert.inner_text().startswith("nowhere holds no run: give a folder that `fit` has written")
    assert not page.locator(TRACEBACK).count()


def test_light_and_dark(page, lab, tmp_path):
    "Text keeps its contrast in both themes, and nothing was complained of, in the browser or in the kernel"
    folder = Path(PICTURES or tmp_path)
    for theme in ("Light", "Dark"):
        choose_theme(page, theme)
        for name, first in FIRST.items():
            root, figure = found(page, first)
            root.evaluate("e => e.scrollIntoView()")
            time.sleep(.3)
            page.screenshot(path=folder / f"{name}-{theme.lower()}.png")
            shown = [*root.locator(".widget-label, .widget-html-content").all()[:2],
                     figure.locator(".infolayer text").first, figure.locator("[class*=tick] text").first]
            for element in shown: assert contrast(element) > 4.5, (name, theme, element.text_content())
            assert root.bounding_box()["height"] < 720, name
            assert figure.bounding_box()["width"] > 700, name
    assert not page.complaints
    assert "Traceback" not in (lab[1] / "lab.log").read_text()


@pytest.fixture
def static(tmp_path, browser, monkeypatch):
    "The stored chapter as a page, without a kernel and without a network"
    shutil.copy(NBS / CHAPTER, tmp_path)
    shutil.copytree(NBS / "pictures", tmp_path / "pictures")
    monkeypatch.setattr(sys, "argv", ["interactive", str(tmp_path)])
    runpy.run_path(NBS.parent / ".ci/interactive")
    text, _ = HTMLExporter().from_filename(tmp_path / CHAPTER)
    (tmp_path / "chapter.html").write_text(text)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.context.set_offline(True)
    page.complaints = []
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto((tmp_path / "chapter.html").as_uri())
    return page


def test_where_no_kernel_runs(static, tmp_path):
    "Each explorer is drawn from what the chapter stores, and says what is under the pointer"
    for name, first in FIRST.items():
        figure = static.locator(f"[role=img][aria-label^='{first} ']")
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
        assert figure.bounding_box()["width"] > 700, name
        static.screenshot(path=Path(PICTURES or tmp_path) / f"{name}-static.png")
    rewound = static.locator("[role=img][aria-label^='layer ']")
    rewound.scroll_into_view_if_needed()
    noisy = rewound.evaluate("figure => figure.data.find(trace => trace.meta === 'noisy')")
    layer, epoch, accuracy = noisy["y"][1], noisy["x"][2], noisy["z"][1][2]
    static.mouse.move(*rewound.evaluate(PLACE, ["noisy", epoch, layer]))
    said = rewound.locator(".hoverlayer text")
    said.first.wait_for()
    assert f"layer {layer}, epoch {epoch}: {accuracy:.3f}" in " ".join(said.all_text_contents())
    assert not static.complaints, static.complaints
