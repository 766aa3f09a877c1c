"""Reads the structure of a pickle without executing anything in it.

A pickle is a program that may call any function. Here its classes and functions stay names: a call
becomes an inert record. What calls are known, such as those that make tensors, is the caller's.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

# A file with 3,000 tensors has about 100,000; some have a history of losses beside.
MAX_OPERATIONS = 2_000_000
MAX_PICKLE_BYTES = 32_000_000


class PickleError(ValueError):
    """A pickle that cannot be read; the message says why."""


class TooLongError(PickleError):
    """A pickle that is longer than the limits."""


class Name(NamedTuple):
    """A class or function that a pickle refers to, such as torch._utils._rebuild_tensor_v2."""

    path: str


class Record:
    """An object that a pickle makes by a call that is not known; ``path``: of what it calls."""

    def __init__(self, path: str):
        self.path = path


Call = Callable[[str, tuple[Any, ...]], Any]
"""What a call makes: its path and its arguments to a value, or to a ``Record``."""


def read_pickle(stream: IO[bytes], call: Call, persistent: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - any structure
    """The structure of the pickle at the stream's position, which is left behind it.

    ``persistent``: what a persistent id stands for; its argument is the id.

    Raises:
        PickleError: it is damaged, longer than any state dict's, or ``call`` or ``persistent``
            raised this.
    """
    machine = _Machine(call, persistent)
    try:
        limited = cast(IO[bytes], _Limited(stream))
        for number, (opcode, argument, _) in enumerate(pickletools.genops(limited)):
            if number > MAX_OPERATIONS:
                raise TooLongError(f"has a pickle of more than {MAX_OPERATIONS:,} operations")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except PickleError:
        raise
    except Exception as error:  # damage shows in many ways, whose messages are Python's own
        raise PickleError("has a pickle that cannot be read") from error


class _Limited:
    """A stream that is read up to the limit: a pickle's operations say how long they are."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._num_left = stream, MAX_PICKLE_BYTES

    def read(self, num_bytes: int) -> bytes:
        """As many bytes, or fewer at the end of the file."""
        return self._count(self._stream.read(num_bytes) if num_bytes <= self._num_left else None)

    def readline(self) -> bytes:
        """Up to the next newline."""
        return self._count(self._stream.readline(self._num_left + 1))

    def _count(self, content: bytes | None) -> bytes:
        if content is None or len(content) > self._num_left:
            raise TooLongError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes")
        self._num_left -= len(content)
        return content


class _Machine:
    """The stack and the memo of a pickle's operations."""

    def __init__(self, call: Call, persistent: Callable[[Any], Any]):
        self._call, self._persistent = call, persistent
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:  # noqa: ANN401 - any argument
        """Execute one operation, in the terms of ``pickletools``."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _WITH_VALUE:
            self.stack.append(argument)
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"has a pickle with the operation {name}")

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _mark(self, _: object) -> None:
        self._marks.append(len(self.stack))

    def _put(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else int(number)] = self.stack[-1]

    def _get(self, number: int) -> None:
        self.stack.append(self._memo[int(number)])

    def _list(self, _: object) -> None:
        self.stack.append(self._pop_to_mark())

    def _append(self, _: object) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def _tuple(self, _: object) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _last_as_tuple(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def _set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self, _: object) -> None:
        self._set(self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys may be nested deeply, and name no tensors.
            if isinstance(target, dict) and isinstance(key, str | int):
                target[key] = value

    def _dict(self, _: object) -> None:
        values = self._pop_to_mark()
        self.stack.append({})
        self._set(values)

    def _frozen_set(self, _: object) -> None:
        self._pop_to_mark()
        self.stack.append(Record("builtins.frozenset"))

    def _global(self, path: str) -> None:
        self.stack.append(Name(path.replace(" ", ".")))

    def _stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(f"{module}.{name}")

    def _reduce(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        path = function.path if isinstance(function, Name) else "an unknown object"
        self.stack.append(self._call(path, tuple(arguments)))

    def _new_with_keywords(self, _: object) -> None:
        self.stack.pop()
        self._reduce(None)

    def _instance(self, path: str) -> None:
        self._pop_to_mark()
        self.stack.append(Record(path.replace(" ", ".")))

    def _object(self, _: object) -> None:
        values = self._pop_to_mark()
        self.stack.append(Record(values[0].path))

    def _reference(self, argument: object) -> None:
        self.stack.append(self._persistent(argument))

    def _reference_on_stack(self, _: object) -> None:
        self.stack.append(self._persistent(self.stack.pop()))

    def _duplicate(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def _drop(self, _: object) -> None:
        self.stack.pop()

    def _drop_to_mark(self, _: object) -> None:
        self._pop_to_mark()


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Record("builtins.set"),
}
_WITH_VALUE = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"),
}
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._put,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "LIST": _Machine._list,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._last_as_tuple(1),
    "TUPLE2": lambda machine, _: machine._last_as_tuple(2),
    "TUPLE3": lambda machine, _: machine._last_as_tuple(3),
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozen_set,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_with_keywords,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    # Drops the state of an object: state dicts and tensors have none.
    "BUILD": _Machine._drop,
    "PERSID": _Machine._reference,
    "BINPERSID": _Machine._reference_on_stack,
    "DUP": _Machine._duplicate,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_to_mark,
}
