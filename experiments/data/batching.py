"""Batches for training, as one endless stream of shuffled and flipped images."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

ENDLESS = 2**50  # images; Grain's own limit, sys.maxsize, overflows when divided into batches of 1


def batches(
    images: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    flip: bool = True,
    shard: tuple[int, int] = (0, 1),
    labels: np.ndarray | None = None,
) -> Iterator[Any]:
    """Endless batches, float32 [batch_size, h, w, c] in [-1, 1].

    There is one endless stream of images: every epoch is a new permutation of all of
    them, and each image of the stream is flipped horizontally or not, independently.
    A batch is a slice of the stream and may cross the end of an epoch. So batch k
    depends only on the arguments and k, and starting at `first_step` costs nothing.

    Args:
      images: uint8 [n, h, w, c].
      batch_size: images in a batch of this process, of n together n times as many.
      seed: seed of the permutations and flips.
      first_step: the step whose batch comes first.
      flip: whether images are flipped, each with probability one half.
      labels: int32 [n]; then a batch is a dict of "image" and "label".
      shard: (i, n): process i of n takes the i-th stretch of each batch of all.
    Returns:
      An iterator that prefetches.
    """
    import grain.python as grain

    index, count = shard
    # Grain handles elements one by one: pairs (number, coin) are cheaper than images.
    stream = grain.MapDataset.range(len(images)).seed(seed % 2**32).shuffle().repeat()
    stream = stream.random_map(lambda number, rng: (number, flip and rng.random() < 0.5))
    steps = stream[:ENDLESS].batch(batch_size)[index::count][first_step:]
    steps = steps.map(partial(_gather, np.asarray(images), labels))
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def _gather(
    images: np.ndarray, labels: np.ndarray | None, chosen: tuple[np.ndarray, np.ndarray]
) -> Any:
    """The images with these numbers, flipped where the coin is true, as float32 in [-1, 1]."""
    numbers, coins = chosen
    batch = images[numbers]
    leftwards = np.arange(images.shape[2])[::-1]
    batch[coins] = batch[coins].take(leftwards, axis=2)  # copying a slice [::-1] is slower
    scaled = batch.astype(np.float32)
    scaled /= np.float32(127.5)
    scaled -= np.float32(1)
    return scaled if labels is None else {"image": scaled, "label": labels[numbers]}
