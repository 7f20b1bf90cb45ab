"""Damage to every kind of file that a command leaves. What comes out is what would have come out without it, or one
sentence that names the file. MEMLOC_VERBOSE=1 lists what is answered badly."""
import os
import re
import shutil
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import pytest

import memloc.report
from memloc.command import main

SMALL = ["--preset", "smoke", "--no-progress", "--examples", "100", "--epochs", "3"]
COMMANDS = {
    "study": ["study", *SMALL],
    "run": ["study", *SMALL, "--parts", "rewinding"],
    "seeds": ["study", *SMALL, "--seeds", "0-1", "--parts", "training"],
    "audit": ["audit", *SMALL, "--noise", "0.1"],
    "dropout": ["dropout", *SMALL, "--noise", "0.1", "--rivals", "sparse", "--parts", "comparison", "forgotten"],
    "dissect": ["dissect", *SMALL, "--others", "none", "--random", "0", "1", "--accept-unfitted", "--repeats", "2",
                "--augmented-epochs", "3"],
    "compare": ["compare-methods", *SMALL, "--noise", "0.1", "--seeds", "0", "--methods", "tied", "loss"],
}


AGAIN = ("run", "dropout")               # what was trained is asked again, as results.json is gone


def flip(file, _):
    "A bit in the middle"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def number(file, _):
    "A digit, so that nothing but the number is wrong"
    text = file.read_text()
    digit = re.search(r"(?<=0\.)\d", text)
    file.write_text(text[:digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end():])


def cut(file, _): file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
def empty(file, _): file.write_bytes(b"")
def delete(file, _): file.unlink()


def swap(file, other):
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


def copy(file, other): shutil.copy(other, file)


# whose folder: (file, what is done to it, the other file)
DAMAGES = {
    "study": [
        ("study.json", flip), ("study.json", number), ("study.json", empty), ("study.json", delete),
        ("results.json", flip), ("results.json", number), ("results.json", cut), ("results.json", empty),
        ("results.json", delete), ("history.csv", number), ("rewinding.csv", number), ("gradients.csv", cut),
        ("removal.csv", empty), ("tied.csv", delete), ("retraining.csv", swap, "rewinding.csv"),
        ("report.html", cut), ("history.png", flip),],
    "run": [
        ("plain/run.json", flip), ("plain/run.json", number), ("plain/run.json", empty), ("plain/run.json", delete),
        ("plain/run.json", swap, "other/run.json"), ("plain/history.csv", number), ("plain/history.csv", delete),
        ("plain/epoch-0001.safetensors", flip), ("plain/epoch-0001.safetensors", delete),
        ("plain/epoch-0003.safetensors", flip), ("plain/epoch-0003.safetensors", cut),
        ("plain/epoch-0003.safetensors", empty), ("plain/epoch-0003.safetensors", delete),
        ("plain/epoch-0003.safetensors", swap, "plain/epoch-0002.safetensors"),
        ("plain/epoch-0003.safetensors", swap, "other/epoch-0003.safetensors"),
        ("plain/epoch-0003 (1).safetensors", copy, "plain/epoch-0001.safetensors"),
        ("plain/resume-0003.safetensors", flip), ("plain/resume-0003.safetensors", delete)],
    "seeds": [
        ("seeds.json", number), ("seeds.json", empty), ("summary.json", number), ("findings.csv", cut),
        ("seed-0/results.json", swap, "seed-1/results.json"), ("seed-1/results.json", number)],
    "audit": [
        ("audit.json", cut), ("results.json", number), ("suspects.csv", number), ("suspects.csv", delete),
        ("tied/epoch-0003.safetensors", flip)],
    "dropout": [
        ("comparison-0.1.csv", number), ("noise-0.1/plain-network/accuracy.json", number),
        ("noise-0.1/plain-network/accuracy.json", swap, "noise-0.1/sparse/accuracy.json"),
        ("noise-0.1/plain-network/accuracy.json", empty), ("noise-0.1/sparse/epoch-0003.safetensors", flip)],
    "dissect": [
        ("dcgan/dcgan.safetensors", flip), ("dcgan/dcgan.safetensors", delete),
        ("patterns/vgg11-0-random-0.safetensors", flip), ("patterns/vgg11-0-random-0.safetensors", empty),
        ("patterns/vgg11-0-random-0.safetensors", swap, "patterns/vgg11-0-random-1.safetensors"),
        ("fitting.csv", number)],
    "compare": [
        ("compare-methods.json", cut), ("compare-methods.json", delete), ("compare.csv", number), ("compare.csv", cut),
        ("compare.csv", empty), ("compare.csv", delete)],
}
@contextmanager
def quick():
    "No pictures, which are not what is asked about here"
    with patch.object(memloc.report, "as_png", lambda ax: plt.close("all") or b"png"), warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def run(words, capsys):
    "Status of a command and what it says"
    before = warnings.showwarning
    with quick():
        try: status = main(words) or 0
        except SystemExit as e: status = e.code
        except BaseException as e: status = f"{type(e).__name__}: {e}"
        finally: warnings.showwarning = before
    said = capsys.readouterr()
    return status, said.out, said.err


