"""Speed of the data pipeline: batches from the cached images, and reading large JPEGs.

    python -m benchmarks.data

Reading is compared with the least that Pillow needs: opening, decoding at the same reduced size
and resizing, in as many threads, with nothing kept. Other load on the machine slows all three;
images per second divided by busy cores hardly changes.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments import data
from experiments.data import cache as caches
from experiments.data.sources import folder

SIZE = 64
CACHED = 16_000  # images
PHOTOS, WIDTH, HEIGHT = 128, 1600, 1200


class Rate(NamedTuple):
    """Throughput and CPU use."""

    images_per_second: float
    cores_busy: float  # CPU seconds of all threads, per second


def measure(batch_size: int = 128, seconds: float = 2.0) -> dict[str, Rate]:
    """The rates of batches, of reading a folder of JPEGs, and of Pillow alone on these JPEGs.

    Args:
      batch_size: images per batch.
      seconds: how long each of the three is measured.
    Returns:
      The rates of "batches", "ingest" and "pillow".
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        batches = data.batches(_cached_images(root), batch_size=batch_size, seed=0)
        photos = _photos(root / "photos")

        def ingest_all() -> int:
            listing = folder.scan(root / "photos")
            cache = Path(tempfile.mkdtemp(dir=root)) / "cache"
            return len(
                caches.cached(cache, lambda: folder.pictures(listing), (SIZE, SIZE, 3)).images
            )

        def pillow() -> int:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return len(list(pool.map(_least, photos)))

        return {
            "batches": _rate(lambda: len(next(batches)), seconds),
            "ingest": _rate(ingest_all, seconds),
            "pillow": _rate(pillow, seconds),
        }


def _rate(work: Callable[[], int], seconds: float) -> Rate:
    """Repeats `work`, which returns a number of images; the first call does not count."""
    work()
    images, start, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        images += work()
    elapsed = time.perf_counter() - start
    return Rate(images / elapsed, (time.process_time() - busy) / elapsed)


def _cached_images(root: Path) -> np.ndarray:
    """Noise, memory-mapped like a cache."""
    noise = np.random.default_rng(0).integers(0, 256, (CACHED, SIZE, SIZE, 3), np.uint8)
    np.save(root / "images.npy", noise)
    return np.load(root / "images.npy", mmap_mode="r")


def _photos(root: Path) -> list[Path]:
    """Writes JPEGs of half a megabyte, all of the same picture: smooth, with a little noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT)), int)
    noisy = smooth + rng.integers(-8, 9, (HEIGHT, WIDTH, 1))
    root.mkdir()
    photos = [root / f"{i}.jpg" for i in range(PHOTOS)]
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(photos[0], quality=88)
    for photo in photos[1:]:
        photo.write_bytes(photos[0].read_bytes())
    return photos


def _least(photo: Path) -> np.ndarray:
    """Reads a file as a small image with Pillow alone."""
    with Image.open(photo) as image:
        image.draft(None, (2 * SIZE, 2 * SIZE))
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    print(f"{'':8}{'images/s':>10}{'cores':>8}{'images/s per core':>18}")
    for name, (speed, cores) in measure().items():
        print(f"{name:8}{speed:10,.0f}{cores:8.2f}{speed / cores:18,.0f}")
