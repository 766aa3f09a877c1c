"""A cluster is started here where Ray cannot store its token in the home directory."""

import errno
import os

import pytest

from service.cluster import connection


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_token_is_passed_in_the_environment(monkeypatch, code):
    tokens = []

    def init(**_):
        tokens.append(os.environ.get("RAY_AUTH_TOKEN"))
        if tokens[-1] is None:
            raise OSError(code, os.strerror(code), "/nonexistent/.ray")

    # Set first, so that it is removed again after the test.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "before")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(connection.ray, "init", init)
    connection.connect()
    assert tokens[0] is None
    assert len(tokens[1]) == 64
    assert len(tokens) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ETIMEDOUT])
def test_other_failures_are_not_retried_with_another_token(monkeypatch, code):
    def init(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("RAY_AUTH_TOKEN", "before")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(connection.ray, "init", init)
    with pytest.raises(OSError, match=os.strerror(code)):
        connection.connect()
    assert os.environ["RAY_AUTH_TOKEN"] == "before"
