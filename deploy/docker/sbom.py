"""Prints an image's bill of materials, CycloneDX 1.5 in JSON: the packages of Python and Debian.

It runs in the image, and describes what is installed there. The same image gives the same bytes.
Format: https://cyclonedx.org/docs/1.5/json/. Addresses of packages: purl's types pypi and deb.
"""

import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

SERVICE = "dtkd-service"
ROOT = Path("/opt/dtkd-service")

Component = dict[str, Any]


def component(kind: str, name: str, version: str, qualifiers: str = "") -> Component:
    """A package by its name and version; ``kind``: purl's type, with a namespace if it has one."""
    purl = f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe='')}{qualifiers}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_packages() -> list[Component]:
    """What this Python's environment has, without the service itself."""
    # Not sys.path: setuptools puts the packages that it contains there, of other versions.
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = {
        distribution.metadata["Name"]: distribution.version
        for distribution in importlib.metadata.distributions(path=folders)
    }
    # In purl, names are those that the index compares.
    return [
        component("pypi", name.lower().replace("_", "-").replace(".", "-"), version)
        for name, version in found.items()
        if name != SERVICE
    ]


def debian_packages(table: str) -> list[Component]:
    """Those of ``table``, lines of dpkg-query: name, version and architecture, apart by tabs."""
    rows = [line.split("\t") for line in table.splitlines()]
    return [
        component("deb/debian", name, version, f"?arch={architecture}")
        for name, version, architecture in rows
    ]


def bill(version: str, revision: str, packages: list[Component]) -> dict[str, Any]:
    """The document about ``version`` of the service, built of the commit ``revision``."""
    packages = sorted(packages, key=lambda package: str(package["purl"]))
    subject = component("generic", SERVICE, version) | {"type": "container"}
    subject["properties"] = [{"name": "git:revision", "value": revision}]
    content = json.dumps([subject, *packages], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": subject},
        "components": packages,
    }


def main() -> None:
    """Print the bill of materials of the image in which this runs."""
    fields = r"-f=${Package}\t${Version}\t${Architecture}\n"
    query = subprocess.run(
        ["dpkg-query", "-W", fields], check=True, stdout=subprocess.PIPE, text=True
    )
    document = bill(
        importlib.metadata.version(SERVICE),
        (ROOT / "REVISION").read_text().strip(),
        [*python_packages(), *debian_packages(query.stdout)],
    )
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
