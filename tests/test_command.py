"What a notebook cannot show: `memloc` as a process, refused, killed, and out of disk."
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

MEMLOC = Path(sys.executable).parent / "memloc"


def start(out, *options, command="study", **kwargs):
    command = [MEMLOC, command, "--preset", "smoke", "--out", out, *options]
    command = list(map(str, command))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def finish(process):
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The folder of a study that nothing happened to"
    out = tmp_path_factory.mktemp("whole") / "study"
    status, stdout, stderr = finish(start(out))
    assert status == 0, stderr
    return out


def assert_same(out, whole):
    runs = ("plain/epoch-0008.safetensors", "tied/epoch-0008.safetensors")
    for f in (*runs, "history.csv", "gradients.csv", "tied.csv"):
        assert (out / f).read_bytes() == (whole / f).read_bytes(), f
    ours, theirs = (json.loads((d / "results.json").read_text()) for d in (out, whole))
    for r in (ours, theirs): del r["training"]["seconds"], r["sha256"]
    assert ours == theirs


def test_killed_at_any_moment(tmp_path, whole):
    out, draw = tmp_path / "study", random.Random(0)
    kills = 0
    for awaited in ("study.json", "plain/epoch-0000.safetensors", "plain/epoch-0003.safetensors", "history.csv",
                    "tied/epoch-0002.safetensors", "tied.csv", None):
        process = start(out)
        while awaited and not (out / awaited).exists() and process.poll() is None: time.sleep(0.005)
        if awaited: time.sleep(draw.random() * 0.2)
        if awaited and process.poll() is None:
            process.send_signal(draw.choice((signal.SIGKILL, signal.SIGTERM)))
            kills += 1
        status, _, stderr = finish(process)
    assert kills >= 4
    assert status == 0, stderr
    assert_same(out, whole)


def test_dropout_killed_at_any_moment(tmp_path):
    options = ["--noise", 0.1, "--map-p-gen", 0.4, "--map-p-mem", 0.1, "--epochs", 4]
    status, _, stderr = finish(start(tmp_path / "whole", *options, command="dropout"))
    assert status == 0, stderr
    out, draw = tmp_path / "killed", random.Random(0)
    kills = 0
    for awaited in ("dropout.json", "noise-0.1/sparse/epoch-0002.safetensors", "noise-0.1/narrow/accuracy.json",
                    "comparison-0.1.csv", "noise-0.1/p_gen-0.4-p_mem-0.1/epoch-0001.safetensors", None):
        process = start(out, *options, command="dropout")
        while awaited and not (out / awaited).exists() and process.poll() is None: time.sleep(0.005)
        if awaited: time.sleep(draw.random() * 0.2)
        if awaited and process.poll() is None:
            process.send_signal(draw.choice((signal.SIGKILL, signal.SIGTERM)))
            kills += 1
        status, _, stderr = finish(process)
    assert kills >= 3
    assert status == 0, stderr
    for f in ("results.json", "comparison-0.1.csv", "map.csv", "forgotten.csv", "extracted.csv"):
        assert (out / f).read_bytes() == (tmp_path / "whole" / f).read_bytes(), f


def test_truncated_checkpoint(tmp_path, whole):
    out = tmp_path / "study"
    process = start(out)
    while not (out / "plain/epoch-0004.safetensors").exists(): time.sleep(0.005)
    process.kill()
    finish(process)
    newest = max((out / "plain").glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:5000])
    status, _, stderr = finish(start(out))
    assert status == 0 and newest.name in stderr and "damaged" in stderr
    assert_same(out, whole)


def test_disk_full(tmp_path, whole):
    "A limit on the size of files stands for a full disk"
    out = tmp_path / "study"
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    status, _, stderr = finish(start(out, preexec_fn=limit))
    assert status == 1 and "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("memloc: ") and "could not be written" in stderr.splitlines()[-1]
    assert not list(out.rglob("*.part"))
    status, _, stderr = finish(start(out))
    assert status == 0, stderr
    assert_same(out, whole)


@pytest.mark.parametrize("options, sentence", [
    (["--data", "mnits"], "there is no data set mnits"),
    (["--noise", "1"], "not including, 1"),
    (["--examples", "0"], "examples is 0: give a whole number from 1 on"),
    (["--data", "bad.npz"], "images are uint8"),
])
def test_refused(tmp_path, options, sentence):
    images = np.full((2, 16, 16), -1.)
    np.savez(tmp_path / "bad.npz", x_train=images, y_train=[0, 1], x_test=images, y_test=[0, 1])
    status, stdout, stderr = finish(start(tmp_path / "study", *options, cwd=tmp_path))
    assert status == 2 and stdout == "" and len(stderr.splitlines()) == 1 and sentence in stderr
    assert not (tmp_path / "study").exists()


def test_other_settings_leave_a_study_alone(whole):
    before = {f: f.read_bytes() for f in whole.rglob("*") if f.is_file()}
    status, _, stderr = finish(start(whole, "--seeds", 1))
    assert status == 2 and len(stderr.splitlines()) == 1 and "seed 0, not 1" in stderr
    assert {f: f.read_bytes() for f in whole.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("awaited", ["tied/epoch-0003.safetensors", "suspects.csv"])
def test_audit_killed(tmp_path, awaited):
    "An audit that was killed goes on, and ends as one that was not"
    def audit(out): return start(out, "--noise", 0.1, command="audit")

    process = audit(tmp_path / "killed")
    while not (tmp_path / "killed" / awaited).exists() and process.poll() is None: time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    finish(process)
    for out in ("killed", "whole"):
        status, stdout, stderr = finish(audit(tmp_path / out))
        assert status == 0 and "30 labels are wrong" in stdout, stderr
    assert (tmp_path / "killed/suspects.csv").read_bytes() == (tmp_path / "whole/suspects.csv").read_bytes()


def test_import_is_quiet():
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib', 'IPython'}"
    code = f"import sys, memloc, memloc.settings, memloc.command; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert said.stdout.strip() == "[]"


def test_nobody_listens(whole):
    "A full disk behind stdout does not hide what was found: the folder that holds it is named"
    with open("/dev/full", "w") as full:
        again = subprocess.run([MEMLOC, "study", "--preset", "smoke", "--out", whole], stdout=full,
                               stderr=subprocess.PIPE, text=True)
    assert again.returncode == 0
    assert again.stderr.splitlines()[-1] == f"memloc: what was found could not be printed; it is in {whole}"
