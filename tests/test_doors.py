"Wrong and odd input at the command's door: one sentence, status 2 and nothing written; or the right answer."
import contextlib
import io
import json
import os
import re
import struct
import sys
import warnings
import zlib
from html import unescape
from pathlib import Path
from unittest import mock
from urllib.request import url2pathname

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.models as tv
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

import odd_folder

from memloc.command import main
from memloc.data import load

REAL = os.path.abspath(os.environ.get("MEMLOC_DATA") or "nowhere")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    "No data sets at hand, and what is decoded is kept below this folder"
    monkeypatch.setenv("MEMLOC_DATA", str(tmp_path / "kept"))


def memloc(*words):
    "(exit status, stdout, stderr) of a command, in this process"
    out, err = io.StringIO(), io.StringIO()
    quiet = mock.patch("warnings.showwarning")                        # the command has its own
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quiet, warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as e: status = e.code
    return status, out.getvalue(), err.getvalue()


def done(*words, preset="smoke"):
    "What a command prints that must do its work"
    status, out, err = memloc(*words, "--preset", preset, "--no-progress")
    assert status == 0, err
    return out


def picture(k, i, size=(20, 24), mode="RGB"):
    "The i-th picture of class k: a bright square, elsewhere for each class"
    pixels = np.random.default_rng(100 * k + i).integers(0, 60, (*size, 3), dtype=np.uint8)
    pixels[2 + 6 * k:8 + 6 * k, 4:12] += 150
    return Image.fromarray(pixels).convert(mode)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HUGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0))


def fill(folder, classes=("cat", "dog"), n=6, suffix="png", size=None):
    "A folder of class folders; pictures of many sizes unless one is given"
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n): picture(k, i, size or (20 + i, 24 + k)).save(folder / name / f"{i}.{suffix}")
    return folder


def arrays(file, n=24, classes=2, **changes):
    "An .npz of small pictures"
    x = np.stack([np.asarray(picture(i % classes, i, (20, 20), "L")) for i in range(n)])
    given = {"x_train": x, "y_train": np.arange(n) % classes, **changes}
    np.savez(file, **{key: value for key, value in given.items() if value is not None})
    return file


def rows(file, lines, head="path,label", encoding="utf-8"):
    file.write_text("\n".join([head, *lines]), encoding=encoding)


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    "A folder of good and of bad input"
    at = tmp_path_factory.mktemp("doors")
    fill(at / "photos")
    fill(at / "cut")
    whole = (at / "cut/cat/0.png").read_bytes()
    (at / "cut/cat/0.png").write_bytes(whole[:100])
    fill(at / "several-cut")
    (at / "several-cut/cat/0.png").write_bytes(b"")
    (at / "several-cut/dog/1.png").write_text("no picture")
    (at / "several-cut/dog/2.png").write_bytes(HUGE)
    fill(at / "huge")
    (at / "huge/dog/huge.png").write_bytes(HUGE)
    fill(at / "gone")
    (at / "gone/cat/link.png").symlink_to(at / "nothing.png")
    fill(at / "one-class", ("cat",))
    fill(at / "one-each", n=1)
    fill(at / "nested/photos")
    fill(at / "twice/train/train")
    (at / "only-train/train").mkdir(parents=True)
    (at / "bare").mkdir()
    (at / "hollow/cat").mkdir(parents=True)
    (at / "hollow/dog").mkdir()
    fill(at / "loop")
    (at / "loop/cat/again").symlink_to(at / "loop/cat", target_is_directory=True)
    names = [f"../photos/{name}/{i}.png" for name in ("cat", "dog") for i in range(6)]
    (at / "tables").mkdir()
    rows(at / "tables/gone.csv", [f"{name},cat" for name in names] + ["../photos/nothing.png,dog"])
    rows(at / "tables/a-folder.csv", [f"{name},{name[10]}" for name in names] + ["../photos,d"])
    rows(at / "tables/three.csv", [f"{name},cat,dog" for name in names], "path,one,two")
    rows(at / "tables/negative.csv", [f"{name},{-i}" for i, name in enumerate(names)])
    rows(at / "tables/part.csv", [f"{name},{name[10]},later" for name in names], "path,label,split")
    rows(at / "tables/latin.csv", [f"{name},hélas" for name in names], encoding="latin-1")
    rows(at / "tables/one.csv", [f"{names[0]},cat"])
    (at / "tables/empty.csv").write_text("")
    (at / "text.npz").write_text("no arrays")
    (at / "cut.npz").write_bytes(arrays(at / "good.npz").read_bytes()[:500])
    arrays(at / "objects.npz", y_train=np.array([{}] * 24, dtype=object))
    arrays(at / "five.npz", x_train=np.zeros((24, 20, 20, 5), np.uint8))
    arrays(at / "nan.npz", x_train=np.full((24, 20, 20), np.nan, np.float32))
    arrays(at / "standardized.npz", x_train=np.random.default_rng(0).normal(size=(24, 20, 20)))
    arrays(at / "two-hot.npz", y_train=np.ones((24, 2), int))
    arrays(at / "small.npz", x_train=np.zeros((24, 8, 8), np.uint8))
    arrays(at / "alone.npz", n=10, classes=10)
    arrays(at / "truth.npz", y_train_true=np.arange(24) - 1)
    (at / "a.jpg").write_bytes((at / "photos/cat/0.png").read_bytes())
    (at / "others").mkdir()
    (at / "others/mine.txt").write_text("not memloc's")
    return at


