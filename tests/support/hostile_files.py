"""Files that no reader of the service may wait for, execute, or repeat in a message."""

import os

SECRET = "canary-91b2"
SECRET_JSON = f'{{"{SECRET}": "{SECRET}"}}'


def make_fifo(path, outside):
    os.mkfifo(path)


def make_folder(path, outside):
    path.mkdir()


def make_device(path, outside):
    path.symlink_to("/dev/zero")


def make_link(path, outside):
    """A symbolic link to JSON outside the folder."""
    outside.write_text(SECRET_JSON)
    path.symlink_to(outside)


def make_huge(path, outside):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def content_maker(content):
    def make(path, outside):
        path.write_bytes(content)

    return make


NOT_FILES = {
    "FIFO": make_fifo,
    "folder": make_folder,
    "device": make_device,
    "link": make_link,
    "huge": make_huge,
}
DAMAGED = {
    name: content_maker(content)
    for name, content in {
        "empty": b"",
        "truncated": b'{"name": "' + SECRET.encode(),
        "deep": b"[" * 100_000,
        "many digits": b'{"step": ' + b"9" * 5000 + b"}\n",
        "UTF-16": '{"step": 1}\n'.encode("utf-16"),
        "null character": b'{"name": "\\u0000"}\n',
        "text": SECRET.encode() + b"\n",
        "object of others": SECRET_JSON.encode() + b"\n",
        "list": f'[["{SECRET}"], {{}}, null]\n'.encode(),
        "number": b"5\n",
    }.items()
}
"""Functions that make the file at a path, by what is wrong with it; test_json_files.py has more."""
