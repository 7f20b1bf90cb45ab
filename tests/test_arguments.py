"""Wrong inputs, a few for each argument of what is public: all are refused before the work, in one sentence that says
which argument it was. MEMLOC_VERBOSE=1 lists those that are answered badly."""
import os
import signal
import sys
import warnings
from math import inf, nan

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

import memloc
from memloc import Examples, InputError, Recipe
from memloc.command import main
from memloc.files import read_table, write_table

COUNT = (0, -1, 1.5, nan)            # no whole number from 1 on
WHOLE = (-1, 1.5, nan, inf)
SHARE = (-.1, 1.1, nan, inf)
BELOW1 = (-.1, 1, nan, inf)
POSITIVE = (0, -1, nan, inf)
LEAST0 = (-1, nan, inf, -inf)
SEED = (2**32, -2**32, 1.5, nan)
NAME = ("fp8", "", "\n", "Auto")
SOME = (1.5, nan, "nothing")

# {function: {argument: wrong values}}
FUNCTIONS = {
    "load": {"name": ("nothing", "", "a\nb", "\udc80"), "size": (0, -1, 1.5, 5000), "how": NAME, "held_out": BELOW1,
             "seed": SEED},
    "sample": {"n": (0, -1, 13, 1.5), "seed": SEED},
    "hold_out": {"share": BELOW1, "seed": SEED},
    "add_label_noise": {"fraction": BELOW1, "seed": SEED, "confuse": ([0, 1, 2], [1, 2], [1, 2, 9], [nan, 1, 1])},
    "randomize_labels": {"fraction": SHARE, "seed": SEED},
    "subset": {"keep": ([99], [-13], torch.ones(3, dtype=torch.bool), [1.5])},
    "plot_examples": {"index": ([], [99], [-13], [nan]), "columns": COUNT},
    "Examples": {"y": (torch.arange(3), torch.full((12,), 9), torch.full((12,), -1), torch.ones(12)),
                 "y_true": (torch.arange(3), torch.full((12,), 9)), "classes": ([], ["a"]),
                 "x": (torch.zeros(3, 1, 8, 8, dtype=torch.uint8),),
                 "origin": ([1, "a"],)},
    "network": {"name": NAME, "width": POSITIVE, "seed": SEED},
    "resnet9": {"channels": COUNT, "classes": COUNT, "width": POSITIVE, "seed": SEED},
    "vgg11": {"width": POSITIVE, "classes": COUNT},
    "vit": {"width": POSITIVE, "classes": COUNT},
    "resnet32": {"width": POSITIVE},
    "Recipe": {"epochs": COUNT, "batch": COUNT, "lr": POSITIVE, "peak": (-1, 3, nan, inf), "momentum": BELOW1,
               "weight_decay": LEAST0, "seed": SEED, "precision": NAME, "keep": ([99], [-9], [1.5], [nan]),
               "augment": ("flip", "", 1), "average": BELOW1},
    "preset": {"name": ("huge", "Smoke"), "width": POSITIVE, "epochs": COUNT},
    "choose_precision": {"asked": NAME},
    "predict": {"batch": COUNT, "precision": NAME},
    "accuracy": {"model": (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),)},
    "fit": {"every": COUNT, "rates": ({"nothing": torch.ones(1)},),
            "model": (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), nn.Flatten())},
    "Run": {"path": ("nothing", ".", "a\nb")},
    "Run.state": {"epoch": (9, -9, 1.5, nan)},
    "Run.model": {"epoch": (9, -9, 1.5, nan)},
    "Run.of": {"checkpoints": ({}, "nothing", {-1: {}}, {0: {}})},
    "rewind": {"layers": (["nothing"], [], "nothing"), "epochs": ([9], [], [1.5], [-9]), "take": NAME, "batch": COUNT,
               "precision": NAME},
    "retrain": {"layers": (["nothing"], []), "epochs": COUNT, "lr": POSITIVE, "seed": SEED, "batch": COUNT,
                "precision": NAME},
    "remove_neurons": {"indices": ([99], [-1], [1.5], [nan]), "max_removed": COUNT, "copies": COUNT, "noise": LEAST0,
                       "batch": COUNT, "seed": SEED, "precision": NAME},
    "accuracy_after": {"examples": COUNT, "precision": NAME},
    "accuracy_without": {"off": ([("nothing", 0)], [("0", 99)], [("0", -1)], [("0", 1.5)]), "examples": COUNT,
                         "precision": NAME},
    "classes_without": {"off": ([("nothing", 0)], [("0", 99)]), "precision": NAME},
    "answers_without": {"index": (99, -1, 1.5, nan), "sets": ([[("nothing", 0)]], [[("0", 99)]], []),
                        "precision": NAME},
    "plot_removals": {"max_removed": COUNT},
    "tie": {"examples": COUNT, "p_gen": SHARE, "p_mem": SHARE, "names": (["nothing"], [], "nothing"),
            "seed": (1.5, nan, inf)},
    "in_mode": {"mode": NAME},
    "recalibrate": {"batch": COUNT, "precision": NAME},
    "cost": {"shape": ((1, 8), (0, 8, 8), (-1, 8, 8), (1, 8.5, 8))},
    "standard_dropout": {"p": (-.1, 1, nan, 2), "names": (["nothing"], []), "seed": SEED},
    "rival_networks": {"which": (["nothing"],), "p_gen": SHARE, "p_mem": SHARE, "names": (["nothing"], []),
                       "seed": SEED, "shape": ((1, 8), (0, 8, 8))},
    "accuracy_map": {"p_gens": ([], [1.1], [nan]), "p_mems": ([], [1.1], [nan]), "names": (["nothing"], []),
                     "seed": SEED},
    "compare_networks": {"models": ({},)},
    "plot_forgotten": {"most": COUNT},
    "read_by_dropped": {"looks": COUNT},
    "learn_then_memorize": {"held_rate": SHARE, "held_out": SHARE, "every": COUNT, "tied": (nn.Linear(2, 2),)},
    "input_magnitude": {"batch": COUNT},
    "consistency": {"batch": COUNT},
    "relative_spread": {"tables": ([], [pd.DataFrame({"magnitude": [1.]})]), "column": ("nothing", "")},
    "dcgan_generator": {"size": ((0, 8), (8,), (8.5, 8)), "channels": COUNT, "z": COUNT, "width": POSITIVE,
                        "seed": SEED},
    "dcgan_discriminator": {"size": ((0, 8), (8,)), "channels": COUNT, "width": POSITIVE, "seed": SEED},
    "generate": {"n": COUNT, "seed": SEED},
    "diversity": {"n": (0, -1, 1, nan)},
    "fit_dcgan": {"steps": COUNT, "batch": COUNT, "width": POSITIVE, "lr": POSITIVE, "seed": SEED, "precision": NAME,
                  "legs": COUNT},
    "maximize": {"classes": ([], [9], [-1], [nan]), "starts": COUNT, "steps": WHOLE, "lr": POSITIVE, "seed": SEED,
                 "precision": NAME, "keep": ([99], [-1], [1.5], [nan]), "z": COUNT},
    "plot_patterns": {"starts": COUNT, "classes": COUNT},
    "dissimilarity": {"patterns": (torch.full((2, 1, 8, 8), nan), torch.full((2, 1, 8, 8), inf),
                                   torch.empty(0, 1, 8, 8), torch.rand(8, 8)), "batch": COUNT},
    "agreement": {"pictures": (torch.full((2, 1, 8, 8), nan), torch.full((2, 1, 8, 8), -inf),
                               torch.empty(0, 1, 8, 8), torch.rand(8, 8)), "batch": COUNT},
    "Neighbours": {"k": (0, -1, 99, nan)},
    "suspects": {"precision": NAME, "net": (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),)},
    "detection": {"ranking": ([0, 1], list(range(13)), [0] * 12, [99] * 12)},
    "out_of_fold": {"folds": (0, 1, 1.5, 99)},
    "contest": {"noises": ([], [1.], [nan], [.1, .1]), "kind": NAME, "seeds": ([], [2**32], [0, 0], [1.5]),
                "methods": ([], ["nothing"])},
    "rankings": {"methods": (["nothing"],)},
    "found_in": {"out": ("nothing", "a\nb")},
    "findings": {"preset": ("huge", "Smoke"), "workers": COUNT, "threads": COUNT, "gpus_per_cell": LEAST0,
                 "out": ("a file",)},
    "memorization": {"network": ("nothing", 3), "subsets": (0, 1, 1.5, nan), "fraction": (*SHARE, 0., 1.),
                     "workers": COUNT, "threads": COUNT, "gpus_per_cell": LEAST0, "out": ("a file", "a folder")},
    "influence": {"out": ("nothing", "a\nb", "a folder"), "least": (*SHARE, 0.)},
    "rank_correlation": {"b": ([], [1.]), "draws": COUNT, "seed": SEED},
}
NUMBERS = ("0", "-1", "1.5", "nan")
SHARES = ("-0.1", "1.1", "nan", "inf")
NOISES = ("1", "-0.1", "nan", "inf")
FACTORS = ("0", "-1", "nan", "inf")
TWICE = ("0", "0")
ALL = {
    "--data": ("nothing", "", "a\nb"), "--size": ("0", "-1", "1.5", "5000"), "--resize": ("fold", ""),
    "--examples": ("0", "-1", "1.5", "999999"), "--preset": ("huge", ""), "--width": FACTORS, "--epochs": NUMBERS,
    "--seeds": (TWICE, (), "x", "4294967296"), "--out": ("a file", "a folder", "a file/below"), "--nothing": ("1",),
}
TIED = {"--network": ("nothing", ""), "--p-gen": SHARES, "--p-mem": SHARES}
COMMANDS = {
    "study": ALL | TIED | {
        "--noise": NOISES, "--parts": ("nothing", ()), "--rewinding.take": ("nothing",), "--nothing.take": ("1",),
        "--retraining.epochs": NUMBERS, "--retraining.lr": FACTORS, "--removal.max-removed": NUMBERS},
    "dropout": ALL | TIED | {
        "--noise": (*NOISES, ("0.1", "0.1"), ()), "--blocks": ("nothing", ()), "--map-p-gen": (*SHARES, ()),
        "--map-p-mem": (*SHARES, ("0.1", "0.1")), "--augment": ("flip",), "--rivals": ("nothing", ())},
    "dissect": ALL | {
        "--repeats": ("1", *NUMBERS), "--others": ("nothing", ()), "--random": (*SHARES, ("0.1", "0.1")),
        "--augmented-epochs": NUMBERS},
    "audit": ALL | TIED | {"--noise": NOISES, "--suspects.show": NUMBERS},
    "compare-methods": ALL | {
        "--noise": (*NOISES, ("0.1", "0.1"), ()), "--kind": ("nothing",), "--methods": ("nothing", ()),
        "--network": ("nothing",)},
    "findings": {"--workers": NUMBERS, "--threads": NUMBERS, "--gpus-per-cell": ("-1", "some"), "--preset": ("huge",)},
    "bench": {"--rounds": NUMBERS, "--preset": ("huge",), "--out": ("a file",)},
}
SECONDS = int(os.environ.get("MEMLOC_SECONDS", 20))                           # in which to refuse


