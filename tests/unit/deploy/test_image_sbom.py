"""The image's bill of materials names what pip and dpkg name."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "deploy" / "docker"))

from sbom import bill, component, debian_packages, python_packages


def test_every_python_package_is_in_it_once_under_its_index_name():
    command = [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    expected = {
        f"pkg:pypi/{row['name'].lower().replace('_', '-').replace('.', '-')}@{row['version']}"
        for row in listed
        if row["name"] != "dtkd-service"
    }
    found = [package["purl"].replace("%2B", "+") for package in python_packages()]
    assert expected <= set(found)
    assert len(found) == len(set(found))
    torch = next(package for package in python_packages() if package["name"] == "torch")
    assert torch["version"] == importlib.metadata.version("torch")


def test_packages_that_another_one_contains_are_not_the_environments(tmp_path, monkeypatch):
    """As those of setuptools, which it puts into sys.path when it is imported."""
    contained = tmp_path / "torch-0.1.dist-info"
    contained.mkdir()
    (contained / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("torch") == "0.1"
    assert "0.1" not in {one["version"] for one in python_packages() if one["name"] == "torch"}


def test_characters_of_debian_versions_are_escaped_in_addresses():
    (package,) = debian_packages("g++\t4:12.2.0-3\tamd64\n")
    # As the specification of purl has it: a colon may stay, a plus may not.
    assert package["purl"] == "pkg:deb/debian/g%2B%2B@4%3A12.2.0-3?arch=amd64"
    assert (package["name"], package["version"]) == ("g++", "4:12.2.0-3")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not on Debian")
def test_packages_of_debian_are_those_that_dpkg_lists():
    listed = subprocess.run(["dpkg", "-l"], check=True, capture_output=True, text=True).stdout
    expected = {line.split()[1].split(":")[0] for line in listed.splitlines() if line[:2] == "ii"}
    fields = r"-f=${Package}\t${Version}\t${Architecture}\n"
    table = subprocess.run(["dpkg-query", "-W", fields], check=True, capture_output=True, text=True)
    assert expected <= {package["name"] for package in debian_packages(table.stdout)}


def test_it_depends_on_what_is_installed_alone():
    packages = [component("pypi", "b", "1"), component("pypi", "a", "2")]
    document = bill("0.1.0", "abc", packages)
    assert document == bill("0.1.0", "abc", packages[::-1])
    assert document["serialNumber"] != bill("0.1.0", "abd", packages)["serialNumber"]
    assert [package["name"] for package in document["components"]] == ["a", "b"]
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
