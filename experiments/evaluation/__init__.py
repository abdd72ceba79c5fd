"""Sample quality: features of images, and distances between sets of features.

features   -> FeatureNetwork; `features(network, images)`: [n, h, w, c] -> [n, dims]
frechet    -> `statistics(features)`, `frechet_distance(a, b)`
kid        -> `kid(x, y)`
manifolds  -> `precision_recall(reference, samples)`, `nearest(x, y, k)`
images     -> a run's own images
references -> their features and statistics, cached with their recipe
levels     -> the validation loss at each noise level
likelihoods -> bits per dimension by the variational bound and by DDIM's ODE
metrics    -> all of these for `experiments.evaluate`, by name
"""
