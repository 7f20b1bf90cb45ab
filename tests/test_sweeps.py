"Sweeps that lose a process or a machine; all within three minutes on two cores."
import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

import memloc
from memloc.basics import InputError
from memloc.data import load, sample
from memloc.memorization_scores import memorization
from memloc.networks import resnet9
from memloc.sweeps import in_short, on_this_machine, sweep
from memloc.training import Recipe

TINY = {"preset": "smoke", "examples": 150, "epochs": 12, "parts": ("training",)}
GRID = {"noise": (0.1, 0.2, 0.3), "seeds": (0, 1)}


def contents(out):
    "{cell: what its training left, to the byte}"
    kept = ("history.csv", "epoch-0012.safetensors")
    return {f"{f.parent.parent.parent.name}/{f.parent.parent.name}/{f.name}": f.read_bytes()
            for f in Path(out).rglob("*") if f.name in kept}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The cells of a sweep that nobody disturbed, done here one after the other with one thread"
    out = tmp_path_factory.mktemp("undisturbed")
    sweep("study", out / "grid", progress=False, **TINY, **GRID)
    return contents(out / "grid")


def when_training(out, then):
    "Do something once a cell below a folder trains; the thread that waits for it"
    return when_there(out, "epoch-0002.safetensors", then)


def when_there(out, name, then):
    "Do something once a file or folder of that name is there, anywhere below one; the thread that waits for it"
    def wait():
        while not any(Path(out).rglob(name)): time.sleep(.05)
        then()
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_worker_is_killed(tmp_path, undisturbed):
    killed = []
    def kill():
        workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
        worker = max(workers, key=lambda p: p.cpu_times().user)
        os.kill(worker.pid, signal.SIGKILL)
        killed.append(worker.pid)
    when_training(tmp_path, kill)
    table = sweep("study", tmp_path / "grid", workers=2, progress=False, **TINY, **GRID)
    assert killed and in_short(table) == ["6 of 6 cells are done."]
    assert contents(tmp_path / "grid") == undisturbed


def test_a_machine_is_lost(tmp_path, undisturbed):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="error")
        with pytest.raises(InputError, match="asks for 2 GPUs and no machine of the cluster has more than 1"):
            sweep("study", tmp_path / "none", ray="auto", gpus_per_cell=2, progress=False, **TINY)
        half = sweep("study", tmp_path / "half", ray="auto", gpus_per_cell=.5, progress=False, **TINY)
        assert in_short(half) == ["1 of 1 cells are done."]
        thread = when_training(tmp_path / "grid", lambda: cluster.remove_node(lost))
        table = sweep("study", tmp_path / "grid", ray="auto", progress=False, **TINY, **GRID)
        thread.join(60)
        assert sum(node["Alive"] for node in ray.nodes()) == 1
        assert in_short(table) == ["6 of 6 cells are done."]
        assert contents(tmp_path / "grid") == undisturbed
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_no_cluster(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="no Ray cluster answers at auto"):
        sweep("study", tmp_path / "none", ray="auto", progress=False, **TINY)


def test_another_memloc_there(tmp_path, monkeypatch):
    "A machine with another memloc is named"
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        monkeypatch.setattr(memloc, "__version__", "9.9")
        with pytest.raises(InputError, match="and here it is 9.9"):
            sweep("study", tmp_path / "none", ray="auto", progress=False, **TINY)
    finally: ray.shutdown()


def test_a_cell_dies_three_times():
    "A cell whose process always dies is given up"
    (_, wrong), = on_this_machine([Deadly()], workers=1, threads=1)
    assert wrong.startswith("its process died three times")


@dataclass(frozen=True)
class Deadly:
    "Settings that kill whoever reads them"
    @property
    def out(self): os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*subsets or in none")
def test_scores_on_a_cluster_and_here(tmp_path):
    "Networks that a cluster trains are those of this machine, also where a worker of it was killed"
    ray = pytest.importorskip("ray")
    train = sample(load("digits")[0], 150)
    recipe = Recipe(epochs=6, batch=50, peak=1)
    scores = partial(memorization, train, partial(resnet9, 1, width=.125), recipe, subsets=4, progress=False)
    def kill():
        worker, = (p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline()))
        os.kill(worker.pid, signal.SIGKILL)
    when_there(tmp_path, "trial-0001", kill)
    here = scores(tmp_path / "here")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try: there = scores(tmp_path / "there", ray="auto")
    finally: ray.shutdown()
    assert here.equals(there)
    files = sorted((tmp_path / "here").rglob("*.safetensors"))
    assert len(files) == 4
    for file in files: assert file.read_bytes() == (tmp_path / "there" / file.parent.name / file.name).read_bytes()