def figures(folder):
    "{file: what is in it}, but for seconds, and for what only lies there"
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.parent.name == "other" or "(" in file.name: continue
        name = str(file.relative_to(folder))
        if file.suffix in (".csv", ".html", ".png") or file.name.startswith("epoch-"): found[name] = file.read_bytes()
        if file.suffix == ".json": found[name] = re.sub(r'"(seconds|sha256)": \S+', "", file.read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "{command: its finished folder}"
    return tmp_path_factory.mktemp("whole")


whole_results = {}


def made(whole, name, capsys):
    folder = whole / name
    if not folder.exists():
        status, _, err = run([*COMMANDS[name], "--out", str(folder)], capsys)
        assert status == 0, (name, err)
        whole_results[name] = figures(folder)
        if name in AGAIN: (folder / "results.json").unlink()
        if name == "run":                                     # with another's beside it
            other = whole / "other run"
            status, _, err = run([*COMMANDS[name], "--seeds", "1", "--out", str(other)], capsys)
            assert status == 0, err
            shutil.copytree(other / "plain", folder / "other")
    return folder


def harmed(source, place, name, file, damage, other=None):
    "A copy of a folder, with damage"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    damage(place / file, place / other if other else None)
    return place


def wrong(name, file, place, expected, capsys):
    "What is wrong with the answer to damage; None if nothing is"
    status, _, err = run([*COMMANDS[name], "--out", str(place)], capsys)
    if status == 0:
        now = figures(place)
        unread = name not in AGAIN and "safetensors" in file      # whoever reads it later is told
        changed = [f for f, content in expected.items() if now.get(f) != content and not (unread and f == file)]
        return f"changed: {', '.join(changed)}" if changed else None
    if status not in (1, 2): return f"status {status}"
    if len(err.strip().splitlines()) > 1 and not all(line.startswith("memloc: ") for line in err.splitlines()):
        return f"several lines: {err}"
    named = re.sub(r"epoch-0*(\d+).safetensors", r"no checkpoint of epoch \1", Path(file).name)
    if Path(file).name not in err and named not in err: return f"the file is not named: {err.strip()}"
    return None


@pytest.mark.parametrize("name", list(COMMANDS))
def test_damage(name, whole, tmp_path, capsys):
    source = made(whole, name, capsys)
    expected = figures(source) | whole_results[name]
    found = {}
    for file, damage, *other in DAMAGES[name]:
        place = harmed(source, tmp_path / name, name, file, damage, *other)
        found[(name, file, damage.__name__, *other)] = wrong(name, file, place, expected, capsys)
    bad = {case: reason for case, reason in found.items() if reason}
    with capsys.disabled():
        if os.environ.get("MEMLOC_VERBOSE"):
            for case, reason in bad.items(): print("\n", *case, "|", reason[:300], end="")
        print(f"\n{name}: {len(found)} tried, {len(bad)} answered badly")
    assert not bad, bad


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", __file__]))
