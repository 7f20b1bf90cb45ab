"""The three journeys of README.md, as typed there: photos, a network with checkpoints, a dataset with a loop."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import memloc

README = (Path(__file__).parent.parent / "README.md").read_text()
CLASSES = ("cat", "dog", "lynx")


def typed(heading, language):
    "What stands under a heading of README.md to be typed"
    section = README.partition(f"## {heading}")[2].partition("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def picture(k, rng):
    "A blob, elsewhere for each class, in a picture of any size"
    w, h = rng.integers(40, 90, 2)
    pixels = rng.integers(0, 80, (h, w, 3), dtype=np.uint8)
    x, y = [(w // 4, h // 2), (3 * w // 4, h // 2), (w // 2, 4 * h // 5)][k]
    pixels[max(0, y - h // 8):y + h // 8, max(0, x - w // 8):x + w // 8] = (230, 200, 60)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    "A new folder of photos, two of them in the wrong place, and the present folder around it"
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(20): picture(k, rng).save(folder / f"{i:02}.jpg")
    for i in range(2): picture(1, rng).save(tmp_path / f"photos/cat/wrong {i}.jpg")
    return tmp_path


def small():
    "A network as anybody may have it"
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 3))


def trained(model, x, y, folder):
    "A training of somebody's own, which leaves checkpoints in a folder"
    optimizer = torch.optim.Adam(model.parameters(), .01)
    folder.mkdir()
    for epoch in range(4):
        torch.save(model.state_dict(), folder / f"epoch_{epoch}.pt")
        for _ in range(15):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(model.state_dict(), folder / "epoch_4.pt")


def test_photos(photos):
    words = typed("Your photos", "sh").split()
    assert words[0] == ".venv/bin/memloc"
    command = [Path(sys.executable).parent / "memloc", *words[1:]]
    environment = os.environ | {"MEMLOC_PRESET": "smoke", "XDG_CACHE_HOME": str(photos / "cache"), "MEMLOC_DATA": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = pd.read_csv("runs/mine/suspects.csv")
    assert {Path(origin).suffix for origin in listed.origin} == {".jpg"}
    for origin in listed.origin: Image.open(origin).load()
    assert "photos/" in Path("runs/mine/report.html").read_text()


def test_checkpoints(photos):
    train, _ = memloc.load("photos", size=32, progress=False)
    model = small()
    trained(model, train.x / 255, train.y, photos / "checkpoints")
    names = {"model": model}
    exec(typed("Your network", "python"), names)
    run = names["run"]
    assert run.epochs == [0, 1, 2, 3, 4]
    rewound = memloc.rewind(run, names["train"], progress=False)
    assert set(rewound.layer) == set(memloc.layers(model)) and rewound["all"].between(0, 1).all()
    first = rewound[rewound.epoch == 0].set_index("layer")["all"]
    assert first.min() < rewound[rewound.epoch == 4]["all"].max()          # something was learned, and is put back


class Blobs(Dataset):
    "Pictures that are made when they are asked for"
    classes = CLASSES
    def __init__(self, n): self.labels = [i % 3 for i in range(n)]
    def __len__(self): return len(self.labels)
    def __getitem__(self, i):
        shown = (self.labels[i] + (i < 3)) % 3                             # the first three are something else
        image = picture(shown, np.random.default_rng(i)).resize((24, 24))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255, self.labels[i]


def test_dataset():
    torch.manual_seed(0)
    names = {"model": small(), "dataset": Blobs(150)}
    exec(typed("Your dataset", "python"), names)
    listed = names["suspects"](names["tied"], names["train"])
    assert len(listed) == 150
    assert {0, 1, 2} <= {*listed["index"][:10]}                            # those that are labelled wrong