def small(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(256, classes))


def valid(folder):
    "{function: (what to call, arguments that are right)}"
    x = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    truth = torch.arange(12) % 3
    clean = Examples(x, truth, truth, ["a", "b", "c"])
    train = memloc.add_label_noise(clean, .2)
    recipe = Recipe(epochs=2, batch=6, peak=1)
    run = memloc.fit(small(), train, clean, recipe, folder / "run", progress=False)
    model = run.model()
    tied = memloc.tie(small(), 12)
    generator = memloc.dcgan_generator((8, 8), 1, z=5, width=.02)
    quiet = {"progress": False}
    removals = memloc.remove_neurons(model, train, [0], max_removed=1, copies=1, **quiet)
    patterns = memloc.maximize(model, generator, [0], starts=1, steps=1, z=5, **quiet)
    frame = pd.DataFrame({"magnitude": [1., 2.]})
    data = {"train": train, "test": clean, "recipe": recipe, "out": "out", **quiet}
    make = {"make": memloc.buildable(lambda seed=0: small())}
    usual = {
        "load": quiet | {"name": "digits"}, "sample": {"examples": clean, "n": 3}, "hold_out": {"examples": clean},
        "add_label_noise": {"examples": clean, "fraction": .2},
        "randomize_labels": {"examples": clean, "fraction": .2}, "subset": {"examples": clean, "keep": [0]},
        "plot_examples": {"examples": clean, "index": [0]},
        "Examples": {"x": x, "y": truth, "y_true": truth, "classes": ["a", "b", "c"]},
        "network": {"name": "resnet9", "train": clean, "width": .02}, "Recipe": {"epochs": 2, "peak": 1},
        "choose_precision": {"device": torch.device("cpu")}, "predict": {"model": model, "examples": train},
        "accuracy": {"examples": train}, "fit": data | {"model": small()},
        "Run.of": {"network": small(), "train": train}, "rewind": quiet | {"run": run, "train": train},
        "retrain": quiet | {"run": run, "train": train, "epochs": 1},
        "remove_neurons": quiet | {"model": model, "train": train, "indices": [0]},
        "accuracy_after": quiet | {"model": model, "train": train, "removals": removals},
        "accuracy_without": {"model": model, "train": train, "off": []},
        "classes_without": {"model": model, "train": train, "off": []},
        "answers_without": {"model": model, "train": train, "index": 0, "sets": [[]]},
        "plot_removals": {"removals": removals}, "tie": {"model": small(), "examples": 12, "x": train.x[:2] / 255},
        "in_mode": {"tied": tied}, "recalibrate": {"model": tied, "examples": train}, "cost": {"model": model},
        "standard_dropout": {"model": small(), "x": train.x[:2] / 255},
        "rival_networks": {"make": small, "shape": (1, 8, 8)},
        "accuracy_map": data | {"make": small}, "compare_networks": data,
        "plot_forgotten": {"frame": memloc.forgotten(tied, train), "train": train},
        "read_by_dropped": {"tied": tied, "shape": (1, 8, 8)},
        "learn_then_memorize": quiet | {"tied": tied, "train": train, "test": None, "learn": recipe,
                                        "memorize": recipe, "out": "stages", "held_out": .3},
        "input_magnitude": {"model": model, "examples": train}, "consistency": {"model": model, "examples": train},
        "relative_spread": {"tables": [frame, frame]}, "generate": {"generator": generator, "n": 1},
        "diversity": {"pictures": torch.rand(3, 1, 8, 8), "examples": train},
        "fit_dcgan": {"train": train, "out": "gan", "steps": 2, "legs": 1, "width": .02, **quiet},
        "maximize": quiet | {"f": model, "generator": generator, "classes": [0], "starts": 1, "steps": 1, "z": 5},
        "plot_patterns": {"patterns": patterns}, "dissimilarity": {"f1": model, "f2": small(), "patterns": x},
        "agreement": {"f1": model, "f2": small(), "pictures": x}, "Neighbours": {"train": train},
        "suspects": {"net": tied, "train": train}, "detection": {"noisy": train.noisy},
        "out_of_fold": make | {"train": train, "recipe": recipe, "out": "out", **quiet},
        "contest": make | data | {"train": clean, "methods": ("loss",)}, "rankings": make | data,
        "memorization": data | {"network": small()}, "influence": {"out": "out"},
        "rank_correlation": {"a": [1., 2.], "b": [2., 1.]},
    }
    methods = {"Run.state": run.state, "Run.model": run.model, "Run.of": memloc.Run.of}
    methods["rankings"] = lambda **arguments: list(memloc.rankings(**arguments))
    return {name: (methods.get(name) or getattr(memloc, name), usual.get(name, {})) for name in FUNCTIONS}


