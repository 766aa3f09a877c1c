"""Mutations of JSON by its structure: other types and values, fields that are missing or twice."""

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from fuzz.mutators import mutate_bytes

MAX_CHANGES = 3
DEPTHS = (60, 2_000, 100_000)

# JSON texts, some of which are none.
TEXTS = (
    "null", "true", "false", "0", "-0", "1", "-1", "2", "0.5", "1e-320", "1e308", "1e400", "-1e400",
    "NaN", "Infinity", "-Infinity", "2147483648", "4294967296", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "1" + "0" * 400, "1" + "0" * 5_000,
    "[]", "{}", "[[]]", "[null]", "[0, 1]", '{"": null}', '{"kind": []}', '{"kind": "sgd"}',
    '""', '" "', '"."', '".."', '"/"', '"../../outside"', '"/dev/zero"', '"/dev/stdin"',
    '"~nobody/x"',
    '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00x"', '"\\u001b[2J"', '"a\\nb"', '"\\u2028"',
    '"s3://"', '"gs://b/"', '"file:///etc/passwd"', '"http://["', '"cifar:"', '"torchvision:"',
    '"runs:/"', '"models:/m-"', '"1"', '"1e9"', '"nan"',
    '"' + "a" * 300 + '"', '"' + "a" * 100_000 + '"',
    '"' + "\u00e4" * 200 + '"',
)  # fmt: skip


class Raw(NamedTuple):
    """A text that is written as it is."""

    text: str


class Object(list[tuple[str, Any]]):
    """Fields in order; a name may be there twice."""


def mutate_json(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a JSON document by its structure, or its bytes; or some lines of JSON."""
    if random.random() < 0.2:
        return mutate_bytes(random, data, others)
    if b"\n{" in data:
        return mutate_json_lines(random, data, others)
    tree = json.loads(data, object_pairs_hook=Object)
    for _ in range(random.randint(1, MAX_CHANGES)):
        tree = _changed(random, tree)
    changed = _text(tree).encode("utf-8", "surrogatepass")
    return mutate_bytes(random, changed, others) if random.random() < 0.1 else changed


def mutate_json_lines(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change some lines of JSON; lines are also repeated, exchanged and cut."""
    lines = data.splitlines(keepends=True)
    for _ in range(random.randint(1, MAX_CHANGES)):
        if not lines:
            break
        index = random.randrange(len(lines))
        kind = random.randrange(5)
        if kind == 0:
            lines.insert(random.randint(0, len(lines)), lines[index])
        elif kind == 1:
            del lines[index]
        elif lines[index].strip().startswith(b"{"):
            lines[index] = _mutated_line(random, lines[index])
    return (
        mutate_bytes(random, b"".join(lines), others) if random.random() < 0.1 else b"".join(lines)
    )


def _mutated_line(random: Random, line: bytes) -> bytes:
    try:
        return mutate_json(random, line.strip(), ()) + b"\n"
    except (ValueError, RecursionError):
        # Changed before: no longer JSON, or too deep.
        return mutate_bytes(random, line)


def _changed(random: Random, tree: Any) -> Any:
    """The tree with one change at a random place."""
    places = [*_places(tree)]
    if not places:
        return _other_value(random, tree)
    container, index = random.choice(places)
    random.choice(CHANGES)(random, container, index)
    return tree


def _places(node: Any) -> Iterator[tuple[list[Any], int]]:
    """All values of objects and lists, as the container and the position in it."""
    if not isinstance(node, list):
        return
    for index in range(len(node)):
        yield node, index
        yield from _places(_value(node, index))


def _value(container: list[Any], index: int) -> Any:
    return container[index][1] if isinstance(container, Object) else container[index]


def _set(container: list[Any], index: int, value: Any) -> None:
    container[index] = (container[index][0], value) if isinstance(container, Object) else value


def _other_value(random: Random, value: Any) -> Any:
    kind = random.randrange(12)
    if kind == 0:
        opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
        depth = random.choice(DEPTHS)
        return Raw(opening * depth + "0" + closing * depth)
    if kind == 1 and isinstance(value, str):
        position = random.randint(0, len(value))
        return value[:position] + random.choice("\0\n/.\ud800 \u00e9:%") + value[position:]
    if kind == 2 and isinstance(value, int | float):
        return Raw(repr(value * random.choice((-1, 2, 10, 1.5)) + random.choice((-1, 0, 1))))
    if kind == 3:
        return [value]
    if kind == 4:
        return Raw("[" + ",".join(["0"] * random.choice((100, 20_000))) + "]")
    return Raw(random.choice(TEXTS))


def _replace(random: Random, container: list[Any], index: int) -> None:
    _set(container, index, _other_value(random, _value(container, index)))


def _remove(random: Random, container: list[Any], index: int) -> None:
    del container[index]


def _duplicate(random: Random, container: list[Any], index: int) -> None:
    container.insert(random.randint(0, len(container)), container[index])


def _rename(random: Random, container: list[Any], index: int) -> None:
    if isinstance(container, Object):
        name, value = container[index]
        other = random.choice(container)[0]
        names = (
            f"{name}x",
            name.upper(),
            "",
            "__class__",
            "\ud800",
            "a.b",
            "\n",
            other,
            "a" * 5_000,
        )
        container[index] = (random.choice(names), value)


def _exchange(random: Random, container: list[Any], index: int) -> None:
    other = random.randrange(len(container))
    value = _value(container, index)
    _set(container, index, _value(container, other))
    _set(container, other, value)


def _add(random: Random, container: list[Any], index: int) -> None:
    if isinstance(container, Object):
        container.append(("unknown", _other_value(random, 0)))
    else:
        container.append(_other_value(random, 0))


CHANGES: tuple[Callable[[Random, list[Any], int], None], ...] = (
    _replace,
    _replace,
    _replace,
    _replace,
    _remove,
    _duplicate,
    _rename,
    _exchange,
    _add,
)


def _text(node: Any) -> str:
    if isinstance(node, Raw):
        return node.text
    if isinstance(node, Object):
        return "{" + ", ".join(f"{json.dumps(k)}: {_text(v)}" for k, v in node) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(_text, node)) + "]"
    return json.dumps(node, ensure_ascii=isinstance(node, str) and "\ud800" in node)
