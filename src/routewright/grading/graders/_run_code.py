"""Runs one piece of code and its tests, apart from each other; started by `code.py` as a process.

Two processes run here. The *answer* executes the code that an expert wrote. The *tester* executes
the tests, and reaches the answer's functions and objects through proxies over a socket: plain
values (numbers, texts, lists, …) travel by value, everything else stays with the answer and is
named by a number. Only the tester can write the outcome, and the answer never sees the tests, so
an answer can neither write its own grade nor look up what is expected.

The tester reads {setup, code, tests, seconds, megabytes} from standard input and prints
{error, tests, note} as JSON. Nothing of Routewright is imported here.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import time
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

LONGEST = 1 << 26  # bytes of one message between the two processes
DEEPEST = 60  # nested calls between the two processes
FORBIDDEN = (
    *("socket.", "subprocess.", "ctypes.", "urllib.", "ftplib.", "smtplib.", "http."),
    *("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill", "os.killpg"),
    *("os.chown", "os.mkfifo", "os.link", "os.symlink", "shutil.chown", "pty."),
)
ATOMS = (type(None), bool, int, float, str)
SEQUENCES: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
MAPPINGS: dict[str, Any] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
    "defaultdict": dict,
}
TEXTS = {  # made again from arguments; module ▶ types
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "datetime": ("date", "time", "datetime", "timedelta"),
}


class NotShared(Exception):
    """The tests need what the two processes cannot share: this says nothing of the answer."""


class Gone(BaseException):
    """The other process has ended."""


def main() -> None:
    mine, theirs = socket.socketpair()
    answer = os.fork()  # before the tests are read: the answer's memory never held them
    if answer == 0:
        mine.close()
        run_answer(theirs)
        os._exit(0)
    theirs.close()
    not_readable_by_others()
    task = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    silence(0, 1, 2)
    out.write(json.dumps(run_tests(mine, task, answer)) + "\n")
    out.flush()
    os._exit(0)


# --- the answer ----------------------------------------------------------------------------


def run_answer(connection: socket.socket) -> None:
    silence(0, 1, 2)
    peer = Peer(connection)
    first = peer.receive()
    limit(first["seconds"], first["megabytes"])
    ends_with_its_parent()
    confine(writable=os.getcwd())
    filter_system_calls()
    sys.addaudithook(refuse)
    scope: dict[str, Any] = {"__name__": "answer"}
    try:
        exec(compile(first["code"], "answer.py", "exec"), scope)
    except BaseException as error:
        peer.send({"error": describe(error)})
        return
    peer.send({"names": {n: peer.pack(v) for n, v in scope.items() if n != "__builtins__"}})
    peer.serve()


def silence(*streams: int) -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in streams:
        os.dup2(quiet, stream)


def refuse(event: str, args: tuple[object, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not allowed here")


def limit(seconds: int, megabytes: int) -> None:
    size = megabytes * 2**20
    for what, most, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, size, size),
        (resource.RLIMIT_FSIZE, 2**20, 2**20),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        with suppress(ValueError, OSError):  # macOS knows no limit on memory
            resource.setrlimit(what, (most, hard))


# --- the tests -----------------------------------------------------------------------------


def run_tests(connection: socket.socket, task: dict[str, Any], answer: int) -> dict[str, Any]:
    peer = Peer(connection, trusted=True)
    limit(task["seconds"], task["megabytes"])
    confine(writable=os.getcwd())
    code = f"{task.get('setup') or ''}\n{task['code']}"
    try:
        peer.send({"code": code, "seconds": task["seconds"], "megabytes": task["megabytes"]})
        reply = peer.receive()
    except Gone:
        return {"error": ended(answer, task["seconds"]), "tests": []}
    if "names" not in reply:
        return {"error": str(reply.get("error"))[:500], "tests": []}
    names = visible(reply["names"], task["tests"])
    scope: dict[str, Any] = {"__name__": "tests"}
    scope |= {name: peer.unpack(reply["names"][name]) for name in names}
    scope |= modules(task.get("setup") or "")
    results: list[str | None] = []
    note: str | None = None
    for test in task["tests"]:
        try:
            exec(compile(test, "test.py", "exec"), scope)
        except NotShared as error:
            note = note or str(error)
            results.append(f"NotShared: {error}")
        except Gone:
            results.append(ended(answer, task["seconds"]))
        except BaseException as error:
            results.append(describe(error))
        else:
            results.append(None)
    return {"error": None, "tests": results, "note": note}


def visible(names: Iterable[str], tests: Sequence[str]) -> list[str]:
    """The answer's names that tests see. One like `sorted` hides the builtin only where the tests
    use no other name of the answer: an answer must not choose what the tests compare with."""
    used = {word for test in tests for word in re.findall(r"[^\W\d]\w*", test)}
    plain = [name for name in names if name[:2] != "__" and not hasattr(builtins, name)]
    if used & set(plain):
        return plain
    return plain + [name for name in names if hasattr(builtins, name) and name[:1] != "_"]


def modules(setup: str) -> dict[str, types.ModuleType]:
    """The modules of Python and NumPy that the item's `setup` imports, as the tester's own.

    The answer could name a class of its own `math`, whose `isclose` is always true.
    """
    scope: dict[str, Any] = {}
    with suppress(SyntaxError, ValueError):
        for line in ast.parse(setup).body:
            if isinstance(line, ast.Import | ast.ImportFrom):
                with suppress(Exception):  # then the answer, which imports it too, has failed
                    exec(compile(ast.Module([line], []), "setup.py", "exec"), scope)
    return {
        name: value
        for name, value in scope.items()
        if isinstance(value, types.ModuleType)
        and value.__name__.partition(".")[0] in {*sys.stdlib_module_names, "numpy"}
    }


def ended(answer: int, seconds: int) -> str:
    """Why the answer's process is gone."""
    for _ in range(100):
        with suppress(ChildProcessError):
            pid, status = os.waitpid(answer, os.WNOHANG)
            if pid and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
                return f"took more than {seconds} s"
            if pid:
                return f"ended early (exit code {os.waitstatus_to_exitcode(status)})"
        time.sleep(0.01)
    return "ended early"


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


