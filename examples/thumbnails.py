"""Make a thumbnail of every picture in a folder.

    python examples/thumbnails.py FOLDER

Without a folder it draws a few pictures first, in a folder of its own. Needs Pillow.
"""

import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from parmap import pmap


def thumbnail(source, target, size=160):
    """Write a small copy of one picture; its size."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
        small.thumbnail((size, size), Image.Resampling.LANCZOS)
        small.save(target / f"{source.stem}.jpg", quality=85)
        return small.size


def draw(path):
    """A picture to begin with: coloured noise, made large."""
    noise = Image.frombytes("RGB", (40, 30), random.Random(path.name).randbytes(40 * 30 * 3))
    noise.resize((1200, 900), Image.Resampling.BILINEAR).save(path)


with tempfile.TemporaryDirectory() as scratch:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch, "pictures")
    if len(sys.argv) == 1:
        folder.mkdir()
        for number in range(24):
            draw(folder / f"{number:02}.jpg")
    target = Path(scratch, "thumbnails")
    target.mkdir()
    sources = sorted(path for path in folder.iterdir() if path.is_file())

    sizes = pmap(lambda path: thumbnail(path, target), sources, return_exceptions=True)
    for source, size in zip(sources, sizes, strict=True):
        if isinstance(size, UnidentifiedImageError):  # a file that is no picture is no disaster
            print(f"{source.name}: not a picture")
    print(f"{len(list(target.iterdir()))} thumbnails of {len(sources)} files")
    print(sizes.report)
