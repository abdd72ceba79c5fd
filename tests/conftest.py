"""Property tests: the same examples on every machine, and no deadline, since some compile."""

import hypothesis

hypothesis.settings.register_profile(
    "jaxddim", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxddim")

collect_ignore = ["torch_networks.py", "weights/foreign.py"]  # they import PyTorch
