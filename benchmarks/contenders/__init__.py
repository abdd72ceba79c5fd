"""What is measured side by side: this project, plain Flax, PyTorch and diffusers."""
