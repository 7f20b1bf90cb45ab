"A folder of photos as nobody wants to find it: many sizes and kinds of file, some labels wrong, some files damaged."
import io
import os
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from memloc.data import load, subset

CLASSES = ("airplane", "horse", "zero 100%", "one #1")     # two of CIFAR-10, in colour, and two of MNIST, in grey
DAMAGED = {"cut.jpg": None, "empty.png": b"", "page.jpg": b"<!DOCTYPE html>", "noise.png": bytes(range(256)) * 9}
KINDS = ("jpg", "png", "webp", "gif", "bmp", "tif", "jfif", "ppm")


def has_real(root):
    "Whether the copies of CIFAR-10 and MNIST lie in a folder"
    return Path(root, "cifar10-exact.npz").is_file() and Path(root, "MNIST").is_dir()


def real_pictures(each, root):
    "(N, H, W, C) of every class, from the copies of CIFAR-10 and MNIST in a folder"
    found = []
    for data, names in (("cifar10-exact", ("airplane", "horse")), ("mnist", ("0", "1"))):
        with mock.patch.dict(os.environ, MEMLOC_DATA=str(root)): train, _ = load(data)
        for name in names:
            mine = (train.y == train.classes.index(name)).nonzero()[:each, 0]
            found.append(subset(train, mine).x.permute(0, 2, 3, 1).numpy())
    return found


def made_pictures(each, rng):
    "The same of blobs, each class with its own place, where there is no real data"
    found = []
    for k in range(len(CLASSES)):
        x = rng.integers(0, 90, (each, 32, 32, 3 if k < 2 else 1), dtype=np.uint8)
        row, column = 4 + 16 * (k // 2), 4 + 16 * (k % 2)
        x[:, row:row + 9, column:column + 9] += rng.integers(90, 160, (each, 1, 1, 1), dtype=np.uint8)
        found.append(x)
    return found


def resized(pixels, rng):
    "A picture of any size and shape"
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return image.resize(tuple(int(side) for side in rng.integers(24, 97, 2)), Image.Resampling.BICUBIC)


def save_oddly(image, file):
    "Four pictures of a class as some camera or program would have them: their paths"
    turned = Image.Exif()
    turned[0x0112] = 6                                          # to be shown turned clockwise by 90 degrees
    image.transpose(Image.Transpose.ROTATE_90).save(file.with_name("turned.jpg"), exif=turned)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file.with_name("sixteen bit.png"))
    image.convert("RGB").convert("CMYK").save(file.with_name("press.jpg"))
    image.convert("RGB").convert("P").save(file.with_name("palette.png"), transparency=0)
    return [file.with_name(name) for name in ("turned.jpg", "sixteen bit.png", "press.jpg", "palette.png")]


def make_odd_folder(
    root,          # the folder to make
    each=60,       # pictures of each class
    mislabelled=4, # pictures of each class that lie in the folder of the next
    real=None,     # a folder with real pictures, as in $MEMLOC_DATA; made ones if None
):
    "Make it, with a folder a class; (files that are whole, those that lie in the wrong folder, damaged files)"
    rng = np.random.default_rng(0)
    pictures = real_pictures(each, real) if real else made_pictures(each, rng)
    whole, wrong, damaged = [], [], []
    for name in CLASSES: (root / name).mkdir(parents=True)
    for k, of_class in enumerate(pictures):
        for i, pixels in enumerate(of_class):
            lies = i < mislabelled
            folder = root / CLASSES[(k + lies) % len(CLASSES)]
            file = folder / f"{k} & {i:03} ä.{KINDS[i % len(KINDS)]}"
            resized(pixels, rng).save(file)
            whole.append(file)
            if lies: wrong.append(file)
    whole += save_oddly(resized(pictures[0][-1], rng), root / CLASSES[0] / "odd")
    (root / CLASSES[1] / "notes.txt").write_text("not a picture, and not meant to be one")
    for name, content in DAMAGED.items():
        file = root / CLASSES[1] / name
        file.write_bytes(half_a_jpeg(pictures[1][0]) if content is None else content)
        damaged.append(file)
    return whole, wrong, damaged


def half_a_jpeg(pixels):
    "A JPEG that ends too soon"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()[:len(file.getvalue()) // 2]
