"""Mutations of bytes: flips, cuts, copies, splices; and of integers, to values at their limits."""

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x0A, 0x22, 0x5B, 0x7B)
MAX_INSERTED = 64
MAX_CHANGES = 4
INTEGERS = (0, 1, 2, -1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63)
FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class IntegerField(NamedTuple):
    """An unsigned integer in a file: position and size in bytes."""

    offset: int
    size: int
    is_big_endian: bool = False


def with_integer(data: bytes, field: IntegerField, value: int) -> bytes:
    """``data`` with the low bits of ``value`` in ``field``; unchanged where it ends before."""
    end = field.offset + field.size
    if end > len(data):
        return data
    order = ">" if field.is_big_endian else "<"
    packed = struct.pack(order + FORMATS[field.size], value % 2 ** (8 * field.size))
    return data[: field.offset] + packed + data[end:]


def integer_of(data: bytes, field: IntegerField) -> int:
    """The value in ``field``."""
    piece = data[field.offset : field.offset + field.size]
    return int.from_bytes(piece, "big" if field.is_big_endian else "little")


def mutate_integer(random: Random, data: bytes, fields: Sequence[IntegerField]) -> bytes:
    """Set one of ``fields`` to a value at a limit, or to a neighbor of its own."""
    field = random.choice(fields)
    near = integer_of(data, field) + random.choice((-8, -1, 1, 8))
    value = random.choice((*INTEGERS, near, len(data), random.getrandbits(8 * field.size)))
    return with_integer(data, field, value)


def mutate_bytes(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change ``data`` in one to MAX_CHANGES places; ``others``: inputs to splice it with."""
    for _ in range(random.randint(1, MAX_CHANGES)):
        data = random.choice(CHANGES)(random, data)
    if others and random.random() < 0.1:
        other = random.choice(others)
        data = data[: _position(random, data)] + other[_position(random, other) :]
    return data


def _position(random: Random, data: bytes) -> int:
    return random.randint(0, len(data))


def _span(random: Random, data: bytes) -> tuple[int, int]:
    """A part of the data: short ones are as frequent as long ones."""
    start = _position(random, data)
    length = min(len(data) - start, int(2 ** (random.random() * 16)))
    return start, start + length


def _flip_bit(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set_byte(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] = random.choice((*BYTES, random.randrange(256)))
    return bytes(changed)


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: _position(random, data)]


def _extend(random: Random, data: bytes) -> bytes:
    return data + random.randbytes(random.randint(1, MAX_INSERTED))


def _remove(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _repeat(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] + data[end:]


def _insert(random: Random, data: bytes) -> bytes:
    position = _position(random, data)
    count = random.randint(1, MAX_INSERTED)
    inserted = random.choice((random.randbytes(count), bytes([random.choice(BYTES)]) * count))
    return data[:position] + inserted + data[position:]


def _zero(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + bytes(end - start) + data[end:]


CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_byte,
    _truncate,
    _extend,
    _remove,
    _repeat,
    _insert,
    _zero,
)
