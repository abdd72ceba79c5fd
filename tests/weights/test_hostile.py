"""Weight files that are made to harm: each is refused at once, and nothing is executed or kept."""

import collections
import io
import json
import struct
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from jaxddim.weights import containers, pickles, reader
from tests.weights.test_reader import (
    MACHINE,
    WEIGHT,
    Called,
    Exploit,
    Named,
    Stored,
    legacy,
    pickled,
    tensor,
    zipped,
)

GOOD = {"a": tensor("0", 12, (3, 4), (4, 1))}
HELD = {"0": WEIGHT}
PROTO, STOP = b"\x80\x02", b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def around(data, contents=HELD, entries=(), compression=zipfile.ZIP_STORED, root="archive"):
    """A zip of torch.save's with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for key, content in contents.items():
            archive.writestr(f"{root}/data/{key}", content.tobytes())
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def program(*parts):
    return around(PROTO + b"".join(parts) + STOP)


def header(text, data=b""):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def bomb():
    """A member that says 48 bytes and inflates to 200 MB."""
    content = around(pickled(GOOD), {"0": np.zeros(50_000_000, "f4")}, (), zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", 200_000_000)
    assert content.count(size) == 2
    return content.replace(size, struct.pack("<I", 48))


def overlapping():
    """Two members, the second of which lies at the place of the first."""
    content = around(pickled(GOOD), HELD, [("archive/data/1", b"\0" * 48)])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first, second = (archive.getinfo(f"archive/data/{n}").header_offset for n in "01")
    return content.replace(struct.pack("<I", second), struct.pack("<I", first))


def number(value):
    """A key, with nothing as its item."""
    return b"\x8a\x0a" + value.to_bytes(10, "little") + b"N"


def nested(depth):
    return b"]" * depth + b"a" * (depth - 1)


def loop():
    """A list that holds itself, in place of a state dict."""
    return program(b"]q\x00h\x00a")


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
DEEP = b'{"a":' * 100_000
KINDS = {
    "a call of the system": lambda: zipped({"a": Exploit()}, {}),
    "a call of the system, old layout": lambda: legacy({"a": Exploit()}, {}),
    "eval": lambda: zipped(Called(Named("builtins", "eval"), "1"), {}),
    "getattr": lambda: zipped(Called(Named("builtins", "getattr"), "a", "b"), {}),
    "a part of PyTorch that loads": lambda: zipped(Called(Named("torch", "load"), "a.pth"), {}),
    "another rebuild function": lambda: zipped(
        Called(Named("torch._utils", "_rebuild_from_type_v2"), 1, 2, (), {}), {}
    ),
    "a global of protocol 4": lambda: program(text(b"os"), text(b"mkdir"), b"\x93"),
    "an instance": lambda: program(b"(ios\nmkdir\n"),
    "a new object": lambda: program(ORDERED, b")\x81"),
    "an extension code": lambda: program(b"\x82\x01"),
    "a call of a storage": lambda: zipped(Called(Named("torch", "FloatStorage"), 5), {}),
    "attributes for a function": lambda: program(REBUILD, b"}", text(b"__code__"), b"Nsb"),
    "attributes for a type": lambda: program(b"ctorch\nFloatStorage\n", b"}", text(b"a"), b"Nsb"),
    "items for a function": lambda: program(REBUILD, text(b"a"), b"Ns"),
    "items for a list": lambda: program(b"]", text(b"a"), b"Ns"),
    "an item for a dictionary": lambda: program(b"}Na"),
    "a function among the tensors": lambda: program(b"}", text(b"a"), REBUILD, b"s"),
    "a storage among the tensors": lambda: zipped({"a": Stored("0", "Float", 12)}, HELD),
    "a memo that is not filled": lambda: program(b"h\x05"),
    "a string of 4 GiB": lambda: program(b"X\xff\xff\xff\xffabc"),
    "bytes of 2 GiB": lambda: program(b"\x8e" + struct.pack("<Q", 2**31) + b"abc"),
    "a number of 2 GiB": lambda: program(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc"),
    "a number in decimals": lambda: program(b"L" + b"9" * 1_000_000 + b"L\n"),
    "two entries of a dictionary": lambda: program(b"}(", text(b"a"), b"N", text(b"a"), b"Nu"),
    "a list for a key": lambda: program(b"}]Ns"),
    "keys that collide": lambda: program(b"}(", *(number(k * (2**61 - 1)) for k in range(9)), b"u"),
    "an empty stack": lambda: program(b""),
    "a stack with two": lambda: program(b"NN"),
    "a tuple of nothing": lambda: program(b"\x87"),
    "no mark": lambda: program(b"NNt"),
    "a mark before its end": lambda: program(b"N(\x85"),
    "a million opcodes": lambda: program(b"N\x85" * 500_000),
    "nested lists": lambda: program(nested(200_000)),
    "a list that holds itself": loop,
    "ten to the thirtieth items": lambda: program(b"]", b"q\x00]h\x00h\x00\x86a" * 100),
    "no end": lambda: around(PROTO + b"}"),
    "a tensor beyond its storage": lambda: zipped({"a": tensor("0", 12, (13,), (1,))}, HELD),
    "a number beyond its storage": lambda: zipped({"a": tensor("0", 12, (), (), offset=99)}, HELD),
    "an expanded tensor of 4 TB": lambda: zipped({"a": tensor("0", 12, (2**40,), (0,))}, HELD),
    "a thousand expanded tensors": lambda: zipped(
        {f"{i}": tensor("0", 12, (50_000,), (0,)) for i in range(1000)}, HELD
    ),
    "a size beyond all numbers": lambda: zipped({"a": tensor("0", 12, (2**63,), (0,))}, HELD),
    "a size that is no number": lambda: zipped({"a": tensor("0", 12, (True,), (1,))}, HELD),
    "a hundred axes": lambda: zipped({"a": tensor("0", 12, (1,) * 100, (1,) * 100)}, HELD),
    "a storage of a negative length": lambda: zipped({"a": tensor("0", -1, (0,), (1,))}, HELD),
    "a storage that is longer": lambda: zipped(GOOD, {"0": np.zeros(13, "f4")}),
    "a storage that is shorter": lambda: zipped(GOOD, {"0": np.zeros(11, "f4")}),
    "a storage of two types": lambda: zipped(
        GOOD | {"b": tensor("0", 12, (12,), (1,), kind="Int")}, HELD
    ),
    "a storage that is missing": lambda: zipped(GOOD, {}),
    "truth values of 7": lambda: zipped(
        {"a": tensor("0", 4, (4,), (1,), kind="Bool")}, {"0": np.array([0, 7, 1, 0], "u1")}
    ),
    "a storage with a path for a name": lambda: zipped(
        {"a": tensor("../../0", 12, (12,), (1,))}, HELD
    ),
    "compressed entries": lambda: around(pickled(GOOD), HELD, (), zipfile.ZIP_DEFLATED),
    "a zip bomb": bomb,
    "two roots": lambda: around(pickled(GOOD), HELD, [("other/data.pkl", pickled({}))]),
    "an entry outside of the root": lambda: around(pickled(GOOD), HELD, [("data.pkl", b"")]),
    "two entries of a name": lambda: around(
        pickled(GOOD), HELD, [("archive/data.pk1", pickled({}))]
    ).replace(b"data.pk1", b"data.pkl"),
    "entries at one place": overlapping,
    "a zip behind something": lambda: b"PK\x03\x04" + zipped(GOOD, HELD),
    "a zip behind a legacy file": lambda: legacy(GOOD, HELD) + zipped(GOOD, HELD),
    "TorchScript": lambda: zipped(GOOD, HELD, extra=["code/__torch__.py"]),
    "a directory that is cut": lambda: zipped(GOOD, HELD)[:-30],
    "an unknown order of bytes": lambda: zipped(GOOD, HELD, order="middle"),
    "a legacy storage of 2^62": lambda: legacy(GOOD, HELD).replace(
        struct.pack("<q", 12) + WEIGHT.tobytes(), struct.pack("<q", 2**62) + WEIGHT.tobytes()
    ),
    "a legacy storage of -1": lambda: legacy(GOOD, HELD).replace(
        struct.pack("<q", 12) + WEIGHT.tobytes(), struct.pack("<q", -1) + WEIGHT.tobytes()
    ),
    "a legacy storage of no tensor": lambda: legacy(GOOD, HELD | {"1": WEIGHT}),
    "a legacy storage twice": lambda: b"".join(
        map(pickled, (containers.MAGIC, 1001, MACHINE, GOOD, ["0", "0"]))
    ) + 2 * (struct.pack("<q", 12) + WEIGHT.tobytes()),
    "a legacy file of another version": lambda: b"".join(
        map(pickled, (containers.MAGIC, 1002, MACHINE, {}, []))
    ),
    "safetensors: a name twice": lambda: header(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 8)).encode(),) * 2), b"\0" * 8
    ),
    "safetensors: a field twice": lambda: header(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "safetensors: a header of 2^63": lambda: struct.pack("<Q", 2**63) + b"{}",
    "safetensors: a header of 60 MB": lambda: (
        struct.pack("<Q", 60_000_000) + b"{" + b" " * 60_000_000
    ),
    "safetensors: deep JSON": lambda: header(DEEP + b"1" + b"}" * 100_000),
    "safetensors: a hole": lambda: header({"a": entry(0, 8), "b": entry(16, 24)}, b"\0" * 24),
    "safetensors: an overlap": lambda: header({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "safetensors: beyond the end": lambda: header({"a": entry(0, 8)}, b"\0" * 4),
    "safetensors: another size": lambda: header({"a": entry(0, 8, (3,))}, b"\0" * 8),
    "safetensors: a size that overflows": lambda: header(
        {"a": entry(0, 8, (2**62, 2**62))}, b"\0" * 8
    ),
    "safetensors: an unknown type": lambda: header({"a": entry(0, 8, dtype="X9")}, b"\0" * 8),
    "safetensors: float8": lambda: header({"a": entry(0, 2, dtype="F8_E4M3")}, b"\0" * 2),
    "nothing": lambda: b"",
    "zeros": lambda: b"\0" * 1000,
}  # fmt: skip


def known():
    """What a file could change in this process."""
    return (
        dict(pickles.TYPES),
        set(pickles.KNOWN),
        vars(collections.OrderedDict).keys(),
        [vars(f).copy() for f in (pickles.read, pickles._window, containers.read)],
        [f.__code__ for f in (pickles.read, pickles._window, containers.read)],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_at_once_and_nothing_happens(kind, tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(KINDS[kind]())
    monkeypatch.chdir(tmp_path)
    before, modules = known(), set(sys.modules)
    took = []
    for _ in range(3):  # other work on the machine slows some
        started = time.process_time()
        with pytest.raises(ValueError, match="weights: ") as caught:
            reader.load("weights")
        took.append(time.process_time() - started)
    assert min(took) < 1
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert known() == before
    new = {name.split(".")[0] for name in set(sys.modules) - modules}
    assert new <= {"safetensors", "jaxddim", "encodings"}


@pytest.mark.parametrize("kind", KINDS)
def test_it_costs_little_memory(kind, tmp_path):
    (tmp_path / "weights").write_bytes(KINDS[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            reader.load(tmp_path / "weights")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20


def test_the_good_file_among_them_is_read(tmp_path):
    """So the others are refused for what is wrong with them."""
    for content in (around(pickled(GOOD)), legacy(GOOD, HELD), save({"a": WEIGHT})):
        (tmp_path / "weights").write_bytes(content)
        np.testing.assert_array_equal(reader.load(tmp_path / "weights")["a"], WEIGHT)


def test_attributes_of_a_dictionary_are_dropped(tmp_path):
    """torch.save gives a state dict `_metadata`; another file might give it other `items`."""
    state = ORDERED + b")R(" + text(b"n") + b"K\x05u}" + text(b"items") + b"Nsb"
    (tmp_path / "weights").write_bytes(program(state))
    assert reader.load(tmp_path / "weights") == {"n": 5}


def test_a_memo_of_2_gib_costs_nothing(tmp_path):
    (tmp_path / "weights").write_bytes(program(b"}r" + struct.pack("<I", 2**27)))
    tracemalloc.start()
    try:
        assert reader.load(tmp_path / "weights") == {}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
