"""How much memory pictures take that are not in memory: tying, training, recalibration, suspects and rewinding of many
must take hardly more than of few. `python tests/test_memory.py 200000 64` measures so many of 3 x 64 x 64, which takes
a quarter of an hour. Memory is what a process and those that it started hold together, pages that they share counted
for each."""
import sys
import tempfile
import time

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.data import Dataset

from memloc.auditing import suspects
from memloc.benchmark import growth, growth_rates
from memloc.data import Examples, add_label_noise
from memloc.rewinding import rewind
from memloc.runs import fit
from memloc.tied_dropout import in_mode, recalibrate, tie
from memloc.training import Recipe


class Bars(Dataset):
    "A bright bar on noise, at one of ten places, made whenever it is asked for"
    def __init__(self, n, size):
        self.n = n
        self.size = size
        self.noise = np.random.default_rng(0).integers(0, 160, 4096 + 3 * size**2, dtype=np.uint8)

    def __len__(self): return self.n

    def __getitem__(self, i):
        noise = self.noise[i % 4096:][:3 * self.size**2]
        image = noise.reshape(3, self.size, self.size).copy()
        label = i % 10
        left = label * self.size // 10
        image[:, :, left:left + max(1, self.size // 10)] += 90
        return image, label


def narrow():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
                         nn.AdaptiveAvgPool2d((1, 8)), nn.Flatten(), nn.Linear(256, 10))


def work(n, size, folder):
    "All that is to be measured"
    torch.set_num_threads(1)
    train = add_label_noise(Examples.of(Bars(n, size), workers=2, progress=False), .1)
    tied = tie(narrow(), train)
    run = fit(tied, train, None, Recipe(epochs=1, batch=500, peak=0), folder, progress=False)
    recalibrate(in_mode(tied, "dropped"), train)
    assert len(suspects(tied, train)) == n
    assert len(rewind(run, train, epochs=[0, 1], progress=False)) == 2 * 3


def held(process):
    "Bytes that a process and those that it started hold"
    total = 0
    for each in (process, *process.children(recursive=True)):
        try: total += each.memory_info().rss
        except psutil.NoSuchProcess: pass                          # it has ended meanwhile
    return total


def peak(n, size):
    "The most that is held while so many pictures of this size are worked on, in MB"
    most = 0
    with tempfile.TemporaryDirectory() as folder:
        working = psutil.Popen([sys.executable, __file__, str(n), str(size), folder])
        while working.poll() is None:
            try: most = max(most, held(working))
            except psutil.NoSuchProcess: pass
            time.sleep(.01)
    assert working.returncode == 0
    return most / 1e6


def test_many_take_no_more_than_few():
    few = peak(2_000, 16)
    many = peak(40_000, 16)
    print(f"2,000 pictures: {few:.0f} MB; 40,000: {many:.0f} MB")
    assert few > 100                                               # the interpreter alone, with torch, holds more
    assert many - few < 150


def test_lazily_read_pictures_take_no_memory():
    "Bytes for an example more are those of labels and answers; in memory, those of a picture of 256 bytes as well"
    rates = growth_rates(growth((10_000, 100_000), ("predict",), progress=False)).set_index("pictures").bytes
    print(rates.to_dict())
    assert rates["lazily read"] < 180
    assert rates["in memory"] - rates["lazily read"] > 180


if __name__ == "__main__":
    n, size, *folder = sys.argv[1:]
    if folder: work(int(n), int(size), *folder)
    else: print(f"{n} pictures of 3 x {size} x {size}: {peak(n, size):.0f} MB")
