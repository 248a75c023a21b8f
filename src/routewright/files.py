"""Writes files and folders so that a crash leaves the old content or the new one, and reads files
that somebody else may have written.

Every writer of a result goes through `replacing`; every reader of JSON that may be hostile through
`read_json`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from routewright.errors import BadInput

PARTIAL = ".partial"
DEEPEST = 64  # nested lists and objects of a JSON file
LONGEST = 1 << 24  # bytes of a JSON file that is read whole
LARGEST = 1 << 63  # of a whole number in a JSON file
RENAME_EXCHANGE = 2
ATTEMPTS, PAUSE = 100, 0.01  # of a reader, while a folder is not in its place; seconds between


def relative(path: Path, folder: Path) -> str:
    """The path of a file from a folder; links among the folders that lead to them do not matter."""
    return os.path.relpath(path.parent.resolve() / path.name, folder.resolve())


# --- writing -------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file by one with this content. Raises BadInput if it cannot be written."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raises BadInput if a file (or `folder`) cannot be written at `path`; leaves nothing behind.
    For commands that work long before they write."""
    wrong = path.is_file() if folder else path.is_dir()
    if wrong:
        exists, other = ("a file", "a folder") if folder else ("a folder", "a file")
        raise BadInput(f"'{path}' cannot be written: it is {exists}; name {other}")
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a device or a pipe
    parents = path.absolute().parents
    ancestor = next((parent for parent in parents if parent.exists()), parents[-1])
    if not ancestor.is_dir():
        raise BadInput(f"'{path}' cannot be written: '{ancestor}' is a file; name another place")
    try:
        tempfile.TemporaryFile(dir=ancestor).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"'{path}' cannot be written: {reason}") from error


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Gives the path of a new file (or `folder`) to write, which replaces `path` at the end.

    Whatever happens meanwhile, `path` is the old file or the whole new one: the new one is written
    beside it under a hidden name, synced to disk and renamed. What a crash leaves under such a name
    is deleted by the next call. A device or pipe at `path` is written to directly. Raises BadInput
    if the file system refuses.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "report.json"
    >>> with replacing(path) as partial:
    ...     _ = partial.write_text("{}")
    >>> [file.name for file in path.parent.iterdir()]
    ['report.json']
    """
    try:
        target = path.resolve() if path.is_symlink() or path.name in ("", "..") else path
        if not folder and target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not folder and target.exists() and not target.is_file():
            yield target
            return
        with _partial(target, folder) as partial:
            yield partial
            _sync(partial)
            _commit(partial, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"'{path}' cannot be written: {reason}") from error


@contextmanager
def adding(folder: Path, last: str) -> Iterator[Path]:
    """Gives a temporary folder; at the end its files move into `folder`, the file `last` last.

    A crash leaves whole files, and the one by which a reader knows the folder only after the rest.
    """
    with _partial(folder, folder=True) as partial:
        yield partial
        _sync(partial)
        folder.mkdir(exist_ok=True)
        for path in sorted(partial.iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
        _sync_one(folder)


@contextmanager
def _partial(target: Path, folder: bool) -> Iterator[Path]:
    """An empty file or folder beside the target, which is locked, and deleted at the end."""
    new = [parent for parent in (target.parent, *target.parent.parents) if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in new:
        _sync_one(parent.parent)
    clean(target)
    partial, handle = _create(target, folder)
    try:
        with suppress(FileNotFoundError):
            shutil.copymode(target, partial)
        yield partial
    finally:
        _delete(partial)
        if handle is not None:
            os.close(handle)  # and with it the lock


def _create(target: Path, folder: bool) -> tuple[Path, int | None]:
    """A new file or folder and the handle that locks it. As long as the lock is held, `clean` of
    another process leaves it alone."""
    while True:
        partial = target.with_name(f"{_start(target)}{secrets.token_hex(4)}{PARTIAL}")
        try:
            if folder:
                partial.mkdir()
            else:
                os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        if sys.platform == "win32":
            return partial, None
        with suppress(FileNotFoundError):  # another process took it for a leftover
            handle = _locked(partial)
            if handle is not None and partial.exists():
                return partial, handle
            if handle is not None:
                os.close(handle)


def clean(target: Path) -> None:
    """Deletes what writers of the target left beside it when they were killed."""
    if sys.platform == "win32":
        return
    for name in os.listdir(target.parent):
        leftover = target.with_name(name)
        if name.startswith(_start(target)) and name.endswith(PARTIAL) and leftover != aside(target):
            with suppress(OSError):
                handle = _locked(leftover)
                if handle is not None:
                    _delete(leftover)
                    os.close(handle)


def _locked(path: Path) -> int | None:
    """An open handle with a lock on the file or folder; None if another process has the lock."""
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # a file system without locks
        pass
    return handle


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _commit(partial: Path, target: Path) -> None:
    """Puts the new file or folder in the target's place, and syncs the parent folder."""
    if partial.is_dir():
        _commit_folder(partial, target)
    else:
        os.replace(partial, target)
    _sync_one(target.parent)


