"""One contender: python -m benchmarks.contenders NAME NETWORK BATCH WEIGHTS [SIZE] [STEPS]

Builds the network, copies the weights, and then answers requests as `benchmarks.processes`
describes. SIZE is the image size, STEPS the number of DDIM steps.
"""

import sys

from benchmarks.contenders.ours import Jax
from benchmarks.contenders.pytorch import NAMES, Torch
from benchmarks.processes import serve


def main(name: str, network: str, batch: str, weights: str, size: str = "0", steps: str = "50"):
    kind = Torch if name in NAMES else Jax
    serve(kind(name, network, int(batch), weights, int(size) or None, int(steps)))


if __name__ == "__main__":
    main(*sys.argv[1:])
