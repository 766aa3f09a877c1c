"""Mutations of JPEGs by their segments: sizes, tables, scans and restart intervals."""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from fuzz.mutators import INTEGERS, IntegerField, integer_of, mutate_bytes, with_integer

START, END = b"\xff\xd8", b"\xff\xd9"
DHT, DQT, DRI, SOS = 0xC4, 0xDB, 0xDD, 0xDA
# Baseline to lossless, Huffman and arithmetic; C4, C8 and CC are no frames.
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
WITHOUT_LENGTH = (*range(0xD0, 0xD8), 0x01)
SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 255, 4096, 32767, 32768, 65500, 65535)


class Segment(NamedTuple):
    """``payload``: without the two bytes of its length. ``scan``: what follows a SOS."""

    marker: int
    payload: bytes
    scan: bytes = b""


def segments_of(data: bytes) -> list[Segment]:
    """The segments of a JPEG up to its end, or up to what is no segment."""
    found, position = [], len(START)
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != END[1]:
        marker = data[position + 1]
        end = position + 2
        if marker not in WITHOUT_LENGTH:
            end += int.from_bytes(data[end : end + 2], "big")
        payload, scan = data[position + 4 : end], b""
        if marker == SOS:
            position, end = end, _scan_end(data, end)
            scan = data[position:end]
        found.append(Segment(marker, payload, scan))
        position = end
    return found


def _scan_end(data: bytes, position: int) -> int:
    """Where the next marker is that is no restart marker."""
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        if data[position + 1] != 0 and data[position + 1] not in WITHOUT_LENGTH:
            return position
        position += 1
    return len(data)


def joined(segments: Sequence[Segment]) -> bytes:
    """The JPEG with these segments."""
    parts = [START]
    for marker, payload, scan in segments:
        length = (len(payload) + 2).to_bytes(3, "big")[-2:]
        parts += [bytes([0xFF, marker]), length, payload, scan]
    return b"".join([*parts, END])


def frame_size(data: bytes) -> tuple[int, int]:
    """Height and width in the first frame's header; 1 x 1 where there is none."""
    for segment in segments_of(data):
        if segment.marker in FRAMES and len(segment.payload) >= 5:
            return _number(segment.payload, 1), _number(segment.payload, 3)
    return 1, 1


def _number(payload: bytes, offset: int) -> int:
    return integer_of(payload, IntegerField(offset, 2, is_big_endian=True))


def mutate_jpeg(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change the segments of a JPEG, or its bytes, or both."""
    if random.random() < 0.3:
        return mutate_bytes(random, data, others)
    segments = segments_of(data)
    for _ in range(random.randint(1, 3)):
        if segments:
            random.choice(CHANGES)(random, segments)
    changed = joined(segments)
    return mutate_bytes(random, changed, others) if random.random() < 0.1 else changed


def _index_of(random: Random, segments: list[Segment], markers: Sequence[int]) -> int:
    """The position of a segment of one of the kinds, or of any where there is none."""
    found = [index for index, each in enumerate(segments) if each.marker in markers]
    return random.choice(found) if found else random.randrange(len(segments))


def _change_size(random: Random, segments: list[Segment]) -> None:
    index = _index_of(random, segments, FRAMES)
    field = IntegerField(random.choice((1, 3)), 2, is_big_endian=True)
    payload = with_integer(segments[index].payload, field, random.choice(SIZES))
    segments[index] = segments[index]._replace(payload=payload)


def _change_frame(random: Random, segments: list[Segment]) -> None:
    """Precision, number of components, and their ids, sampling factors and tables."""
    index = _index_of(random, segments, FRAMES)
    field = IntegerField(random.choice((0, *range(5, 18))), 1)
    value = random.choice((*INTEGERS, 0x11, 0x12, 0x14, 0x21, 0x22, 0x41, 0x44, 3, 4, 12))
    payload = with_integer(segments[index].payload, field, value)
    segments[index] = segments[index]._replace(payload=payload)


def _change_kind(random: Random, segments: list[Segment]) -> None:
    index = _index_of(random, segments, FRAMES)
    segments[index] = segments[index]._replace(marker=random.choice(FRAMES))


def _change_table(random: Random, segments: list[Segment]) -> None:
    """Numbers of codes, symbols, or table ids."""
    index = _index_of(random, segments, (DHT, DQT))
    payload = bytearray(segments[index].payload)
    for _ in range(random.randint(1, 4)):
        if payload:
            place = random.randrange(min(len(payload), random.choice((1, 17, 400))))
            payload[place] = random.choice((0, 1, 2, 15, 16, 128, 255, random.randrange(256)))
    segments[index] = segments[index]._replace(payload=bytes(payload))


def _change_scan_header(random: Random, segments: list[Segment]) -> None:
    index = _index_of(random, segments, (SOS,))
    payload = bytearray(segments[index].payload)
    if payload:
        value = random.choice((0, 1, 2, 3, 4, 0x10, 0x11, 0x22, 0x33, 63, 64, 255))
        payload[random.randrange(len(payload))] = value
    segments[index] = segments[index]._replace(payload=bytes(payload))


def _change_scan(random: Random, segments: list[Segment]) -> None:
    index = _index_of(random, segments, (SOS,))
    scan = mutate_bytes(random, segments[index].scan)
    if random.random() < 0.3:
        place = random.randint(0, len(scan))
        marker = bytes([0xFF, random.choice((*WITHOUT_LENGTH, 0xD9, 0xDA, 0xC4, 0xFF, 0x00))])
        scan = scan[:place] + marker + scan[place:]
    segments[index] = segments[index]._replace(scan=scan)


def _set_restart_interval(random: Random, segments: list[Segment]) -> None:
    interval = random.choice((0, 1, 2, 3, 7, 255, 65535)).to_bytes(2, "big")
    segments.insert(_index_of(random, segments, (SOS,)), Segment(DRI, interval))


def _repeat(random: Random, segments: list[Segment]) -> None:
    segment = random.choice(segments)
    segments.insert(random.randint(0, len(segments)), segment)


def _repeat_scan(random: Random, segments: list[Segment]) -> None:
    """Many scans: each of them costs a decoder the time of a complete image."""
    segment = segments[_index_of(random, segments, (SOS,))]
    segments.extend([segment] * random.choice((1, 10, 1000)))


def _remove(random: Random, segments: list[Segment]) -> None:
    del segments[random.randrange(len(segments))]


def _exchange(random: Random, segments: list[Segment]) -> None:
    first, second = random.randrange(len(segments)), random.randrange(len(segments))
    segments[first], segments[second] = segments[second], segments[first]


CHANGES: tuple[Callable[[Random, list[Segment]], None], ...] = (
    _change_size,
    _change_frame,
    _change_kind,
    _change_table,
    _change_table,
    _change_scan_header,
    _change_scan,
    _change_scan,
    _change_scan,
    _set_restart_interval,
    _repeat,
    _repeat_scan,
    _remove,
    _exchange,
)
