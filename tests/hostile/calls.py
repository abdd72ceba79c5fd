"""What reads files that others may have written, each as a function of a path."""

from pathlib import Path

# What the calls import is imported here, once.
import numpy as np
import PIL.Image
import pyarrow.parquet

from experiments import data
from experiments.data import decoding
from experiments.data.sources import cifar10, containers, folder, layouts, stanford_cars
from experiments.evaluation import files
from experiments.terminal.errors import UserError, user_mistakes
from jaxddim.runs import moments, record
from jaxddim.runs.build import abstract_state, build
from jaxddim.runs.config import DataConfig
from jaxddim.weights import diffusers, reader, schedulers

SHAPE = 8, 8, 3
_ = pyarrow.parquet, PIL.Image.init()


def decoded(path, size=16):
    """Decodes a picture; what is skipped counts as refused."""
    with decoding.without_warnings():
        found = decoding.decode(Path(path), size and (size, size))
    if found.image is None:
        raise UserError(found.remark)
    return found.image.shape


def streamed(path):
    with Path(path).open("rb") as file, decoding.without_warnings():
        found = decoding.decode(file, (16, 16))
    if found.image is None:
        raise UserError(found.remark)
    return found.image.shape


def loaded(path, cache):
    """The images of a folder."""
    config = DataConfig(source="folder", path=path, image_size=8, cache_dir=cache)
    found = data.load(config)
    return len(found.images), found.notes


def scanned(path):
    found = folder.scan(path)
    return len(found.names), found.skipped


def unpacked(path):
    """The files of an archive."""
    return [name for name, _ in containers.members(Path(path))]


def shards(path):
    return sum(1 for _ in containers.rows(Path(path), ["image", "label"]))


def annotations(path):
    """The records in a folder of Stanford Cars."""
    return len(layouts.read_annotations(layouts.find(path)))


def cars(path, target):
    return stanford_cars.ensure(path, target)


def cifar(path, target):
    return cifar10.ensure(path, target)


def opened(workdir):
    """The network of a run, without its weights."""
    setup = build(record.load(workdir))
    abstract_state(setup)
    return setup.config.seed


opened.room = 1 << 14  # mebibytes of addresses, as JAX's threads take


def around(workdir):
    """The moments of a run."""
    return moments.read(workdir, record.load(workdir)).mean.shape


def names(workdir):
    return len(record.read_names(workdir))


def samples(path):
    found = files.pictures_at("--samples", path, SHAPE, [])
    assert found.dtype == np.uint8
    return found.shape


def weights(path):
    """The tensors of a file."""
    return library(lambda: sorted(reader.load(path)))


def foreign(path):
    """The network of a folder of diffusers'."""
    return library(lambda: diffusers.read(Path(path)).image_size)


def library(call):
    """What commands make of a mistake that the library finds."""
    with user_mistakes("--from"):
        return call()


def schedule(path):
    """The schedule of such a folder."""
    return library(lambda: schedulers.read(Path(path), None)[0].num_steps)
