"""Large matrix products, for the machine's peak: python -m benchmarks.products NAME SIZE"""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.processes import serve


class Product:
    """Multiplies two SIZE x SIZE matrices in one library, in float32 (or "bfloat16")."""

    def __init__(self, library: str, size: int):
        a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        self.product: Callable[[], Any] = getattr(self, f"_{library}")(a, b)

    def _numpy(self, a, b):
        return lambda: a @ b

    def _jax(self, a, b, dtype="float32"):
        import jax
        import jax.numpy as jnp

        a, b, multiply = jnp.asarray(a, dtype), jnp.asarray(b, dtype), jax.jit(jnp.matmul)
        return lambda: multiply(a, b).block_until_ready()

    def _bfloat16(self, a, b):
        return self._jax(a, b, "bfloat16")

    def _torch(self, a, b):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        a, b = torch.from_numpy(a), torch.from_numpy(b)
        return lambda: a @ b


if __name__ == "__main__":
    serve(Product(sys.argv[1], int(sys.argv[2])))
