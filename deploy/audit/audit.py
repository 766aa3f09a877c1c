"""Audits what the image passes on: licenses, a bill of materials, known vulnerabilities.

Of the locked packages of the runtime, as they are installed here. The bill is in build/sbom.json,
CycloneDX 1.5. Exit status: 0 nothing found, 1 findings, 2 what is installed is not the lock's.
Where the database of vulnerabilities does not answer, the last line says that none were looked for.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from licenses import is_allowed, license_of
from vulnerabilities import DatabaseUnavailableError, known_vulnerabilities

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "deploy" / "requirements" / "runtime.txt"
BILL = ROOT / "build" / "sbom.json"
sys.path.append(str(ROOT / "deploy" / "docker"))

from sbom import bill, component  # noqa: E402

SERVICE = "dtkd-service"


class LockMismatchError(Exception):
    """A package of the lock is not installed, or in another version."""


def locked_versions(lock: str) -> dict[str, str]:
    """Versions by names, as the index compares them, of a lock's lines NAME==VERSION."""
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def installed_licenses(versions: dict[str, str]) -> dict[str, str | None]:
    """The license of each package as it is installed; None where it is not known.

    Raises:
        LockMismatchError: naming the package.
    """
    found = {}
    for name, version in versions.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise LockMismatchError(f"{name}=={version} is not installed") from error
        if distribution.version != version:
            raise LockMismatchError(f"{name} is {distribution.version}, not {version}")
        found[name] = license_of(name, distribution.metadata)  # type: ignore[arg-type]
    return found


def refused(licenses: dict[str, str | None]) -> list[str]:
    """A line for each package that may not be passed on, or about which that is not known."""
    lines = []
    for name, expression in licenses.items():
        if expression is None:
            lines.append(
                f"{name}: its license is not known; read it, and add it to STATED in licenses.py"
            )
        elif not is_allowed(name, expression):
            lines.append(f"{name}: {expression} is not allowed; replace it, or see licenses.py")
    return lines


def write_bill(versions: dict[str, str], licenses: dict[str, str | None]) -> None:
    """Write the bill of materials, with licenses."""
    packages = []
    for name, version in versions.items():
        package = component("pypi", name, version)
        if expression := licenses[name]:
            package["licenses"] = [{"expression": expression}]
        packages.append(package)
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    document = bill(importlib.metadata.version(SERVICE), git.stdout.strip() or "none", packages)
    BILL.parent.mkdir(exist_ok=True)
    BILL.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    """Run the audit and return the exit status."""
    versions = locked_versions(LOCK.read_text())
    try:
        licenses = installed_licenses(versions)
    except LockMismatchError as error:
        print(f"deploy: requirements/runtime.txt: {error}; run make setup", file=sys.stderr)
        return 2
    counts = Counter(expression or "not known" for expression in licenses.values())
    print(f"licenses of {len(versions)} packages:")
    for expression, count in counts.most_common():
        print(f"  {count:3}  {expression}")
    write_bill(versions, licenses)
    print(f"bill of materials: {BILL.relative_to(ROOT)}")
    findings = refused(licenses)
    try:
        vulnerable = known_vulnerabilities(versions)
    except DatabaseUnavailableError as error:
        checked = f"; vulnerabilities were NOT CHECKED: {error}"
    else:
        checked = ""
        findings += [
            f"{name} {versions[name]}: {', '.join(ids)}" for name, ids in vulnerable.items()
        ]
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings{checked}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