# --- values and proxies --------------------------------------------------------------------


class Peer:
    """One end of the socket. The tester (`trusted`) may use the answer's objects in every way; the
    answer may only call what the tester handed to it, a key function say."""

    def __init__(self, connection: socket.socket, trusted: bool = False) -> None:
        self.connection, self.trusted, self.depth = connection, trusted, 0
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.proxies: dict[int, Any] = {}

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        try:
            self.connection.sendall(struct.pack("!I", len(data)) + data)
        except OSError as error:
            raise Gone from error

    def receive(self) -> Any:
        (size,) = struct.unpack("!I", self._read(4))
        if size > LONGEST:
            raise NotShared("a value is too large to be compared")
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise Gone from error

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.connection.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise Gone from error
            if not piece:
                raise Gone
            data += piece
        return bytes(data)

    # -- asking, and answering what the other asks meanwhile

    def ask(self, operation: str, target: int, *args: Any, **named: Any) -> Any:
        if self.depth >= DEEPEST:
            raise RecursionError("maximum recursion depth exceeded")
        message = {
            "do": operation,
            "on": target,
            "args": [self.pack(arg) for arg in args],
            "named": {name: self.pack(arg) for name, arg in named.items()},
        }
        self.depth += 1
        try:
            self.send(message)
            while "do" in (reply := self.receive()):
                self.answer(reply)
        finally:
            self.depth -= 1
        if "raised" in reply:
            raise self.unpack_error(reply["raised"])
        for arg, after in zip(args, reply.get("after", ()), strict=False):
            update(arg, None if after is None else self.unpack(after))
        return self.unpack(reply["value"])

    def serve(self) -> None:
        with suppress(Gone):
            while True:
                self.answer(self.receive())

    def answer(self, message: dict[str, Any]) -> None:
        args = [self.unpack(arg) for arg in message["args"]]
        named = {name: self.unpack(arg) for name, arg in message["named"].items()}
        operation = message["do"]
        try:
            target = self.objects[message["on"]]
            if self.trusted and operation not in ("call", "next"):
                raise PermissionError("the tests' own objects can only be called")
            value = self.pack(OPERATIONS[operation](target, *args, **named))
            after = [self.pack(arg) if isinstance(arg, MUTABLE) else None for arg in args]
        except BaseException as error:
            if isinstance(error, Gone | NotShared):
                raise
            self.send({"raised": self.pack_error(error)})
        else:
            self.send({"value": value, "after": after})

    # -- packing

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if kind in (type(None), bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else {"int": hex(value)}
        if kind is float:
            return {"float": value.hex()}
        if kind is complex:
            return {"complex": [value.real.hex(), value.imag.hex()]}
        if kind in (bytes, bytearray):
            return {kind.__name__: value.hex()}
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
            return {kind.__name__: [self.pack(item) for item in value]}
        if kind in (dict, OrderedDict, Counter, defaultdict):
            pairs = [[self.pack(key), self.pack(item)] for key, item in value.items()]
            return {kind.__name__: pairs}
        if kind.__name__ in TEXTS.get(kind.__module__, ()):
            return {"made": [kind.__module__, kind.__name__, remade(value)]}
        if isinstance(value, types.ModuleType) and value.__name__ in sys.stdlib_module_names:
            return {"module": value.__name__}
        if kind.__module__ == "numpy" and hasattr(value, "tolist"):
            return {"array": [str(value.dtype), self.pack(value.tolist())]}
        if isinstance(value, type) and value.__module__ == "builtins":
            return {"builtin": value.__name__}
        if value is Ellipsis or value is NotImplemented:
            return {"builtin": repr(value)}
        if isinstance(value, Remote):
            return {"yours": object.__getattribute__(value, "_number")}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": [value.__name__, builtin_base(value), self.number(value)]}
        return {"object": [self.number(value), kind.__name__]}

    def number(self, value: Any) -> int:
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept, so that its id stays its own
        return self.numbers[id(value)]

    def unpack(self, packed: Any) -> Any:
        if not isinstance(packed, dict):
            return packed
        ((kind, value),) = packed.items()
        if kind == "int":
            return int(value, 16)
        if kind == "float":
            return float.fromhex(value)
        if kind == "complex":
            return complex(*map(float.fromhex, value))
        if kind in ("bytes", "bytearray"):
            return bytes.fromhex(value) if kind == "bytes" else bytearray.fromhex(value)
        if kind == "range":
            return range(*value)
        if kind in SEQUENCES:
            return SEQUENCES[kind](self.unpack(item) for item in value)
        if kind in MAPPINGS:
            return MAPPINGS[kind]({self.unpack(k): self.unpack(v) for k, v in value})
        if kind == "made":
            module, name, args = value
            if name not in TEXTS.get(module, ()):
                raise NotShared(f"a value of {module}.{name}")
            return getattr(import_module(module), name)(*args)
        if kind == "module":
            if value not in sys.stdlib_module_names or value in ("antigravity", "this"):
                raise NotShared(f"module {value}")
            return import_module(value)
        if kind == "array":
            dtype, items = value
            numpy: Any = import_module("numpy")
            made = numpy.array(self.unpack(items), dtype=None if dtype == "object" else dtype)
            return made[()] if made.ndim == 0 else made
        if kind == "builtin":
            named = getattr(builtins, value, None)
            if not isinstance(named, type) and value not in ("Ellipsis", "NotImplemented"):
                raise NotShared(f"builtin {value}")
            return named
        if kind == "yours":
            return self.objects[value]
        if kind == "exception":
            return self.exception(*value)
        if kind == "object":
            number, name = value
            if number not in self.proxies:
                self.proxies[number] = Remote(self, number, name)
            return self.proxies[number]
        raise NotShared(f"a value of kind {kind}")

    def exception(self, name: str, base: str, number: int) -> Any:
        """The answer's exception class as one of our own: tests name it in `except`."""
        if number not in self.proxies:
            parent = getattr(builtins, base, None)
            if not (isinstance(parent, type) and issubclass(parent, BaseException)):
                raise NotShared(f"exception {name}")
            self.proxies[number] = type(str(name), (parent,), {"__module__": "answer"})
        return self.proxies[number]

    def pack_error(self, error: BaseException) -> Any:
        kind = type(error)
        args = [self.pack(arg) if type(arg) in ATOMS else str(arg) for arg in error.args]
        if kind.__module__ == "builtins":
            return {"class": {"builtin": kind.__name__}, "args": args}
        return {"class": self.pack(kind), "args": args}

    def unpack_error(self, packed: Any) -> BaseException:
        cls = self.unpack(packed["class"])
        args = [self.unpack(arg) for arg in packed["args"]]
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            return RuntimeError(*args)
        if issubclass(cls, SystemExit | KeyboardInterrupt | GeneratorExit):
            return RuntimeError(cls.__name__, *args)
        with suppress(Exception):
            return cls(*args)
        return RuntimeError(cls.__name__, *args)


MUTABLE = (list, dict, set, bytearray, deque)


def remade(value: Any) -> list[Any]:
    """The arguments that make it again."""
    name = type(value).__name__
    if name in ("Decimal", "Fraction"):
        return [str(value)]
    if name == "timedelta":
        return [value.days, value.seconds, value.microseconds]
    fields: tuple[str, ...] = ("year", "month", "day") if name in ("date", "datetime") else ()
    fields += ("hour", "minute", "second", "microsecond") if name != "date" else ()
    return [getattr(value, field) for field in fields]


def builtin_base(cls: type) -> str:
    return next(c.__name__ for c in cls.__mro__ if c.__module__ == "builtins")


def update(value: Any, after: Any) -> None:
    """What the answer changed in place is changed here too."""
    if after is None or type(value) is not type(after) or value == after:
        return
    if isinstance(value, list | bytearray):
        value[:] = after
    elif isinstance(value, dict | set | deque):
        value.clear()
        value.extend(after) if isinstance(value, deque) else value.update(after)


def plain(value: Any) -> Any:
    """What an object of a class derived from a builtin one is as such: a named tuple as a tuple."""
    bases: tuple[Any, ...] = (int, float, str, bytes, tuple, list, dict, set, frozenset)
    for base in bases:
        if isinstance(value, base) and type(value) is not base:
            return base(value)
    return NotImplemented


OPERATIONS: dict[str, Any] = {
    "call": lambda target, *args, **named: target(*args, **named),
    "next": next,
    "iter": iter,
    "plain": plain,
    "get": getattr,
    "set": setattr,
    "repr": repr,
    "str": str,
    "len": len,
    "bool": bool,
    "instance": lambda target, value: isinstance(value, target),
    "subclass": lambda target, value: issubclass(value, target),
    "enter": lambda target: target.__enter__(),
    "exit": lambda target: target.__exit__(None, None, None),
}
FORWARDED = (
    *("getitem", "setitem", "delitem", "contains", "int", "float", "index", "abs", "neg", "pos"),
    *("invert", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv"),
    *("mod", "pow", "matmul", "and", "or", "xor", "lt", "le", "gt", "ge", "iadd", "isub", "imul"),
    *("round", "reversed", "format", "bytes", "complex", "hash"),
)
# An object that is told the right number by `abs(f() - 2.5) < 1e-6` could return what passes.
MEASURING = ("sub", "rsub", "lt", "le", "gt", "ge")
for _name in FORWARDED:
    OPERATIONS[_name] = lambda target, *args, _name=f"__{_name}__": (
        getattr(target, _name)(*args) if hasattr(target, _name) else NotImplemented
    )


class Remote:
    """An object that lives in the other process."""

    def __init__(self, peer: Peer, number: int, kind: str) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __getattribute__(self, name: str) -> Any:
        if name in ("_peer", "_number", "_kind", "__class__", "__dict__", "__reduce_ex__"):
            return object.__getattribute__(self, name)
        if name == "__mro_entries__":
            raise NotShared("a test derives a class from one of the answer's")
        return self._peer.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self._number, name, value)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._peer.ask("call", self._number, *args, **named)

    def __eq__(self, other: object) -> bool:
        """An object of the answer equals nothing of the tests, but for the builtin value that it
        is: an answer whose objects say that they equal everything must not pass."""
        if not isinstance(other, Remote):
            return bool(self._peer.ask("plain", self._number) == other)
        return bool(self._peer.ask("get", self._number, "__eq__")(other) is True)

    def __hash__(self) -> int:
        return hash(self._peer.ask("hash", self._number))

    def __instancecheck__(self, value: Any) -> bool:
        return bool(self._peer.ask("instance", self._number, value))

    def __subclasscheck__(self, value: Any) -> bool:
        return bool(self._peer.ask("subclass", self._number, value))

    def __repr__(self) -> str:
        return str(self._peer.ask("repr", self._number))

    def __str__(self) -> str:
        return str(self._peer.ask("str", self._number))

    def __len__(self) -> int:
        return int(self._peer.ask("len", self._number))

    def __bool__(self) -> bool:
        return bool(self._peer.ask("bool", self._number))

    def __iter__(self) -> Any:
        return self._peer.ask("iter", self._number)

    def __next__(self) -> Any:
        return self._peer.ask("next", self._number)

    def __enter__(self) -> Any:
        return self._peer.ask("enter", self._number)

    def __exit__(self, *_: Any) -> None:
        self._peer.ask("exit", self._number)


def _forward(name: str) -> Any:
    def operate(self: Remote, *args: Any) -> Any:
        if name in MEASURING and any(is_number(arg) for arg in args):
            own = self._peer.ask("plain", self._number)
            if own is NotImplemented:
                raise NotShared("a test measures an object of the answer with a number")
            return getattr(own, f"__{name}__")(*args)
        return self._peer.ask(name, self._number, *args)

    return operate


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex) or hasattr(value, "__float__")


