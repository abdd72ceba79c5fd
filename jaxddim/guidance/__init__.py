r"""Guidance: functions from denoisers to a denoiser that follows a condition more strongly.

By Bayes' rule the score of a class c is that of all images and a classifier's,

    grad log q(x_t | c) = grad log q(x_t) + grad log q(c | x_t),

and guidance multiplies the last term by a scale w: above 1, images are drawn of which a classifier
is surer. With a classifier, in DDIM's form (arXiv 2105.05233, algorithm 2),

    eps = eps_u - w sigma_t grad log q(c | x_t).

Without one, the term is the difference of two denoisers, with and without the condition,

    eps = eps_u + w (eps_c - eps_u),    x_0 = x_u + w (x_c - x_u),

which is a consistent pair since both are. (In arXiv 2207.12598 w is 1 + its own.) Guidance acts on
what networks say: clipping and thresholding come after it.

A large w makes x_0 too wide, so it can be rescaled towards the deviation of x_c over each image,

    x_0 -> f x_0,    f = phi std(x_c) / std(x_0) + 1 - phi    (arXiv 2305.08891, section 3.4).
"""

from jaxddim.guidance.classifier import classifier_guide
from jaxddim.guidance.free import guide
from jaxddim.guidance.networks import as_guided_denoiser

__all__ = ["as_guided_denoiser", "classifier_guide", "guide"]
