"""Training images: loaded from a source, decoded once, then shuffled, flipped and batched.

load(config)      -> Dataset: uint8 images on disk, memory-mapped
split(dataset, k) -> the dataset without k images held out for validation; and those k
batches(images)   -> endless float32 batches in [-1, 1]; the batch of step k is
                     a pure function of (images, batch size, seed, k)
"""

from experiments.data.batching import batches
from experiments.data.dataset import Dataset, load, split

__all__ = ["Dataset", "batches", "load", "split"]
