"""The likelihood of images under a model: the variational bound, and the density along the ODE."""

from jaxddim.likelihood.bound import Bound, variational_bound
from jaxddim.likelihood.density import ode_bits_per_dim, ode_log_likelihood
from jaxddim.likelihood.gaussians import discretized_log_prob, kl

__all__ = [
    "Bound",
    "discretized_log_prob",
    "kl",
    "ode_bits_per_dim",
    "ode_log_likelihood",
    "variational_bound",
]