def files(folder): return {f: f.lstat().st_mtime_ns for f in folder.rglob("*")}


class TooLong(BaseException):
    "Nothing was refused, and work has begun."


def too_long(*_): raise TooLong


SYNONYMS = {"model": "network", "tied": "tie(", "ranking": "rank", "off": "neuron", "sets": "neuron",
            "n": "examples", "f1": "network", "name": "there is no", "asked": "precision", "keep": "index",
            "patterns": "pictures", "which": "rival", "x": "images"}

def flat(value):
    "A value, and what is in it, as text"
    yield from (repr(value), str(value), ascii(value)[1:-1])
    if isinstance(value, (list, tuple)):
        for inner in value: yield from flat(inner)
    if isinstance(value, dict): yield from flat(list(value))


def complaint(said, names, value):
    "What is wrong with a sentence; None if nothing is"
    if not said.strip(): return "nothing was said"
    if len(said.strip().splitlines()) > 1: return "several lines"
    if "Traceback" in said: return "a traceback"
    words = [*names, *flat(value), *(SYNONYMS[name] for name in names if name in SYNONYMS)]
    if not any(word and word in said for word in words): return f"it does not say which argument: {said.strip()}"
    return None


def called(f, arguments, name, value):
    "What is wrong with the answer of a function"
    try:
        f(**arguments | {name: value})
    except InputError as e:
        # the singular will do, and words
        return complaint(str(e), [name, name.rstrip("s"), name.replace("_", " ")], value)
    except TooLong:
        return "it goes on"
    except BaseException as e:
        return f"{type(e).__name__}: {e}"
    return "it goes on, and answers"


