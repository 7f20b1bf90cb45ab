"""One network that two processes train, each with half of every batch, is the network that one process trains: the loop
that chapter 14 shows, as it stands there, and one whose network is sharded over the two."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from memloc.basics import InputError
from memloc.data import add_label_noise, load, sample
from memloc.gradients import GradientAccounting
from memloc.networks import vit
from memloc.tied_dropout import tie
from memloc.training import predict

root = Path(__file__).resolve().parent.parent


def shown():
    "`train_together`, as the chapter shows it"
    cells = json.loads((root / "nbs/14_tied_dropout.ipynb").read_text())["cells"]
    source, = ("".join(cell["source"]) for cell in cells if "def train_together" in "".join(cell["source"]))
    names = {"torch": torch, "F": F, "tie": tie}
    exec(source, names)
    return names["train_together"]


def examples(): return add_label_noise(sample(load("digits")[0], 200), .2)


def train_sharded(rank, world, train, store):
    "The state, gathered, of a network that is sharded over the processes; gradient accounting refuses it"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    tied = tie(vit(channels=1, width=.0625), train)
    mesh = init_device_mesh("cpu", (world,))
    for block in tied.network.blocks: fully_shard(block, mesh=mesh)
    fully_shard(tied, mesh=mesh)
    with pytest.raises(InputError, match="parameters of .*Tied are sharded"): GradientAccounting().start(tied, train)
    optimizer = torch.optim.SGD(tied.parameters(), lr=.05)
    for epoch in (1, 2):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(50):
            index = batch[rank::world]
            loss = F.cross_entropy(tied(train.x[index] / 255, index), train.y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    state = get_model_state_dict(tied, options=StateDictOptions(full_state_dict=True))
    dist.destroy_process_group()
    return state


def work(rank, world, folder):
    "What a process does: both loops, one after the other"
    torch.set_num_threads(1)
    tied, table = shown()(rank, world, examples(), folder / "store")
    torch.save(tied.state_dict(), folder / f"tied-{rank}.pt")
    table.to_csv(folder / f"table-{rank}.csv", index=False)
    state = train_sharded(rank, world, examples(), folder / "another")
    if rank == 0: torch.save(state, folder / "sharded.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "(state, table) of one process"
    tied, table = shown()(0, 1, examples(), tmp_path_factory.mktemp("alone") / "store")
    return tied.state_dict(), table


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    "The folder of what two processes have left"
    folder = tmp_path_factory.mktemp("together")
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), "2", str(folder)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return folder


def same(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items(): torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-6)


def test_two_processes_train_the_network_of_one(alone, together):
    expected, _ = alone
    fresh = tie(vit(channels=1, width=.0625), 200).state_dict()
    moved = max(float((expected[name] - fresh[name]).abs().max()) for name in fresh)
    assert moved > .01                                             # by far more than the two may differ
    for rank in range(2): same(torch.load(together / f"tied-{rank}.pt"), expected)


def test_two_processes_keep_the_accounts_of_one(alone, together):
    _, expected = alone
    assert (expected.noisy_norm > 0).all() and (expected.clean_norm > 0).all()
    for rank in range(2):
        table = pd.read_csv(together / f"table-{rank}.csv")
        assert table[["epoch", "layer"]].equals(expected[["epoch", "layer"]])
        for column in ("clean_norm", "noisy_norm", "cosine"):
            np.testing.assert_allclose(table[column], expected[column], rtol=1e-3, atol=1e-4)


def test_a_sharded_network_is_that_of_one_process(alone, together):
    state = torch.load(together / "sharded.pt")
    expected, _ = alone
    same(state, expected)
    whole = tie(vit(channels=1, width=.0625), 200)
    whole.load_state_dict(state)
    assert predict(whole, examples()).isfinite().all()             # and can be probed


if __name__ == "__main__": work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
