"A probe from outside: installed, it is found, run, resumed, reported and summarised, with no change in memloc."
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from memloc.files import read_json, write_json

MEMLOC = Path(sys.executable).parent / "memloc"

PROBE = '''
from dataclasses import dataclass

import torch
from memloc import Figure, Observer, Part, axes


class Surprise(Observer):
    "Mean loss of clean and of noisy examples, epoch by epoch."
    name = "surprise"

    def start(self, model, examples):
        super().start(model, examples)
        self.sums = torch.zeros(2), torch.zeros(2)

    def batch(self, index, losses):
        noisy = self.examples.noisy[index].long()
        self.sums[0].index_add_(0, noisy, losses.detach().float())
        self.sums[1].index_add_(0, noisy, torch.ones(len(index)))

    def epoch(self, epoch):
        clean, noisy = (self.sums[0] / self.sums[1]).tolist()
        self.rows.append({"epoch": epoch, "clean": clean, "noisy": noisy})
        for sums in self.sums: sums.zero_()


@dataclass(frozen=True)
class StudySurprise(Part):
    "How much more a wrong label surprises than a right one."
    chapter = 50
    needs = ("training",)
    claims = {"surprise": "loss of noisy examples over that of clean ones, first epochs"}
    first: int = 3   # epochs to look at

    def observers(self, lab): return [Surprise()]

    def compute(self, lab):
        frame = lab.observed("surprise")
        mean = frame[frame.epoch <= self.first].mean()
        return {"clean": mean.clean, "noisy": mean.noisy}, {"surprise": frame}

    def figures(self, lab, section, tables):
        ax = axes(figsize=(5, 2))
        ax.plot(tables["surprise"].epoch, tables["surprise"].noisy)
        yield Figure("surprise", "Who surprises?", "The loss of noisy examples.", ax)

    def say(self, section, results):
        yield f"A wrong label costs {section['noisy'] / section['clean']:.2f} times as much as a right one."

    def findings(self, section, tables): return {"surprise": section["noisy"] / section["clean"]}

    def over_seeds(self, frames):
        ax = axes(figsize=(5, 2))
        for _, rows in frames["surprise"].groupby("seed"): ax.plot(rows.epoch, rows.noisy)
        yield Figure("surprise", "Who surprises, over seeds?", "A line a seed.", ax)
'''

METADATA = "Metadata-Version: 2.1\nName: surprising\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY = "[memloc.parts]\nsurprise = surprising:StudySurprise\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The environment in which the probe's package is installed"
    at = tmp_path_factory.mktemp("surprising")
    about, file = "surprising-1.0.dist-info", at / "surprising-1.0-py3-none-any.whl"
    texts = {"surprising.py": PROBE, f"{about}/METADATA": METADATA, f"{about}/WHEEL": WHEEL,
             f"{about}/entry_points.txt": ENTRY}
    texts[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*texts, f"{about}/RECORD"])
    with zipfile.ZipFile(file, "w") as wheel:
        for name, text in texts.items(): wheel.writestr(name, text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", at / "site", file]
    subprocess.run([str(word) for word in pip], check=True)
    return os.environ | {"PYTHONPATH": str(at / "site"), "MEMLOC_PRESET": "smoke"}


def memloc(env, *words):
    return subprocess.run([str(MEMLOC), *map(str, words)], env=env, capture_output=True, text=True, timeout=300)


def test_found_without_being_imported(installed, tmp_path):
    said = memloc(installed, "study", "--help").stdout
    assert "surprise" in said and "rewinding" in said
    assert "--first INT" in memloc(installed, "study", "--surprise.help").stdout
    elsewhere = {k: v for k, v in installed.items() if k != "PYTHONPATH"}
    without = memloc(elsewhere, "study", "--parts", "surprise", "--out", tmp_path / "none")
    assert without.returncode == 2 and "there is no part surprise" in without.stderr
    assert not (tmp_path / "none").exists()


def test_run_resumed_and_reported(installed, tmp_path):
    out = tmp_path / "study"
    asked = ["study", "--parts", "surprise", "--surprise.first", 2, "--out", out]
    done = memloc(installed, *asked)
    assert done.returncode == 0, done.stderr
    results, table = json.loads((out / "results.json").read_text()), pd.read_csv(out / "surprise.csv")
    assert list(results["parts"]) == ["training", "surprise"] and results["parts"]["surprise"] == {"first": 2}
    assert results["surprise"]["noisy"] == pytest.approx(table.noisy[:2].mean())
    assert results["findings"]["surprise"] == pytest.approx(table.noisy[:2].mean() / table.clean[:2].mean())
    assert table.noisy.iloc[-1] > table.clean.iloc[-1] and results["story"][-1] in done.stdout
    assert "Who surprises?" in (out / "report.html").read_text() and (out / "surprise.png").is_file()
    before = (out / "results.json").read_bytes(), (out / "surprise.csv").stat().st_mtime_ns
    again = memloc(installed, *asked)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert before == ((out / "results.json").read_bytes(), (out / "surprise.csv").stat().st_mtime_ns)
    other = memloc(installed, "study", "--parts", "surprise", "--surprise.first", 3, "--out", out)
    assert other.returncode == 2 and "first 2, not 3" in other.stderr and other.stderr.count("\n") == 1


def test_every_part_and_two_seeds(installed, tmp_path):
    out = tmp_path / "seeds"
    done = memloc(installed, "study", "--seeds", "0-1", "--out", out)
    assert done.returncode == 0, done.stderr
    single = json.loads((out / "seed-1/results.json").read_text())
    ours = ["training", "gradients", "rewinding", "retraining", "removal", "tied", "two_stages"]
    assert list(single["parts"]) == [*ours, "surprise"]
    summary, found = json.loads((out / "summary.json").read_text()), pd.read_csv(out / "findings.csv")
    assert summary["surprise"]["noisy"]["max"] >= single["surprise"]["noisy"]
    assert found.surprise[1] == pytest.approx(single["findings"]["surprise"])
    page = (out / "report.html").read_text()
    assert "loss of noisy examples over that of clean ones, first epochs" in page
    assert "Who surprises, over seeds?" in page


def test_no_file_decides_what_is_imported(installed, tmp_path):
    "A folder that names a module of its own as a part, or as a network, does not get it imported"
    out, trap = tmp_path / "study", tmp_path / "trap"
    assert memloc(installed, "study", "--parts", "surprise", "--out", out).returncode == 0
    (tmp_path / "evil.py").write_text(f"open({str(trap)!r}, 'w')")
    results = read_json(out / "results.json")
    results["parts"]["evil:Evil"] = results["parts"]["evil"] = {}
    results["evil"] = results["evil:Evil"] = {}
    write_json(out / "results.json", results)
    env = installed | {"PYTHONPATH": os.pathsep.join([installed["PYTHONPATH"], str(tmp_path)])}
    memloc(env, "study", "--parts", "surprise", "rewinding", "--out", out)
    run = read_json(out / "plain/run.json")
    run["network"] |= {"network": "evil", "module": "evil"}
    write_json(out / "plain/run.json", run)
    code = f"import memloc; memloc.Run({str(out / 'plain')!r}).model()"
    refused = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "it is of run" in refused.stderr and not trap.exists()
