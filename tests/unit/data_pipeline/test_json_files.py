"""JSON from disk: what is read, and what is refused with the place and the remedy."""

import socket

import pytest
from support.hostile_files import NOT_FILES, SECRET

from data_pipeline.json_files import UnusableFileError, parse_json, read_json


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b'\xef\xbb\xbf{"a": [1, -2.5, "\\ud83d\\ude00", null]}',
            {"a": [1, -2.5, "\U0001f600", None]},
        ),
        (b"[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        (b'{"a": {}, "b": {"a": 1}}', {"a": {}, "b": {"a": 1}}),
    ],
)
def test_json_is_read(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json", 1000, object) == expected


@pytest.mark.parametrize(
    ("content", "where", "wrong"),
    [
        (b"", "line 1, column 1", "is not JSON"),
        (b'{"a": 1,\n "b"}', "line 2, column 5", "is not JSON"),
        (b"\0\0", "line 1, column 1", "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "byte 0", "is not UTF-8"),
        (b'{"a": "\xff"}', "byte 7", "is not UTF-8"),
        (nested(51), "0.0.0.0.0", "nested more than 50"),
        (nested(100_000), "$", "nested more than 50"),
        (b'{"a":' * 100_000, "$", "nested more than 50"),
        (b"[" + b"{}," * 2_000_000 + b"0]", "", "more than 2,000,000 values"),
        (b'{"a": {"b": [0, ' + b"9" * 5000 + b"]}}", "a.b.1", "over 64 bits"),
        (b'{"a": 9223372036854775808}', "a", "over 64 bits"),
        (b'{"a": 1e999}', "a", "not finite"),
        (b'{"a": [NaN]}', "a.0", "not finite"),
        (b'{"a": -Infinity}', "a", "not finite"),
        (b'{"a": "b\\u0000"}', "a", "null character"),
        (b'{"a": {"b\\u0000": 1}}', "a.b\\x00", "null character"),
        (b'{"\xc3\xa9\\u001b": {"a": 1, "a": 1}, "b": NaN}', "a", "is given twice"),
        (b'{"\xc3\xa9\\u001b": NaN}', "\u00e9\\x1b", "not finite"),
        (b'{"' + b"x" * 1000 + b'": NaN}', "x" * 200, "not finite"),
        (b'{"a": "\\udc80"}', "a", "surrogate"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "b", "is given twice"),
        (b"[1]", "$", "is not a JSON object"),
        (b"null", "$", "is not a JSON object"),
    ],
)
def test_other_content_is_refused(tmp_path, content, where, wrong):
    with pytest.raises(UnusableFileError, match=r"a\.json: .*; ") as caught:
        parse_json(content, tmp_path / "a.json", dict)
    assert caught.value.where.startswith(where)
    assert wrong in caught.value.wrong


def test_numbers_may_be_nan_where_a_reader_says_so(tmp_path):
    found = parse_json(b'{"a": [NaN, Infinity]}', tmp_path / "a.json", dict, allow_nan=True)
    assert repr(found) == "{'a': [nan, inf]}"


def test_largest_file_is_read_and_a_larger_one_is_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('"' + "x" * 98 + '"')
    assert read_json(path, 100, object) == "x" * 98
    with pytest.raises(UnusableFileError, match="has more than 99 bytes"):
        read_json(path, 99, object)


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("follow_links", [True, False])
def test_only_regular_files_are_read(tmp_path, kind, follow_links):
    path = tmp_path / "a.json"
    NOT_FILES[kind](path, tmp_path / "outside")
    if kind == "link" and follow_links:
        assert read_json(path, 1000, dict, follow_links=True) == {SECRET: SECRET}
        return
    with pytest.raises(UnusableFileError) as caught:
        read_json(path, 1000, dict, follow_links=follow_links)
    expected = {"device": "a device" if follow_links else "a symbolic link", "huge": "1,000 bytes"}
    assert expected.get(kind, kind.removeprefix("link") or "a symbolic link") in str(caught.value)


def test_socket_and_impossible_path_are_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(UnusableFileError, match="is a socket"):
            read_json(tmp_path / "socket", 100, dict)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(UnusableFileError, match="is no path"):
            read_json(tmp_path / name, 100, dict)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing", 100, dict)
