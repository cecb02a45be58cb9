"""What a pickle of torch.save would do, found out before it is done.

torch.load(weights_only=True) runs no code of others, but a small file can still cost gigabytes
(bytearray(2**31)), hang or crash the process (a dictionary's key of tuples nested a million deep).
This walks through the instructions with sizes in place of values.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import BinaryIO

# What torch.save calls to rebuild tensors and the containers around them.
_CALLED = frozenset(
    {
        "_codecs encode",
        "builtins complex",
        "builtins set",
        "collections Counter",
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_parameter_with_state",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch.nn.parameter Parameter",
        "torch.serialization _get_layout",
    }
)
_HASHING = ("builtins set", "collections Counter", "collections OrderedDict")
_LARGEST_KEY = 100  # items of a tuple that is a key, those of the tuples in it among them
_LEAVES = frozenset(
    "NONE NEWFALSE NEWTRUE BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING LONG1".split()
)


class Unwanted(ValueError):
    """A pickle that no checkpoint of weights needs; the message says what it does."""


class _Item:
    """A value: the number of items if it is a tuple, and of the largest tuple in it."""

    __slots__ = ("name", "size", "within")

    def __init__(self, size: int = 1, within: int = 0, name: str = "") -> None:
        self.size, self.within, self.name = size, within, name


_LEAF = _Item()


def scan(file: BinaryIO) -> None:
    """Walks through one pickle, and leaves the file behind it.

    Raises:
        Unwanted: it calls what no checkpoint needs, or has keys that take for ever to hash.
        ValueError, IndexError, KeyError: it is no pickle, or damaged.
    """
    _Scan().run(file)


class _Scan:
    def __init__(self) -> None:
        self.stack: list[_Item] = []
        self.marks: list[list[_Item]] = []
        self.memo: dict[int, _Item] = {}

    def run(self, file: BinaryIO) -> None:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _LEAVES:
                self.stack.append(_LEAF)
            elif name in ("BINPUT", "LONG_BINPUT"):
                assert isinstance(argument, int)
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                assert isinstance(argument, int)
                self.stack.append(self.memo[argument])
            elif name == "GLOBAL":
                # Pickles of protocol 2 use Python 2's name of the module.
                called = str(argument).replace("__builtin__ ", "builtins ")
                self.stack.append(_Item(name=called))
            elif name in _STEPS:
                _STEPS[name](self)
            elif name not in ("PROTO", "STOP"):
                raise Unwanted(f"has the instruction {name}, which torch.save does not write")

    def above_mark(self) -> list[_Item]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def new(self) -> None:
        self.stack.append(_Item())

    def tuple_of(self, items: list[_Item]) -> None:
        # One more than any key may have is enough: sizes of shared tuples grow exponentially.
        size = min(1 + sum(item.size for item in items), _LARGEST_KEY + 1)
        self.stack.append(_Item(size, _largest(items)))

    def short_tuple(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.tuple_of(items)

    def append(self, items: list[_Item]) -> None:
        target = self.stack[-1]
        if target is not _LEAF:
            target.within = max(target.within, _largest(items))

    def set_items(self, items: list[_Item]) -> None:
        for key in items[::2]:
            if key.size > _LARGEST_KEY:
                raise Unwanted(f"has a key with more than {_LARGEST_KEY} parts")
        self.append(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function.name not in _CALLED:
            raise Unwanted(
                f"calls {function.name.replace(' ', '.') or 'a value'}, which no checkpoint of "
                "weights needs"
            )
        if function.name in _HASHING and arguments.within > _LARGEST_KEY:
            raise Unwanted(f"has a key with more than {_LARGEST_KEY} parts")
        self.new()

    def build(self) -> None:
        self.stack.pop()

    def persistent(self) -> None:
        self.stack.pop()
        self.new()


def _largest(items: list[_Item]) -> int:
    return max((max(item.size, item.within) for item in items), default=0)


_STEPS: dict[str, Callable[[_Scan], None]] = {
    "MARK": _Scan.mark,
    "EMPTY_TUPLE": _Scan.new,
    "EMPTY_LIST": _Scan.new,
    "EMPTY_DICT": _Scan.new,
    "EMPTY_SET": _Scan.new,
    "TUPLE": lambda scan: scan.tuple_of(scan.above_mark()),
    "TUPLE1": lambda scan: scan.short_tuple(1),
    "TUPLE2": lambda scan: scan.short_tuple(2),
    "TUPLE3": lambda scan: scan.short_tuple(3),
    "APPEND": lambda scan: scan.append([scan.stack.pop()]),
    "APPENDS": lambda scan: scan.append(scan.above_mark()),
    "SETITEM": _Scan.set_item,
    "SETITEMS": lambda scan: scan.set_items(scan.above_mark()),
    "REDUCE": _Scan.call,
    "NEWOBJ": _Scan.call,
    "BUILD": _Scan.build,
    "BINPERSID": _Scan.persistent,
}
