"""The audit of what the image passes on: licenses, the bill of materials, vulnerabilities."""

import http.server
import importlib.metadata
import json
import sys
import threading
from email.message import Message
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "deploy" / "audit"))

import audit  # noqa: E402
from licenses import ALLOWED, STATED, is_allowed, license_of  # noqa: E402
from vulnerabilities import DatabaseUnavailableError, known_vulnerabilities  # noqa: E402


class StrictMessage(Message):
    """As that of the package importlib_metadata, whose finder answers where it was imported."""

    def __getitem__(self, name):
        if name not in self:
            raise KeyError(name)
        return super().__getitem__(name)


def metadata(**fields):
    message = StrictMessage()
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            message[name.replace("_", "-")] = value
    return message


APACHE = "License :: OSI Approved :: Apache Software License"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT", "License": "GPL-3.0"}, "MIT"),
        ({"License": "Apache License, Version 2.0"}, "Apache-2.0"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "Copyright 2018 Somebody\nAll rights", "Classifier": APACHE}, "Apache-2.0"),
        ({"Classifier": ["License :: OSI Approved", APACHE]}, None),
        ({"Classifier": [APACHE, "License :: OSI Approved :: MIT License"]}, "Apache-2.0 AND MIT"),
        ({"License": "GNU General Public License v3"}, None),
        ({"Classifier": "Programming Language :: Python"}, None),
    ],
)
def test_what_metadata_says(fields, expected):
    assert license_of("some-package", metadata(**fields)) == expected


@pytest.mark.parametrize(
    ("name", "expression", "expected"),
    [
        ("a", "MIT AND BSD-3-Clause", True),
        ("a", "GPL-3.0-only OR MIT", True),
        ("a", "GPL-3.0-only AND MIT", False),
        ("a", "MIT OR Apache-2.0 AND GPL-3.0-only", True),
        ("a", "(MIT OR Apache-2.0) AND BSD-3-Clause", True),
        ("a", "(MIT OR Apache-2.0) AND AGPL-3.0-only", False),
        ("nvidia-nccl-cu13", "LicenseRef-NVIDIA-Proprietary", True),
        ("not-nvidia-", "LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_what_may_be_passed_on(name, expression, expected):
    assert is_allowed(name, expression) is expected


def test_the_tables_have_spdx_expressions():
    for expression in (*ALLOWED, *STATED.values()):
        assert canonicalize_license_expression(expression) == expression


def test_every_package_of_the_lock_may_be_passed_on():
    versions = audit.locked_versions(audit.LOCK.read_text())
    assert versions["torch"] == importlib.metadata.version("torch")
    licenses = audit.installed_licenses(versions)
    assert audit.refused(licenses) == []
    # Of projects whose license is well known.
    assert (licenses["numpy"] or "").startswith("BSD-3-Clause")
    assert licenses["mlflow"] == licenses["ray"] == "Apache-2.0"


def test_an_unknown_and_a_refused_license_are_named():
    lines = audit.refused({"a": None, "b": "AGPL-3.0-only", "c": "MIT"})
    assert [line.partition(":")[0] for line in lines] == ["a", "b"]


@pytest.mark.parametrize(("name", "text"), [("torch", "not 0.0"), ("no-such-package", "not inst")])
def test_another_version_than_the_locks_is_named(name, text):
    with pytest.raises(audit.LockMismatchError, match=f"{name}.*{text}"):
        audit.installed_licenses({name: "0.0"})


def test_the_bill_has_each_package_of_a_lock_with_digests(tmp_path, monkeypatch):
    lock = "# a comment\nScikit_Learn==1.9.1 \\\n    --hash=sha256:00\nsix==1.17.0\n"
    versions = audit.locked_versions(lock)
    assert versions == {"scikit-learn": "1.9.1", "six": "1.17.0"}
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    monkeypatch.setattr(audit, "BILL", tmp_path / "build" / "sbom.json")
    audit.write_bill(versions, {"scikit-learn": "BSD-3-Clause", "six": None})
    document = json.loads((tmp_path / "build" / "sbom.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    found = {one["purl"]: one.get("licenses") for one in document["components"]}
    expected = {"pkg:pypi/scikit-learn@1.9.1": [{"expression": "BSD-3-Clause"}]}
    assert found == {**expected, "pkg:pypi/six@1.17.0": None}


@pytest.fixture
def database():
    """A database that answers with ``server.answer`` and keeps the request in ``server.asked``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(self.server.answer).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_vulnerabilities_are_those_that_the_database_has(database):
    database.answer = {"results": [{}, {"vulns": [{"id": "PYSEC-1"}, {"id": "GHSA-2"}]}]}
    found = known_vulnerabilities({"a": "1.0", "b": "2.0"}, url_of(database))
    assert found == {"b": ["PYSEC-1", "GHSA-2"]}
    queries = database.asked["queries"]
    assert queries[1] == {"package": {"ecosystem": "PyPI", "name": "b"}, "version": "2.0"}


@pytest.mark.parametrize("answer", [{}, [], {"results": []}, {"results": [None]}])
def test_an_answer_of_another_form_is_none(database, answer):
    database.answer = answer
    with pytest.raises(DatabaseUnavailableError, match=r"127\.0\.0\.1"):
        known_vulnerabilities({"a": "1.0"}, url_of(database))


def test_an_audit_without_the_database_says_so(monkeypatch, tmp_path, capsys):
    def unavailable(versions):
        raise DatabaseUnavailableError("no answer")

    monkeypatch.setattr(audit, "known_vulnerabilities", unavailable)
    monkeypatch.setattr(audit, "write_bill", lambda *_: None)
    assert audit.main() == 0
    assert capsys.readouterr().out.endswith("vulnerabilities were NOT CHECKED: no answer\n")
    monkeypatch.setattr(audit, "known_vulnerabilities", lambda versions: {"torch": ["GHSA-2"]})
    assert audit.main() == 1
    assert "GHSA-2\n1 findings\n" in capsys.readouterr().out
