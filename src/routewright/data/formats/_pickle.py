"""Reads a pickled pandas table without executing it, and without pandas.

A pickle is a program that can call any function. This reader replaces each allowed function by an
inert `Shell`, which only stores its arguments, and refuses every other name. It then reads the
numbers and texts from the shells. The layout is that of pandas 1.3 to 3
(`DataFrame.__getstate__`, `BlockManager.__reduce__`, `Block.__reduce__`) and of NumPy
(`ndarray.__reduce__` and `__reduce_ex__`).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from routewright.errors import BadTable

ALLOWED = {  # top package ▶ names that a pickled table needs
    "pandas": (
        *("DataFrame", "BlockManager", "_unpickle_block", "_new_Index", "Index", "RangeIndex"),
        *("Int64Index", "StringArray", "StringDtype", "__pyx_unpickle_NDArrayBacked", "NA"),
    ),
    "numpy": ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"),
    "builtins": ("slice",),
    "__builtin__": ("slice",),
    "_codecs": ("encode",),
}
NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class Shell:
    """Replaces a function or class of pandas or NumPy; it only stores its arguments and state."""

    kind = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Shell:
        shell = super().__new__(cls)
        shell.args, shell.state = args, None
        return shell

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Unpickler(pickle.Unpickler):
    """Loads the names in ALLOWED as shells. Raises BadTable for every other name."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module.partition(".")[0], ()):
            raise BadTable(
                f"'{self.path}' asks to load '{module}.{name}', which no pickled table needs:"
                " refused, nothing of it was run; if you trust the file, save it as CSV yourself"
            )
        return type(name, (Shell,), {"kind": name})


def columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a pickled DataFrame, as plain numbers and texts; missing values are None.

    Raises BadTable if the file does not exist, is not such a pickle or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _columns(Unpickler(file, path).load())
    except BadTable:
        raise
    except FileNotFoundError as error:
        raise BadTable(f"no file '{path}': check the path") from error
    except Exception as error:  # malformed bytes can raise anything
        raise BadTable(
            f"'{path}' is not a pickled pandas table that can be read: {error}"
        ) from error


def _columns(root: Any) -> dict[str, list[Any]]:
    match root:
        case Shell(
            kind="DataFrame",
            state={"_mgr": Shell(kind="BlockManager", args=(blocks, (index, _)))},
        ):
            names = _index(index)
            rows = {names[place]: row for block in blocks for place, row in _block(block)}
            return {name: rows[name] for name in names}
    raise ValueError(f"{_kind(root)} is not a DataFrame as pandas 1.3 to 3 write it")


def _index(index: Any) -> list[str]:
    match index:
        case Shell(kind="_new_Index", args=(_, {"data": data})):
            return [str(name) for name in _rows(data)[0]]
    raise ValueError(f"its columns are {_kind(index)}")


def _block(block: Any) -> list[tuple[int, list[Any]]]:
    """Pairs of a column's position and its values."""
    match block:
        case Shell(kind="_unpickle_block", args=(values, Shell(kind="slice", args=bounds), _)):
            return list(zip(range(*bounds), _rows(values), strict=True))
        case Shell(kind="_unpickle_block", args=(values, places, _)):
            return list(zip(_rows(places)[0], _rows(values), strict=True))
    raise ValueError(f"a block is {_kind(block)}")


def _rows(array: Any) -> list[list[Any]]:
    """The rows of an array of one or two dimensions; the rows of a block are table columns."""
    match array:
        case Shell(kind="_frombuffer", args=(data, dtype, shape, order)):
            return _numbers(data, dtype, shape, order)
        case Shell(kind="_reconstruct", state=(_, shape, _, _, list() as cells)):
            return _objects(cells, shape)
        case Shell(kind="_reconstruct", state=(_, shape, dtype, fortran, data)):
            return _numbers(data, dtype, shape, "F" if fortran else "C")
        case Shell(kind="__pyx_unpickle_NDArrayBacked", state=(_, inner)):
            return _rows(inner)
    raise ValueError(f"some values are {_kind(array)}")


def _numbers(data: Any, dtype: Any, shape: Sequence[int], order: Any) -> list[list[Any]]:
    array = np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order=order)
    rows: list[list[Any]] = np.atleast_2d(array).tolist()
    return rows


def _objects(cells: list[Any], shape: Sequence[int]) -> list[list[Any]]:
    height, width = (1, *shape)[-2:]
    if height * width != len(cells):
        raise ValueError(f"{len(cells)} values do not fill an array of shape {tuple(shape)}")
    plain = [_plain(cell) for cell in cells]
    return [plain[row * width : (row + 1) * width] for row in range(height)]


def _plain(cell: Any) -> Any:
    match cell:
        case None | str() | int() | float() | list():
            return cell
        case Shell(kind="scalar", args=(dtype, data)):
            return np.frombuffer(_bytes(data), _dtype(dtype))[0].item()
        case type() if cell.__name__ == "NA":
            return None
    raise ValueError(f"a value is {_kind(cell)}")


def _dtype(dtype: Any) -> np.dtype[Any]:
    match dtype:
        case Shell(kind="dtype", args=(code, *_), state=(_, order, *_)) if code in NUMBERS:
            plain: np.dtype[Any] = np.dtype(code)
            return plain.newbyteorder(order)
    raise ValueError(f"some values are of type {getattr(dtype, 'args', (dtype,))[0]}")


def _bytes(data: Any) -> bytes:
    match data:
        case bytes() | bytearray():
            return bytes(data)
        case Shell(kind="encode", args=(str() as text, "latin1")):
            return text.encode("latin1")
    raise ValueError(f"some numbers are {_kind(data)}")


def _kind(value: Any) -> str:
    return str(getattr(value, "kind", "") or type(value).__name__)