def typed(command, option, value, capsys):
    "What is wrong with the answer of a command"
    words = [command, *([] if option == "--preset" else ["--preset", "smoke"]), "--no-progress"]
    if command == "bench": words = [command]
    values = value if isinstance(value, tuple) else (value,)
    try:
        main([*words, option, *values])
        status = 0
    except SystemExit as e: status = e.code
    except TooLong: status = "it goes on"
    except BaseException as e: return f"{type(e).__name__}: {e}"
    said = capsys.readouterr()
    if status != 2: return f"status {status}"
    if said.out: return "something on stdout"
    part, _, name = option.strip("-").rpartition(".")
    return complaint(said.err, [part, name, name.rstrip("s"), name.replace("-", " "), name.replace("-", "_")], value)


def counted(found):
    "Print and check how many were answered badly"
    bad = {case: reason for case, reason in found.items() if reason}
    if os.environ.get("MEMLOC_VERBOSE"):
        for case, reason in bad.items(): print(*(str(word)[:60] for word in case), "|", reason[:150])
    print(f"{len(found)} tried, {len(bad)} answered badly")
    assert not bad, bad


@pytest.fixture
def watched(tmp_path, monkeypatch):
    "An empty folder to work in, and a limit of time"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MEMLOC_PRESET", "smoke")
    (here / "a file").touch()
    (here / "a folder").mkdir()
    (here / "a folder" / "of somebody").touch()
    before = signal.signal(signal.SIGALRM, too_long)
    yield here
    signal.signal(signal.SIGALRM, before)


