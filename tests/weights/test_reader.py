"""Weight files, valid and malicious; PyTorch's formats are written byte by byte.

`test_files_of_pytorch_itself` compares with PyTorch, and is skipped if that is not installed.
"""

import collections
import io
import os
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxddim.weights import containers, reader

MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


class Named:
    """Pickled as the global `module.name`, whether or not that exists."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Called:
    """Pickled as a call of that global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Stored:
    """Pickled as a reference to bytes outside of the pickle."""

    def __init__(self, key, kind, length, view=()):
        self.pid = ("storage", Named("torch", f"{kind}Storage"), key, "cpu", length, *view)


class Writer(pickle._Pickler):
    """Protocol 2 in Python, so that it can write names from modules that are not installed."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Stored) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Called):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(obj):
    file = io.BytesIO()
    Writer(file, 2).dump(obj)
    return file.getvalue()


def tensor(key, length, size, stride, kind="Float", offset=0):
    arguments = (Stored(key, kind, length), offset, size, stride, False)
    hooks = Called(Named("collections", "OrderedDict"))
    return Called(Named("torch._utils", "_rebuild_tensor_v2"), *arguments, hooks)


def legacy(state, contents):
    """The layout before PyTorch 1.6."""
    start = b"".join(map(pickled, (containers.MAGIC, 1001, MACHINE, state, list(contents))))
    stored = (struct.pack("<q", len(a)) + a.tobytes() for a in map(np.ravel, contents.values()))
    return start + b"".join(stored)


def zipped(state, contents, order="little", root="archive", extra=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled(state))
        archive.writestr(f"{root}/byteorder", order)
        for key, content in contents.items():
            archive.writestr(f"{root}/data/{key}", content.tobytes())
        for name in extra:
            archive.writestr(f"{root}/{name}", b"")
    return file.getvalue()


@pytest.fixture(params=[legacy, zipped])
def layout(request):
    return request.param


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.pth"):
        (tmp_path / name).write_bytes(content)
        return reader.read(tmp_path / name)

    return read


# -- what is read ----------------------------------------------------------------------


def test_both_layouts_hold_the_same_tensors(layout, read):
    state = collections.OrderedDict(
        whole=tensor("7", 12, (3, 4), (4, 1)),
        turned=tensor("7", 12, (4, 3), (1, 4)),
        inside=tensor("7", 12, (2, 2), (4, 1), offset=5),
        number=tensor("8", 1, (), (), kind="Long"),
    )
    found = read(layout(state, {"7": WEIGHT, "8": np.array([3], np.int64)}))
    assert list(found) == ["whole", "turned", "inside", "number"]
    np.testing.assert_array_equal(found["whole"], WEIGHT)
    np.testing.assert_array_equal(found["turned"], WEIGHT.T)
    np.testing.assert_array_equal(found["inside"], WEIGHT[1:, 1:3])
    assert (found["number"], found["number"].dtype) == (3, np.int64)
    assert all(array.flags.c_contiguous for array in found.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Half", np.float16), ("Double", np.float64), ("BFloat16", jnp.bfloat16), ("Bool", np.bool_)],
)
def test_every_type_keeps_its_values(layout, read, kind, dtype):
    values = np.array([0, 1, 1, 0]).astype(dtype)
    found = read(layout({"a": tensor("0", 4, (4,), (1,), kind)}, {"0": values}))["a"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_parameters_and_a_state_dict_by_that_name(layout, read):
    made = Called(Named("torch._utils", "_rebuild_parameter"), tensor("0", 12, (12,), (1,)), True)
    state = {"epoch": 3, "state_dict": {"a": made}}
    np.testing.assert_array_equal(read(layout(state, {"0": WEIGHT}))["a"], WEIGHT.ravel())


def test_whole_objects(layout, tmp_path):
    """A list with dictionaries, numbers and nothing; a tensor twice, and one with strides of 0."""
    one, wide = tensor("0", 12, (3, 4), (4, 1)), tensor("0", 12, (5, 2), (0, 1))
    state = [{"a": one, "b": one}, {"state": {0: {"step": 7, "mean": wide}}}, 3, 0.5, None, (True,)]
    (tmp_path / "a.ckpt").write_bytes(layout(state, {"0": WEIGHT}))
    named, optimizer, *rest = reader.load(tmp_path / "a.ckpt")
    np.testing.assert_array_equal(named["a"], WEIGHT)
    np.testing.assert_array_equal(named["b"], WEIGHT)
    assert optimizer["state"][0]["step"] == 7
    np.testing.assert_array_equal(optimizer["state"][0]["mean"], np.tile(WEIGHT[0, :2], (5, 1)))
    assert rest == [3, 0.5, None, (True,)]


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a", "a.txt"])
def test_the_first_bytes_decide_and_not_the_name(read, name):
    from safetensors.numpy import save

    state = {"a": tensor("0", 12, (3, 4), (4, 1))}
    for content in (
        legacy(state, {"0": WEIGHT}),
        zipped(state, {"0": WEIGHT}),
        save({"a": WEIGHT}),
    ):
        np.testing.assert_array_equal(read(content, name)["a"], WEIGHT)


def test_bytes_of_a_machine_of_the_other_kind(read):
    state, contents = {"a": tensor("0", 12, (3, 4), (4, 1))}, {"0": WEIGHT.astype(">f4")}
    np.testing.assert_array_equal(read(zipped(state, contents, order="big"))["a"], WEIGHT)


def test_safetensors(tmp_path, read):
    from safetensors.numpy import save

    np.testing.assert_array_equal(read(save({"a": WEIGHT}), "a.safetensors")["a"], WEIGHT)


@pytest.mark.parametrize("new", [True, False])
def test_files_of_pytorch_itself(tmp_path, new):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    path = tmp_path / "a.pth"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=new)
    found = reader.read(path)
    assert list(found) == list(module.state_dict())
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(found[name], value.numpy())


# -- what is refused -------------------------------------------------------------------


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "harm",
    [
        Exploit(),
        Called(Named("builtins", "eval"), "__import__('os').mkdir('executed')"),
        Called(Named("torch._utils", "_rebuild_wrapper_subclass")),
        Called(Named("torch", "FloatStorage"), 5),
        Called(Named("collections", "namedtuple"), "a", "b"),
    ],
)
def test_nothing_in_a_file_is_executed(layout, read, tmp_path, monkeypatch, harm):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a\.pth: damaged, or not a file of tensors"):
        read(layout({"a": harm}, {}))
    assert not (tmp_path / "executed").exists()


def test_the_message_names_what_was_asked_for(layout, read):
    with pytest.raises(ValueError, match=r"it asks for (posix|nt)\.mkdir, which no tensor needs"):
        read(layout({"a": Exploit()}, {}))


@pytest.mark.parametrize(
    "window",
    [
        {"size": (13,), "stride": (1,)},
        {"size": (3, 4), "stride": (5, 1)},
        {"size": (2,), "stride": (12,)},
        {"size": (1,), "stride": (1,), "offset": 12},
        {"size": (), "stride": (), "offset": 12},
        {"size": (), "stride": (), "offset": 2**40},
        {"size": (0,), "stride": (1,), "offset": 13},
        {"size": (1,), "stride": (1,), "offset": -1},
        {"size": (2,), "stride": (-1,), "offset": 5},
        {"size": (2**40,), "stride": (0,)},
    ],
)
def test_a_tensor_may_not_look_outside_of_its_storage(layout, read, window):
    with pytest.raises(
        ValueError, match=r"reaches beyond its storage|no window|larger than the file"
    ):
        read(layout({"a": tensor("0", 12, **window)}, {"0": WEIGHT}))


def test_a_storage_that_is_shorter_than_it_says(layout, read):
    with pytest.raises(ValueError, match="damaged"):
        read(layout({"a": tensor("0", 12, (12,), (1,))}, {"0": WEIGHT[:2]}))


def test_what_holds_something_else(layout, read):
    for state in ([1, 2], {"a": 5}, {5: tensor("0", 12, (12,), (1,))}, "text"):
        with pytest.raises(ValueError, match="something other than tensors by name"):
            read(layout(state, {"0": WEIGHT} if isinstance(state, dict) and 5 in state else {}))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_garbage(read, name):
    whole = legacy({"a": tensor("0", 12, (12,), (1,))}, {"0": WEIGHT})
    for content in (b"", b"no weights", pickled(5), whole[:-3], whole[:60]):
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            read(content, name)


def test_a_program_is_no_dictionary(read):
    content = zipped({}, {}, extra=["code/__torch__.py"])
    with pytest.raises(ValueError, match=r"a program \(TorchScript\)"):
        read(content)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pth: no such file"):
        reader.read(tmp_path / "none.pth")


# -- checking and folding --------------------------------------------------------------


def test_a_check_names_what_is_wrong_and_leaves_the_rest():
    tensors = {"a": np.zeros((2, 3)), "b": np.zeros(4), "more": np.zeros(1)}
    reader.check(tensors, {"a": (2, 3), "b": (4,)}, "x.pth should hold a net")
    with pytest.raises(ValueError) as caught:
        reader.check(tensors, {"a": (2, 3), "b": (5,), "c": ()}, "x.pth should hold a net")
    assert str(caught.value) == (
        "x.pth should hold a net, but of its 3 tensors 1 missing: c; "
        "1 of another shape: b (4,) instead of (5,)"
    )


def test_a_folded_convolution_equals_the_two_layers():
    rng = np.random.default_rng(0)
    tensors = {"c.weight": rng.normal(size=(5, 3, 1, 1)), "n.running_var": rng.uniform(0.5, 2, 5)}
    tensors |= {f"n.{name}": rng.normal(size=5) for name in ("weight", "bias", "running_mean")}
    folded = reader.folded(tensors, "c", "n", 0.1)
    x = rng.normal(size=3)
    y = tensors["c.weight"][:, :, 0, 0] @ x
    y = (y - tensors["n.running_mean"]) / np.sqrt(tensors["n.running_var"] + 0.1)
    y = y * tensors["n.weight"] + tensors["n.bias"]
    assert folded["kernel"].dtype == folded["bias"].dtype == np.float32
    np.testing.assert_allclose(x @ folded["kernel"][0, 0] + folded["bias"], y, rtol=1e-5)
