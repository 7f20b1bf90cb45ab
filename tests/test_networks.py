"""Sixty networks of timm and torchvision: what memloc can do with each. Ten are tried as a rule, all of them with
MEMLOC_NETWORKS=all; a name or several (MEMLOC_NETWORKS=resnet18,tv:swin_t) try these."""
import os
import time
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from memloc.anatomy import as_logits, batch_norms, layers, neurons
from memloc.basics import InputError
from memloc.extraction import drop
from memloc.tied_dropout import tie

# {name: height and width of the pictures}; tv: torchvision's, all others timm's
FEW = {
    "resnet18": 64, "densenet121": 32, "convnext_atto": 64, "mobilenetv3_small_050": 64, "ghostnet_100": 64,
    "vit_tiny_patch16_224": 64, "hrnet_w18_small": 32, "tv:googlenet": 64, "tv:shufflenet_v2_x0_5": 64,
    "tv:squeezenet1_1": 64,
}
MORE = {
    "efficientnet_lite0": 64, "efficientnet_b0": 64, "tf_efficientnet_lite0": 64, "regnetx_002": 64, "regnety_002": 64,
    "deit_tiny_distilled_patch16_224": 64, "swin_tiny_patch4_window7_224": 224, "resnetv2_50": 64, "dm_nfnet_f0": 64,
    "mixer_s32_224": 64, "poolformer_s12": 64, "repvgg_a0": 64, "mobileone_s0": 64, "fastvit_t8": 64,
    "xcit_nano_12_p16_224": 64, "levit_128s": 224, "coat_lite_tiny": 64, "edgenext_xx_small": 64, "inception_v3": 128,
    "skresnet18": 64, "dla34": 64, "vovnet39a": 64, "botnet26t_256": 256, "coatnet_nano_rw_224": 224,
    "maxvit_tiny_rw_224": 224, "mobilevit_xxs": 64, "efficientformer_l1": 224, "tiny_vit_5m_224": 224, "rexnet_100": 64,
    "resmlp_12_224": 64, "gmlp_ti16_224": 64, "cait_xxs24_224": 64, "volo_d1_224": 64, "convmixer_768_32": 64,
    "res2net50_14w_8s": 64, "resnest14d": 64, "seresnet18": 64, "resnet50": 64, "cspresnet50": 64, "vgg11_bn": 64,
    "pvt_v2_b0": 64, "tv:inception_v3": 299, "tv:mnasnet0_5": 64, "tv:alexnet": 64, "tv:vgg11": 32, "tv:swin_t": 64,
    "tv:mobilenet_v2": 64, "tv:vit_b_16": 32, "tv:regnet_y_400mf": 64, "tv:resnet18": 64,
}
RESIZED = "vit_ deit_ mixer_ xcit_ resmlp_ gmlp_ cait_ volo_ coat_".split()      # timm's, made for one size of pictures


def chosen():
    asked = os.environ.get("MEMLOC_NETWORKS", "")
    if asked == "all": return FEW | MORE
    return {name: (FEW | MORE)[name] for name in asked.split(",")} if asked else FEW


def make(name, size):
    torch.manual_seed(0)
    if not name.startswith("tv:"):
        fixed = {"img_size": size} if name.startswith(tuple(RESIZED)) else {}
        return shaken(timm.create_model(name, num_classes=10, **fixed))
    fixed = {"image_size": size} if "vit" in name else {}
    if name in ("tv:googlenet", "tv:inception_v3"): fixed["init_weights"] = False
    return shaken(torchvision.models.get_model(name[3:], num_classes=10, **fixed))


def shaken(net):
    "With random numbers wherever there would be zeros or ones before training"
    for m in net.modules():
        if not isinstance(m, batch_norms): continue
        m.running_mean.normal_(0, .1)
        m.running_var.uniform_(.5, 1.5)
    for p in net.parameters():
        if p.numel() > 1 and p.std() < 1e-3 or p.numel() == 1: nn.init.uniform_(p, .5, 1)
    return net


def attempt(f):
    "What `f` says, or why memloc refuses"
    try: return True, f()
    except InputError as e: return False, str(e)


def owned(tied, x):
    "In mode own, another example's index changes the answer, and no other answer"
    tied.train()
    as_logits(tied(x, torch.tensor([3, 44]))).sum().backward()
    assert all(p.grad.isfinite().all() for p in tied.parameters() if p.grad is not None)
    tied.eval().mode = "own"
    with torch.no_grad(): one, two = (as_logits(tied(x, torch.tensor([i, 44]))) for i in (3, 4))
    scale = one.abs().max()
    assert (one[0] - two[0]).abs().max() > 1e-6 * scale, "another's index changes nothing"
    assert (one[1] - two[1]).abs().max() < 1e-5 * scale, "another's index changes an answer to somebody else"


def ungated(tied, x):
    "No logit is gated: none is silent in mode dropped"
    tied.mode = "dropped"
    with torch.no_grad(): said = as_logits(tied(x))
    assert said.shape == (2, 10) and (said != 0).all(), "a logit is gated"
    return said


def same(small, x, said):
    "What is left without memorization neurons says the same"
    with torch.no_grad(): now = as_logits(small.eval()(x))
    assert (now - said).abs().max() <= 1e-4 * said.abs().max().clamp(min=1), "drop says something else"
    return sum(p.numel() for p in small.parameters())


def tried(name, size):
    "Whether a network is tied and dropped, and a line about it"
    began = time.monotonic()
    net, x = make(name, size), torch.rand(2, 3, size, size)
    probed, found = attempt(lambda: neurons(net, x))
    said = f"{len(found)} of {len(layers(net))} layers with neurons" if probed else found
    tied, net = attempt(lambda: tie(net, 50, x=x))
    dropped = False
    if not tied: said += f" | NOT TIED: {net}"
    else:
        owned(net, x)
        logits = ungated(net, x)
        whole = sum(p.numel() for p in net.parameters())
        dropped, small = attempt(lambda: drop(net))
        said += f" | {len(net.sites)} blocks"
        if dropped: said += f" | {same(small, x, logits) / whole:.0%} left"
        else: said += f" | NOT DROPPED: {small}"
    print(f"{name:32} {time.monotonic() - began:4.1f} s  {said}", flush=True)
    return probed, tied, dropped


@pytest.mark.filterwarnings("ignore")
def test_networks():
    names = chosen()
    found = [tried(name, size) for name, size in names.items()]
    probed, tied, dropped = (sum(column) for column in zip(*found, strict=True))
    print(f"{len(names)} networks: {probed} probed, {tied} tied, {dropped} dropped")
    if len(names) == 60: assert tied >= 52 and dropped >= 40
    elif names == FEW: assert tied == 10
    else: assert tied


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    test_networks()
