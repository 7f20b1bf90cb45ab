"Reviewing labels in a real browser: JupyterLab on this machine, chromium, two hundred decisions by key."
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_browser import (
    PICTURES,
    TRACEBACK,
    choose_theme,
    contrast,
    menu,
    opened,
    run_through,
    until,
    wait_for_kernel,
    written,
)

from memloc.data import add_label_noise, load
from memloc.networks import network
from memloc.review import Review, apply

NOTEBOOK = "reviewing.ipynb"
CELL = """from memloc.data import add_label_noise, load
from memloc.networks import network
from memloc.review import Review

train = add_label_noise(load("digits")[0], 0.1, seed=0)
Review("audit", train, net=network("resnet9", train, width=0.125, seed=0))"""
DECISIONS = 200


@pytest.fixture(scope="module")
def train(): return add_label_noise(load("digits")[0], 0.1, seed=0)


@pytest.fixture(scope="module")
def folder(lab, train):
    "An audit, made up: wrong labels come first, and then what happens to stand there"
    rng = np.random.default_rng(0)
    order = np.argsort(~train.noisy.numpy(), kind="stable")
    says = np.where(train.noisy, train.y_true, rng.integers(10, size=len(train)))[order]
    near = rng.integers(len(train), size=(500, 4))
    folder = lab[1] / "audit"
    folder.mkdir()
    frame = pd.DataFrame({"index": order, "given": train.y[order], "says": says})
    frame["score"] = np.linspace(5, -5, len(order))
    frame.to_csv(folder / "suspects.csv", index=False)
    beside = pd.DataFrame(near, columns=["given_1", "given_2", "said_1", "said_2"])
    beside.insert(0, "index", order[:500])
    beside.to_csv(folder / "alike.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def page(lab, blank, folder):
    "A notebook that opens a review"
    written(lab[1], NOTEBOOK, CELL)
    opened(blank, lab, NOTEBOOK)
    run(blank)
    return blank


def run(page):
    "Run the notebook, and wait for the panel"
    menu(page, "Run", "Run All Cells")
    until(lambda: run_through(page) and panel(page).count(), 60, "the review did not open")
    panel(page).scroll_into_view_if_needed()


def panel(page): return page.locator(".memloc-review")
def button(page, name): return panel(page).get_by_role("button", name=name)
def example(page): return int(panel(page).get_attribute("data-example"))
def says(page, part): return panel(page).locator(part).inner_text()


def after(page, act):
    "Do something, and wait for another example"
    before = example(page)
    act()
    until(lambda: example(page) != before, 10, lambda: f"example {before} stays: {says(page, '[role=alert]')}")


def press(page, key): after(page, lambda: page.keyboard.press(key))


def decide(page, key, label):
    "Decide by key on what is shown; for another label its name is typed"
    if key != "l": return press(page, key)
    page.keyboard.press("l")
    page.keyboard.press(label)
    return press(page, "Enter")


def in_file(folder):
    found = pd.read_csv(folder / "review.csv", dtype=str, keep_default_na=False)
    return list(found[["index", "given", "decision", "label"]].itertuples(index=False, name=None))


def test_two_hundred_decisions(page, folder, train):
    "What is in the file is what was decided by key, undone decisions left out"
    rng = np.random.default_rng(1)
    rows = pd.read_csv(folder / "suspects.csv", dtype=str).set_index("index")
    expected = []
    panel(page).click(position={"x": 5, "y": 5})
    while len(expected) < DECISIONS:
        i = str(example(page))
        given, said = rows.loc[i, ["given", "says"]]
        other = str((int(given) + 3) % 10)
        key, decision, label = [
            ("k", "keep", given), ("r", "relabel", said), ("x", "remove", ""), ("u", "unsure", given),
            ("l", "relabel", other),
        ][rng.integers(5)]
        if key == "r" and given == said: continue
        decide(page, key, other)
        expected.append((i, given, decision, label))
        if len(expected) % 25 == 0 and rng.random() < .7:
            press(page, "z")
            assert str(example(page)) == expected.pop()[0]
    assert in_file(folder) == expected
    assert [row[0] for row in expected] == rows.index[:DECISIONS].tolist()
    wrong = sum(row[2] in ("relabel", "remove") for row in expected[-20:])
    assert says(page, "[role=status]") == f"200 of 1,437 decided; {wrong} of the last 20 were wrong"
    removed = sum(row[2] == "remove" for row in expected)
    assert len(apply(folder, train)) == len(train) - removed
    assert page.locator(".jp-Cell").count() == 1, "keys reached the notebook"


def test_a_restart(page, folder, train):
    "A new kernel goes on where the old one was"
    here, there = example(page), in_file(folder)
    menu(page, "Kernel", "Restart Kernel…")
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    time.sleep(1)
    wait_for_kernel(page)
    panel(page).evaluate("e => e.remove()")
    run(page)
    assert (example(page), in_file(folder)) == (here, there)
    panel(page).focus()
    press(page, "z")
    assert (str(example(page)), in_file(folder)) == (there[-1][0], there[:-1])


def test_mouse_and_what_is_shown(page, folder, train):
    "Every button, and the pictures, sharp and with words of their own"
    for name, decision in (("keep", "keep"), ("remove", "remove"), ("unsure", "unsure")):
        i = example(page)
        after(page, lambda name=name: button(page, name).click())
        assert in_file(folder)[-1][::2] == (str(i), decision)
    i = example(page)
    given = train.classes[train.y[i]]
    panel(page).locator("input").fill(given)
    button(page, "give it").click()
    until(lambda: "is the label that it has already" in says(page, "[role=alert]"), 10, "nothing was said")
    other = train.classes[(train.y[i] + 1) % 10]
    panel(page).locator("input").fill(other)
    after(page, lambda: button(page, "give it").click())
    assert in_file(folder)[-1] == (str(i), given, "relabel", other)
    after(page, lambda: button(page, "undo").click())
    assert example(page) == i
    own = Review(folder, train, net=network("resnet9", train, width=.125, seed=0))
    own.set(example=i)
    alts = panel(page).locator("img").evaluate_all("all => all.map(e => e.alt)")
    assert alts == [framed["alt"] for framed in own.shown["suspect"] + own.shown["beside"]]
    images = panel(page).locator("img").evaluate_all("all => all.map(e => getComputedStyle(e).imageRendering)")
    assert set(images) == {"pixelated"}
    assert says(page, ".why") == own.shown["why"]
    chances = [f"{name} {p:.3f}" for name, p in own.shown["chances"]]
    assert [" ".join(row.split()) for row in panel(page).locator("tr").all_inner_texts()] == chances
    panel(page).focus()
    page.keyboard.press("Tab")
    assert button(page, "keep").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    press(page, "Enter")
    assert in_file(folder)[-1] == (str(i), given, "keep", given)


def test_light_and_dark(page, lab, tmp_path):
    "Text keeps its contrast in both themes"
    for theme in ("Dark", "Light"):
        choose_theme(page, theme)
        page.screenshot(path=Path(PICTURES or tmp_path, f"Review-{theme.lower()}.png"))
        for part in ("[role=status]", ".suspect figcaption", ".beside figcaption", ".why", "button", "kbd"):
            assert contrast(panel(page).locator(part).first) > 4.5, (theme, part)


def test_two_at_once(page, lab, folder, train):
    "Somebody else's decision is noticed, and kept"
    Review(folder, train).keep()
    there = in_file(folder)
    panel(page).focus()
    page.keyboard.press("k")
    until(lambda: "somebody else has decided in" in says(page, "[role=alert]"), 10, "nothing was said")
    assert in_file(folder) == there
    assert not page.complaints
    assert not page.locator(TRACEBACK).count()
    assert "Traceback" not in (lab[1] / "lab.log").read_text()
