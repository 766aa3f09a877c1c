"""Which of the lock's packages have known vulnerabilities, by the database OSV.

It has what PyPI's and GitHub's advisories say. API: https://google.github.io/osv.dev/post-v1-querybatch/.
"""

import json
import urllib.error
import urllib.request

URL = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 30.0


class DatabaseUnavailableError(Exception):
    """The database does not answer, or not with what its documentation says."""


def known_vulnerabilities(versions: dict[str, str], url: str = URL) -> dict[str, list[str]]:
    """Ids of the vulnerabilities that each of these versions has, of those that have any.

    Raises:
        DatabaseUnavailableError: saying why.
    """
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": version}
        for name, version in versions.items()
    ]
    request = urllib.request.Request(
        url,
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            results = json.load(answer)["results"]
        found = [[each["id"] for each in result.get("vulns", [])] for result in results]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatabaseUnavailableError(f"{url}: {error}") from error
    if len(found) != len(versions):
        raise DatabaseUnavailableError(f"{url}: {len(found)} answers to {len(versions)} queries")
    return {name: ids for name, ids in zip(versions, found, strict=True) if ids}