for _name in FORWARDED:
    if _name != "hash":
        setattr(Remote, f"__{_name}__", _forward(_name))


# --- what the system holds back ------------------------------------------------------------


def not_readable_by_others() -> None:
    """The answer may not read or stop the tester through /proc or ptrace."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def confine(writable: str) -> bool:
    """Landlock (Linux 5.13 and later): files of Python and the system's libraries can be read,
    `writable` can be written, no program can be started, no TCP connection made, no process
    outside be signalled. False where the kernel has none."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    files = (1 << 13) - 1
    files |= (1 << 13) if version >= 2 else 0  # moving between folders
    files |= (1 << 14) if version >= 3 else 0  # truncating
    network = 3 if version >= 4 else 0  # binding and connecting
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals
    rules = struct.pack("QQQ", files, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = libc.syscall(444, ctypes.c_char_p(rules), ctypes.c_size_t(size), 0)
    if handle < 0:
        return False
    reading = (1 << 2) | (1 << 3)  # files and folders
    allowed = [(path, reading) for path in (*readable_folders(), "/dev/null", "/dev/urandom")]
    write = files & ~1  # everything but executing
    for path, access in (*allowed, ("/dev/null", reading | 2), (writable, write)):
        with suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not os.path.isdir(path):
                access &= (1 << 1) | (1 << 2) | (1 << 14)  # what a file can have
            rule = struct.pack("=Qi", access & files, place)
            libc.syscall(445, handle, 1, ctypes.c_char_p(rule), 0)
            os.close(place)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    confined = libc.syscall(446, handle, 0) == 0
    os.close(handle)
    return bool(confined)


def ends_with_its_parent() -> None:
    """The answer is killed when the tester ends, even if it has left its process group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


# The numbers of the refused system calls.
REFUSED = {
    "x86_64": (
        *(57, 58, 59, 322),  # fork, vfork, execve, execveat
        *(41, 101, 310, 311, 438),  # socket, ptrace, process_vm_readv, …_writev, pidfd_getfd
        *(112, 109, 200, 424, 434),  # setsid, setpgid, tkill, pidfd_send_signal, pidfd_open
        *(272, 308, 165, 161, 425, 321),  # unshare, setns, mount, chroot, io_uring_setup, bpf
        *(298, 323, 304),  # perf_event_open, userfaultfd, open_by_handle_at
        *(248, 249, 250),  # add_key, request_key, keyctl
        *(29, 64, 68, 240),  # shmget, semget, msgget, mq_open
    ),
    "aarch64": (
        *(221, 281),
        *(198, 117, 270, 271, 438),
        *(157, 154, 130, 424, 434),
        *(97, 268, 40, 51, 425, 280),
        *(241, 282, 265),
        *(217, 218, 219),
        *(194, 190, 186, 180),
    ),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KILL, TGKILL, CLONE, CLONE3, PRCTL = (62, 129), (234, 131), (56, 220), (435, 435), (157, 167)
CLONE_THREAD = 0x10000


def filter_system_calls() -> bool:
    """Seccomp: no process can be started or signalled, and no socket of any kind be opened. False
    where the kernel has none, or on another processor."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return False
    column = list(ARCHITECTURES).index(machine)
    error, allow = 0x00050000, 0x7FFF0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
    load, jump, above, ask, result = 0x20, 0x15, 0x35, 0x45, 0x06  # of the BPF machine
    number, architecture, argument = 0, 4, 16  # offsets in its input, seccomp_data
    code = [
        (load, 0, 0, architecture),
        (jump, 1, 0, ARCHITECTURES[machine]),
        (result, 0, 0, error | 1),
        (load, 0, 0, number),
        (above, 0, 1, 0x40000000),  # the second set of system calls of x86-64
        (result, 0, 0, error | 1),
        (jump, 0, 1, CLONE3[column]),
        (result, 0, 0, error | 38),  # ENOSYS: the C library uses clone instead
    ]
    for refusal in REFUSED[machine]:
        code += [(jump, 0, 1, refusal), (result, 0, 0, error | 1)]
    for call, test, value, when in (
        (KILL, jump, os.getpid(), True),
        (TGKILL, jump, os.getpid(), True),
        (CLONE, ask, CLONE_THREAD, True),
        (PRCTL, jump, 1, False),  # PR_SET_PDEATHSIG
    ):
        passes, fails = (1, 0) if when else (0, 1)
        code += [
            (jump, 0, 4, call[column]),
            (load, 0, 0, argument),
            (test, passes, fails, value),
            (result, 0, 0, error | 1),
            (result, 0, 0, allow),
        ]
    code.append((result, 0, 0, allow))
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    return bool(libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0)  # PR_SET_SECCOMP


def readable_folders() -> list[str]:
    """Where Python, its packages and the system's libraries lie."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(os.path.isabs, sys.path)}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
    return [path for path in (*sorted(places), *system) if path != "/" and os.path.exists(path)]


if __name__ == "__main__":
    main()