WRONG = {
    # files and folders
    "truncated png": ("audit --data cut", "cut/cat/0.png cannot be read as an image"),
    "several damaged": ("audit --data several-cut", "3 of 12 files cannot be read"),
    "huge header": ("audit --data huge", "huge.png cannot be read as an image"),
    "link to nothing": ("audit --data gone", "link.png cannot be read as an image"),
    "one class": ("audit --data one-class", "images of one class only, cat: give two classes or more"),
    "one picture a class": ("audit --data one-each", "2 examples of 2 classes are too few to learn"),
    "a folder too high": ("audit --data nested", "if those are the classes, for one class alone"),
    "nested splits": ("audit --data twice", "images of one class only, train"),
    "empty train": ("audit --data only-train", "no folder train with a folder for each class"),
    "empty folder": ("audit --data bare", "is not a folder of class folders with images in them (it has nothing)"),
    "empty classes": ("audit --data hollow", "cat without images (1), dog without images (1)"),
    "no such data": ("audit --data phots", "there is no data set phots: choose one of"),
    "a picture alone": ("audit --data a.jpg", "a.jpg is no data set: give an .npz, a folder of class folders"),
    # tables
    "paths that are wrong": ("audit --data tables/gone.csv", "nothing.png cannot be read as an image (No such file"),
    "a folder as path": ("audit --data tables/a-folder.csv", "cannot be read as an image (it is no file)"),
    "no labels": ("audit --data tables/three.csv", "and none of them is called label"),
    "negative labels": ("audit --data tables/negative.csv", "labels from -11 to 0"),
    "unknown split": ("audit --data tables/part.csv", "called later: choose one of train"),
    "not UTF-8": ("audit --data tables/latin.csv", "write it again as CSV in UTF-8"),
    "one row": ("audit --data tables/one.csv", "images of one class only, cat"),
    "nothing in it": ("audit --data tables/empty.csv", "empty.csv cannot be read as a table"),
    # arrays
    "text as npz": ("audit --data text.npz", "cannot be read as an .npz without pickled objects"),
    "half an npz": ("audit --data cut.npz", "cannot be read as an .npz without pickled objects"),
    "objects": ("audit --data objects.npz", "cannot be read as an .npz without pickled objects"),
    "five channels": ("audit --data five.npz", "x_train has shape (24, 20, 20, 5)"),
    "no numbers": ("audit --data nan.npz", "holds float32 from nan to nan"),
    "standardized": ("audit --data standardized.npz", "images are uint8, or floats in [0, 1]"),
    "two labels each": ("audit --data two-hot.npz", "is not one-hot, and an image has one label"),
    "truth out of range": ("audit --data truth.npz", "must be from 0 to"),
    "pictures too small": ("audit --data small.npz", "takes images of 1 channels and at least 16 x 16 pixels"),
    "truth unknown": ("study --data good.npz --noise 0", "nobody knows the true labels of good"),
    "nothing held out": ("dissect --data good.npz --held-out 0", "good has none and spares none"),
    "no test to compare on": ("dissect --data alone.npz", "alone has none and spares none"),
    "truth to compare by": ("compare-methods --data good.npz --noise 0", "nobody knows the true labels of good"),
    # networks
    "timm's name misspelt": ("study --network timm/resnet81", "there is no network timm/resnet81: choose one of timm/"),
    "torchvision's name": ("audit --network torchvision/resnet81", "choose one of torchvision/resnet"),
    "no such library": ("study --network tim/resnet18", "or timm/<name> or torchvision/<name>"),
    "library alone": ("study --network timm", "there is no network timm: choose one of resnet9"),
    "no name": ("study --network timm/", "there is no network timm/"),
    "a path as name": ("audit --network torchvision/../resnet18", "there is no network torchvision/../resnet18"),
    "width of timm": ("study --network timm/resnet10t --width .5", "a width of 0.5 was asked for"),
    "mean of two": ("audit --network torchvision/squeezenet1_1 --size 32 --mean .5 .4", "mean has 2 numbers"),
    "mean of none": ("audit --network torchvision/squeezenet1_1 --size 32 --mean", "mean has 0 numbers"),
    "mean of a word": ("audit --network timm/resnet10t --mean grey", "could not convert string to float"),
    "std of 0": ("audit --network timm/resnet10t --std 0", "std is 0.0: give numbers"),
    "mean of ours": ("study --mean .5", "resnet9 has no pretrained weights and its own normalisation"),
    "pretrained ours": ("dropout --network vit --pretrained", "vit has no pretrained weights"),
    "too small for it": ("audit --network torchvision/alexnet", "alexnet does not take images of 1 x 16 x 16"),
    "another in dissect": ("dissect --others timm/resnet81", "there is no network timm/resnet81"),
    "no such block": ("dropout --network timm/resnet10t --size 32 --blocks dream", "there is no block dream"),
    # numbers and names
    "size 0": ("audit --size 0", "a size of 0 was asked for"),
    "size huge": ("audit --data photos --size 1000000", "a size of 1000000 was asked for"),
    "size of a word": ("audit --size small", "error parsing --size"),
    "all held out": ("audit --data photos --held-out 1", "held_out is 1.0: give a share"),
    "seeds twice": ("audit --seeds 0-2 1", "the seed 1 is given twice"),
    "seeds backwards": ("study --seeds 3-1", "end before they begin"),
    "no epochs": ("audit --epochs 0", "epochs is 0: give a whole number"),
    "more than there are": ("audit --data photos --examples 100", "ask for 1 to 10"),
    "noise 1": ("audit --noise 1", "up to, but not including, 1"),
    "p_gen 0": ("audit --p-gen 0", "p_gen is 0.0: give a share"),
    "no such part": ("audit --parts dreams", "there is no part dreams: choose one of retraining, suspects, training"),
    "somebody's folder": ("audit --out others", "is there already and is not a folder of memloc audit"),
    "below a file": ("audit --out a.jpg/mine", "cannot be made"),
    "no such preset": ("audit --preset tiny", "invalid choice 'tiny'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name, at, monkeypatch):
    monkeypatch.chdir(at)
    words, sentence = WRONG[name][0].split(), WRONG[name][1]
    before = sorted(at.rglob("*"))
    if "--preset" not in words: words += ["--preset", "smoke"]
    if "--out" not in words: words += ["--out", at / "never"]
    status, out, err = memloc(*words, "--no-progress")
    said = err.splitlines()
    assert status == 2 and out == "" and sentence in said[-1], err
    assert all(line.startswith("memloc: ") for line in said)
    assert sorted(at.rglob("*")) == before


def test_enough_is_wrong(): assert len(WRONG) >= 60


def test_without_timm(at, monkeypatch):
    monkeypatch.chdir(at)
    monkeypatch.setitem(sys.modules, "timm", None)
    status, _, err = memloc("audit", "--network", "timm/resnet18", "--out", "never")
    assert status == 2 and "timm is not installed: pip install memloc[timm]" in err


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_weights_out_of_reach(name, at, monkeypatch):
    monkeypatch.chdir(at)
    def offline(*args, **kwargs): raise OSError("no route to host")

    for place in ("timm.models._builder.load_state_dict_from_hf", "timm.models._builder.load_state_dict_from_url",
                  "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setattr(place, offline)
    status, _, err = memloc("audit", "--network", name, "--size", 32, "--pretrained", "--out", "never")
    library, _, network_name = name.partition("/")
    assert status == 2 and f"{library} cannot get the pretrained weights of {network_name} (no route to host)" in err
    assert not (at / "never").exists()


# Odd, and good: what is loaded

ODD = {
    "link in a circle": ("loop", (12, 3)),
    "names in quotes": ("quoted.csv", (12, 3)),
    "the same twice": ("double.csv", (24, 3)),
    "numbers with gaps": ("gaps.csv", (12, 3)),
    "words as bytes": ("bytes.npz", (24, 1)),
    "columns of one": ("column.npz", (24, 1)),
    "fractions": ("fractions.npz", (24, 1)),
    "four channels": ("four.npz", (24, 4)),
    "a class folder in capitals": ("CAPITALS", (12, 3)),
    "kinds of file": ("kinds", (8, 3)),
}


@pytest.fixture(scope="module")
def odd(at):
    names = [(f"photos/{name}/{i}.png", name) for name in ("cat", "dog") for i in range(6)]
    rows(at / "quoted.csv", [f'"{path}"," {label}, or so"' for path, label in names], "\ufeffpath,label")
    rows(at / "double.csv", [f"{path},{label}" for path, label in names * 2])
    rows(at / "gaps.csv", [f"{path},{7 * (label == 'dog')}" for path, label in names])
    arrays(at / "bytes.npz", y_train=np.array([b"cat", b"dog"] * 12))
    arrays(at / "column.npz", y_train=np.arange(24)[:, None] % 2)
    arrays(at / "fractions.npz", x_train=np.random.default_rng(0).random((24, 20, 20), dtype=np.float32))
    arrays(at / "four.npz", x_train=np.zeros((24, 4, 20, 20), np.uint8))
    fill(at / "CAPITALS", ("CAT", "cat"), suffix="PNG")
    (at / "kinds/cat").mkdir(parents=True)
    (at / "kinds/dog").mkdir()
    for k, (name, suffix) in enumerate((("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"))):
        for c, label in enumerate(("cat", "dog")): picture(c, k, mode=name).save(at / f"kinds/{label}/{name}.{suffix}")
    return at


@pytest.mark.parametrize("name", ODD)
def test_odd(name, odd):
    data, (n, channels) = ODD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, test = load(odd / data, size=20, held_out=0)
    assert (len(train), test, train.x.shape[1]) == (n, None, channels)
    for origin in train.origin:
        if isinstance(origin, str): Image.open(origin).load()


# Odd, and good: whole commands

NAMES = ["plain", "with space", "#1 100%", "it's \"so\"", "Ähre 猫", "two\nlines", "a,b;c", "<b>&amp;"]


def test_names_that_nobody_would_choose(tmp_path, monkeypatch):
    "The suspects' files open from the table and from the report; all are ranked, with none held out"
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(NAMES[:2]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, file in enumerate(NAMES): picture(k, i).save(tmp_path / "photos" / name / f"{file}.png")
    done("audit", "--data", "photos", "--out", "mine", "--held-out", 0, "--epochs", 2)
    listed = pd.read_csv("mine/suspects.csv")
    assert len(listed) == 16
    for origin, given in zip(listed.origin, listed.given, strict=True):
        assert Path(origin).parent.name == given
        Image.open(origin).load()
    page = (tmp_path / "mine/report.html").read_text()
    links = [unescape(link) for link in re.findall('<a href="(.*?)">', page)]
    found = [url2pathname(link.removeprefix("file://")) for link in links]
    assert found == [str(tmp_path / origin) for origin in listed.origin]
    assert "There is no test set." in page and "<b>&amp;.png" not in page


def test_positions_in_the_source(at, tmp_path):
    "`--examples` draws some; the origin is still the position in the file"
    file = arrays(tmp_path / "mine.npz", n=80, classes=4)
    done("audit", "--data", file, "--examples", 30, "--epochs", 1, "--out", tmp_path / "mine")
    listed = pd.read_csv(tmp_path / "mine/suspects.csv")
    assert len(listed) == 30 and listed.origin.max() > 30 and listed["index"].max() == 29
    assert (listed.given == listed.origin % 4).all()


def test_networks_of_libraries(tmp_path):
    "A study with one of timm's and an audit with one of torchvision's; resumed, and left alone by another network"
    short = ["--epochs", 1, "--examples", 40, "--size", 32]
    study = ["study", "--network", "timm/resnet10t", *short, "--retraining.epochs", 1, "--removal.max-removed", 3,
             "--rewinding.take", "all", "--out", tmp_path / "study"]
    said = done(*study)
    results = json.loads((tmp_path / "study/results.json").read_text())
    assert results["network"] == "timm/resnet10t" and results["width"] == 1
    parts = ["training", "gradients", "rewinding", "retraining", "removal", "tied", "two_stages"]
    assert list(results["parts"]) == parts
    assert done(*study) == said
    status, _, err = memloc(*study, "--mean", .5, "--preset", "smoke")
    assert status == 2 and "mean None, not [0.5]" in err
    done("audit", "--network", "torchvision/resnet18", *short, "--std", .2, "--out", tmp_path / "audit")
    noted = json.loads((tmp_path / "audit/tied/run.json").read_text())["network"]["model"]
    assert (noted["name"], noted["std"]) == ("resnet18", [.2] * 3)


def test_pretrained(tmp_path, monkeypatch):
    "A study begins with the weights that the library keeps, but for the last layer"
    theirs = tv.squeezenet1_1(num_classes=1000).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs, tmp_path / "checkpoints" / tv.SqueezeNet1_1_Weights.DEFAULT.url.split("/")[-1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = ["--network", "torchvision/squeezenet1_1", "--pretrained", "--size", 32]
    done("study", *network, "--epochs", 1, "--examples", 40, "--parts", "gradients", "--out", tmp_path / "study")
    first = load_file(tmp_path / "study/plain/epoch-0000.safetensors")
    differ = [name for name, tensor in theirs.items() if not torch.equal(tensor, first[f"network.{name}"])]
    assert differ == ["classifier.1.weight", "classifier.1.bias"]
    short = ["--frozen", "--epochs", 2, "--examples", 80, "--noise", .1]
    said = done("audit", *network, *short, "--out", tmp_path / "audit")
    assert "labels are wrong" in said and not (tmp_path / "audit/tied").exists()
    last = load_file(tmp_path / "audit/plain/epoch-0002.safetensors")
    differ = [name for name, tensor in theirs.items() if not torch.equal(tensor, last[f"network.network.{name}"])]
    assert differ == ["classifier.1.weight", "classifier.1.bias"]


def test_what_a_network_cannot_do(tmp_path):
    "A part and a rival that nobody asked for by name are left out with a sentence, and refused where somebody did"
    words = ["dropout", "--network", "torchvision/shufflenet_v2_x0_5", "--size", 32, "--epochs", 1, "--examples", 40,
             "--noise", .1, "--map-p-gen", .2, "--map-p-mem", .1, "--out", tmp_path / "mine"]
    status, _, err = memloc(*words, "--parts", "extraction", "--preset", "smoke")
    assert status == 2 and "the memorization neurons cannot be removed" in err
    said = done(*words)
    assert "The part extraction was left out: the memorization neurons cannot be removed" in said
    assert "The rival narrow was left out" in said
    assert "was left out" in (tmp_path / "mine/report.html").read_text()


@pytest.mark.parametrize("command", ["study", "dropout", "compare-methods"])
def test_no_test_set(command, at, tmp_path):
    "One picture a class, so that none can be held out"
    words = {"study": ["--parts", "gradients"], "dropout": ["--parts", "comparison", "--noise", .1],
             "compare-methods": ["--methods", "tied", "--noise", .1, "--seeds", 0, "--held-out", 0]}[command]
    data = at / ("good.npz" if command == "compare-methods" else "alone.npz")      # which wants two of each
    said = done(command, "--data", data, "--epochs", 2, "--out", tmp_path / "mine", *words)
    assert "test pictures" not in said
    assert (tmp_path / "mine/report.html").is_file()


@pytest.mark.parametrize("real", [False, True])
def test_odd_folder(real, tmp_path, monkeypatch):
    "240 pictures of all sizes and kinds, some in the wrong folder, some damaged: one command, and its suspects open"
    if real and not odd_folder.has_real(REAL): pytest.skip("cifar10-exact.npz and MNIST are not in $MEMLOC_DATA")
    monkeypatch.chdir(tmp_path)
    whole, wrong, damaged = odd_folder.make_odd_folder(Path("photos"), real=REAL if real else None)
    words = ["audit", "--data", "photos", "--size", 32, "--held-out", 0, "--out", "mine"]
    status, _, err = memloc(*words, "--preset", "smoke", "--no-progress")
    assert status == 2 and f"{len(damaged)} of {len(whole) + len(damaged)} files cannot be read" in err
    assert not Path("mine").exists()
    assert "The report is mine/report.html" in done(*words, "--skip-damaged")
    listed = pd.read_csv("mine/suspects.csv")
    assert sorted(listed.origin) == sorted(map(str, whole)) and len(whole) > 200
    for origin in listed.origin: Image.open(origin).load()
    lies = listed.origin.isin(map(str, wrong)).to_numpy()
    places = np.flatnonzero(lies) / len(listed)
    print(f"{'real' if real else 'made'} pictures: wrong labels stand at {places.mean():.2f} of the list on average")
    assert places.mean() < .4                                            # a small network, little trained
    page = Path("mine/report.html").read_text()
    links = re.findall('<a href="(.*?)">', page)
    assert len(links) == 96
    for link in links: Image.open(url2pathname(unescape(link).removeprefix("file://"))).load()