def answered(here, ask, *args):
    "What is wrong with an answer, or with what it left behind"
    before = files(here)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = ask(*args)
    except TooLong:
        wrong = "it goes on"
    finally:
        signal.alarm(0)
        plt.close("all")
    if files(here) != before:
        wrong = f"{wrong}; something was written"
        for f in sorted(set(files(here)) - set(before), reverse=True): f.rmdir() if f.is_dir() else f.unlink()
    return wrong


def test_functions(watched, tmp_path):
    found = {}
    for name, (f, usual) in valid(tmp_path).items():
        for argument, values in FUNCTIONS[name].items():
            for value in values:
                found[name, argument, repr(value)] = answered(watched, called, f, usual, argument, value)
    counted(found)


def test_commands(watched, capsys):
    found = {}
    for command, options in COMMANDS.items():
        for option, values in options.items():
            for value in values:
                found[command, option, value] = answered(watched, typed, command, option, value, capsys)
    counted(found)


@settings(max_examples=200, deadline=None)
@given(some.floats(), some.floats(), some.floats(), some.floats())
def test_any_recipe(lr, momentum, weight_decay, peak):
    "Either it is refused, or the learning rate is finite and never below 0"
    try: recipe = Recipe(5, 10, lr, peak, momentum, weight_decay)
    except InputError as e: assert "\n" not in str(e)
    else:
        rates = [recipe.lr_at(t) for t in np.linspace(0, 5, 11)]
        assert all(0 <= rate <= recipe.lr for rate in rates) and 0 <= momentum < 1 and 0 <= weight_decay < inf


@settings(max_examples=50, deadline=None)
@given(some.text(some.characters(exclude_characters="\0"), max_size=300))
def test_any_name(name):
    "Of a data set: one line, whatever it is"
    with pytest.raises(InputError) as refused: memloc.load(f"no such {name}")
    assert str(refused.value).isprintable()


@settings(max_examples=100, deadline=None)
@given(some.lists(some.text(some.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_cell(tmp_path_factory, names):
    "A table gives back what was put into it"
    path = tmp_path_factory.getbasetemp() / "table.csv"
    write_table(path, pd.DataFrame({"name": names, "n": range(len(names))}))
    assert read_table(path, ["name"]).name.tolist() == names


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", __file__]))
