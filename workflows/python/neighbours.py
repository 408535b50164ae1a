import numpy as np


def nearest(places, count):
    """Per place the `count` nearest ones, itself among them."""
    distances = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :count]