def _commit_folder(partial: Path, target: Path) -> None:
    """Swaps the two folders; where the system cannot, the old one is at `aside(target)` for a
    moment, where `read_folder` finds it."""
    with _one_at_a_time(target.parent):
        if not target.exists():
            os.replace(partial, target)
        elif not _exchange(partial, target):
            _delete(aside(target))
            os.rename(target, aside(target))
            os.rename(partial, target)
        _delete(aside(target))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Only one process at a time renames folders in this folder."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (Linux); False where the system cannot."""
    if sys.platform != "linux":
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    here = -100  # AT_FDCWD: relative paths start at the working directory
    names = os.fsencode(one), os.fsencode(other)
    if function(here, names[0], here, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code))


def aside(target: Path) -> Path:
    """Where a folder is while a new one takes its place, on systems that cannot swap the two."""
    return target.with_name(f"{_start(target)}aside{PARTIAL}")


def _start(target: Path) -> str:
    """The start of the names of the target's temporary files."""
    return f".{target.name[:200]}."


def _sync(path: Path) -> None:
    """Syncs a file, or a folder with everything in it, to disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this file system has no such thing
            raise
    finally:
        os.close(handle)


# --- reading -------------------------------------------------------------------------------


def read(path: Path, most: int, at: int | None = None) -> bytes:
    """The content of a regular file of at most so many bytes; `at` is the handle of its folder.

    Raises BadInput for a folder, a pipe or a device, and for a larger file, and OSError if it
    cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path.name if at is not None else path, flags, dir_fd=at)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise BadInput(f"'{path}' is not a regular file")
        if facts.st_size > most:
            limit = f"{most >> 20:,} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
            raise BadInput(f"'{path}' is larger than {limit}")
        with open(handle, "rb", closefd=False) as file:
            return file.read(facts.st_size)
    finally:
        os.close(handle)


def memory() -> int:
    """The bytes of this machine's memory; a larger file cannot be read whole."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 36


def read_folder(folder: Path, files: Mapping[str, int]) -> list[bytes]:
    """The contents of files of one folder, of at most so many bytes each.

    All are from the same version of the folder, even if it is replaced meanwhile. Raises as `read`.
    """
    if os.open not in os.supports_dir_fd:
        return [read(folder / name, most) for name, most in files.items()]
    while True:
        handle = _open_folder(folder.resolve())
        try:
            return [read(folder / name, most, at=handle) for name, most in files.items()]
        except FileNotFoundError:
            if not _is_replaced(folder, handle):
                raise
        finally:
            os.close(handle)


def _open_folder(folder: Path) -> int:
    """A handle of the folder, wherever its writer has put it at the moment."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    for attempt in range(ATTEMPTS):
        for place in (folder, aside(folder)):
            with suppress(FileNotFoundError):
                return os.open(place, flags)
        if attempt and not _is_being_written(folder):
            break
        time.sleep(PAUSE)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _is_replaced(folder: Path, handle: int) -> bool:
    """Whether the opened folder is not in its place any more."""
    try:
        return os.stat(folder).st_ino != os.fstat(handle).st_ino
    except OSError:
        return True


def _is_being_written(folder: Path) -> bool:
    try:
        names = os.listdir(folder.parent)
    except OSError:
        return False
    return any(name.startswith(_start(folder)) and name.endswith(PARTIAL) for name in names)


def read_json(path: Path, most: int = LONGEST) -> Any:
    """The value in a JSON file; see `parse_json`. Raises BadInput, and OSError as `read`."""
    return parse_json(read(path, most), f"'{path}'")


def parse_json(content: bytes, name: str) -> Any:
    """A value from JSON that may be hostile: every number is finite, whole ones have at most 63
    bits, and it is at most DEEPEST levels deep. Raises BadInput with the `name` of the file."""
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=not_json,
            parse_float=finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise BadInput(f"{name} is nested too deeply: at most {DEEPEST} levels") from error
    except ValueError as error:
        raise BadInput(f"{name} is not JSON: {error}") from error
    level, depth = [value], 0
    while level := [item for one in level for item in _children(one)]:
        depth += 1
        if depth > DEEPEST:
            raise BadInput(f"{name} is nested too deeply: at most {DEEPEST} levels")
    return value


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays in a safetensors file. Raises BadInput if it is damaged or missing."""
    try:
        return parse_arrays(read(path, memory()), path)
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}") from error


def parse_arrays(content: bytes, path: Path) -> dict[str, Any]:
    """The arrays in the content of a safetensors file. Raises BadInput if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"'{path}' is damaged ({str(error)[:200]})") from error


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def not_json(word: str) -> NoReturn:
    """Refuses NaN and Infinity, for `json.loads`. Raises ValueError."""
    raise ValueError(f"{word[:40]} is not a number that JSON has")


def finite(text: str) -> float:
    """The number; refuses one such as 1e999, which is infinite. Raises ValueError."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is not a JSON number: it is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= LARGEST:
        raise ValueError(f"the number {text[:20]} is too large")
    return number
