r"""Pickles of tensors, read by a machine that can build tensors and containers and nothing else.

`pickletools` splits the bytes into opcodes without executing them. Those in `read` are the ones
that `torch.save` writes at protocol 2 for numbers, strings, lists, tuples, dictionaries and
tensors. A global becomes a `Token`, which only these calls take:

    OrderedDict()                                   a dictionary
    _rebuild_tensor_v2(storage, offset, size, ..)   a tensor: a window into a storage
    _rebuild_parameter(tensor, ..)                  the tensor

Attributes that a BUILD gives to a dictionary (`_metadata` of a state dict) are dropped.
"""

import math
import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

MOST_OPCODES = 300_000
"""Four times those of the largest official checkpoint (LSUN, with averages and Adam's state)."""
MOST_DIMENSIONS = 8
MOST_KEY = 2**31
MOST_DEPTH = 32
TYPES: Mapping[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Token(NamedTuple):
    """A global that a pickle asks for, by name."""

    module: str
    name: str


DICTIONARY = Token("collections", "OrderedDict")
TENSOR = Token("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Token("torch._utils", "_rebuild_parameter")
KNOWN = {DICTIONARY, TENSOR, PARAMETER, *(Token("torch", name) for name in TYPES)}


class Storage(NamedTuple):
    """Numbers outside of the pickle.

    Attributes:
      key: its name in the file.
      dtype: type of its numbers.
      length: how many there are.
    """

    key: str
    dtype: np.dtype
    length: int


class Window(NamedTuple):
    """A tensor: a part of a storage, in numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read(file: BinaryIO, tensor: Callable[[Window], Any]) -> Any:
    """The object of the pickle at the file's position, which is left behind its end.

    Args:
      file: bytes in memory.
      tensor: what stands for a tensor in the object.
    Raises:
      ValueError: for anything that is not of numbers, strings, containers and tensors.
    """
    stack: list[Any] = []
    marks = [0]
    memo: dict[int, Any] = {}
    opcodes: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)

    def pop(count: int) -> list[Any]:
        start = len(stack) - count
        if start < marks[-1]:
            raise ValueError("a pickle that takes what it has not built")
        items = stack[start:]
        del stack[start:]
        return items

    def since_mark() -> list[Any]:
        if len(marks) < 2:
            raise ValueError("a pickle that ends what it has not begun")
        items = pop(len(stack) - marks[-1])
        marks.pop()
        return items

    def top() -> Any:
        (item,) = pop(1)
        stack.append(item)
        return item

    for done, (opcode, argument, _) in enumerate(opcodes):
        if done > MOST_OPCODES:
            raise ValueError(f"a pickle of more than {MOST_OPCODES:,} opcodes")
        match opcode.name:
            case "PROTO" if argument == 2:
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE":
                argument.encode()  # no surrogates
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list}.get(opcode.name, tuple)())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(opcode.name[-1]))))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = top()
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "SETITEM" | "SETITEMS":
                items = pop(2) if opcode.name == "SETITEM" else since_mark()
                _set(_only(dict, top()), items)
            case "APPEND" | "APPENDS":
                items = pop(1) if opcode.name == "APPEND" else since_mark()
                _only(list, top()).extend(items)
            case "GLOBAL":
                stack.append(_token(argument))
            case "BINPERSID":
                stack.append(_storage(pop(1)[0]))
            case "REDUCE":
                function, arguments = pop(2)
                stack.append(_called(function, arguments, tensor))
            case "BUILD":
                pop(1)
                _only(dict, top())
            case "STOP":
                (whole,) = stack
                return _finished(whole)
            case name:
                raise ValueError(f"it holds the opcode {name}, which no tensor needs")
    raise ValueError("a pickle without an end")


def _only(kind: type, found: Any) -> Any:
    if type(found) is not kind:
        raise ValueError(f"a pickle that fills something else than a {kind.__name__}")
    return found


def _set(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and 0 <= key < MOST_KEY):
            raise ValueError("a dictionary with a key that is no name and no small number")
        if key in target:
            raise ValueError("a dictionary with two entries of one name")
        target[key] = value


def _token(argument: str) -> Token:
    token = Token(*argument.split(" ", 1))
    if token not in KNOWN:
        raise ValueError(f"it asks for {token.module}.{token.name}, which no tensor needs"[:150])
    return token


def _storage(pid: Any) -> Storage:
    kind, token, key, _, length, *view = pid
    if kind != "storage" or type(token) is not Token or token.name not in TYPES or any(view):
        raise ValueError("it holds a storage of an unknown kind")
    if type(key) is not str or type(length) is not int or length < 0:
        raise ValueError("it holds a storage without a name or a length")
    return Storage(key, np.dtype(TYPES[token.name]), length)


def _called(function: Any, arguments: Any, tensor: Callable[[Window], Any]) -> Any:
    if type(function) is not Token or type(arguments) is not tuple:
        raise ValueError("a pickle that calls what is no function")
    if function == DICTIONARY and not arguments:
        return {}
    if function == TENSOR and len(arguments) >= 4:
        return tensor(_window(*arguments[:4]))
    if function == PARAMETER and arguments:
        return arguments[0]
    raise ValueError(f"it calls {function.module}.{function.name} with what no tensor needs")


def _window(storage: Any, offset: Any, size: Any, stride: Any) -> Window:
    shaped = type(size) is tuple and type(stride) is tuple and len(size) == len(stride)
    numbers = (offset, *size, *stride) if shaped else ()
    if type(storage) is not Storage or not numbers or len(size) > MOST_DIMENSIONS:
        raise ValueError("a tensor that is no window into a storage")
    if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError("a tensor that is no window into a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset > storage.length or (math.prod(size) and last >= storage.length):
        raise ValueError("a tensor that reaches beyond its storage")
    return Window(storage, offset, size, stride)


def _finished(whole: Any) -> Any:
    """The object, if no token or storage is left in it and it is not nested too deeply."""
    heights: dict[int, int] = {}

    def height(item: Any, depth: int) -> int:
        if isinstance(item, Token | Storage):
            raise ValueError("it holds something other than tensors, numbers and containers")
        if type(item) not in (list, tuple, dict):
            return 0
        if id(item) not in heights:
            if depth < MOST_DEPTH:
                items = item.values() if type(item) is dict else item
                heights[id(item)] = 1 + max((height(i, depth + 1) for i in items), default=0)
            else:
                heights[id(item)] = MOST_DEPTH
        if depth + heights[id(item)] > MOST_DEPTH:
            raise ValueError("containers within containers without an end")
        return heights[id(item)]

    height(whole, 0)
    return whole


def written(whole: Any, stored: Callable[[np.ndarray], str]) -> bytes:
    """The pickle of an object of numbers, strings, containers and arrays, as `read` takes it.

    Args:
      whole: the object.
      stored: stores an array's numbers and returns their key.
    Raises:
      ValueError: for anything else, or an array of a type that PyTorch's files do not have.
    """
    kinds = {np.dtype(dtype): name for name, dtype in TYPES.items()}

    def several(items: Iterable[Any], end: bytes) -> bytes:
        return b"(" + b"".join(map(bytes_of, items)) + end

    def tensor(array: np.ndarray) -> bytes:
        if array.dtype not in kinds:
            raise ValueError(f"a PyTorch file has no numbers of the type {array.dtype}")
        strides = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
        kind = f"ctorch\n{kinds[array.dtype]}\n".encode()
        storage = b"".join(map(bytes_of, (stored(array), "cpu", array.size)))
        place = b"(" + bytes_of("storage") + kind + storage + b"tQ"
        form = b"".join(map(bytes_of, (0, array.shape, tuple(strides), False)))
        hooks = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + form + hooks + b"tR"

    def bytes_of(item: Any) -> bytes:
        match item:
            case None | bool():
                return {None: b"N", True: b"\x88", False: b"\x89"}[item]
            case int():
                long = item.to_bytes(item.bit_length() // 8 + 1, "little", signed=True)
                return b"\x8a" + bytes([len(long)]) + long
            case float():
                return b"G" + struct.pack(">d", item)
            case str():
                text = item.encode()
                return b"X" + struct.pack("<I", len(text)) + text
            case np.ndarray():
                return tensor(item)
            case list():
                return b"]" + several(item, b"e")
            case tuple():
                return several(item, b"t")
            case dict():
                return b"}" + several((part for pair in item.items() for part in pair), b"u")
        raise ValueError(f"a PyTorch file cannot hold a {type(item).__name__}")

    return b"\x80\x02" + bytes_of(whole) + b"."
