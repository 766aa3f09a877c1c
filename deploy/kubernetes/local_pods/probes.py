"""Probes of containers, as a kubelet makes them."""

import contextlib
import http.client
import time
from collections.abc import Callable

from checks.manifests import Document
from podman_engine import CommandError

Run = Callable[[list[str]], object]


def wait_until_started(
    container: Document, address: str, run: Run, check_running: Callable[[], None]
) -> None:
    """Repeat the startup probe until it succeeds, and then make the others.

    ``run``: runs a command in the container. ``check_running``: raises if it has ended.

    Raises:
        CommandError: it has not started in the time that its probes allow, or another fails.
    """
    start_s = time.monotonic()
    probe = container["startupProbe"]
    limit_s = probe["periodSeconds"] * probe["failureThreshold"]
    while not succeeds(probe, container, address, run):
        if time.monotonic() - start_s > limit_s:
            raise CommandError(f"{container['name']}: has not started in {limit_s} s")
        check_running()
        time.sleep(1)
    check_health(container, address, run)


def check_health(container: Document, address: str, run: Run) -> None:
    """Make the readiness and the liveness probe, as often as these may fail.

    Raises:
        CommandError: one fails.
    """
    for name in ("readinessProbe", "livenessProbe"):
        probe = container[name]
        for _ in range(probe.get("failureThreshold", 3)):
            if succeeds(probe, container, address, run):
                break
            time.sleep(1)
        else:
            raise CommandError(f"{container['name']}: its {name} fails")


def succeeds(probe: Document, container: Document, address: str, run: Run) -> bool:
    """Whether a probe succeeds, by HTTP to the pod's address or by a command in the container."""
    if "exec" in probe:
        with contextlib.suppress(CommandError):
            run(probe["exec"]["command"])
            return True
        return False
    port = probe["httpGet"]["port"]
    if isinstance(port, str):
        (port,) = (p["containerPort"] for p in container["ports"] if p["name"] == port)
    connection = http.client.HTTPConnection(address, port, timeout=probe.get("timeoutSeconds", 1))
    try:
        connection.request("GET", probe["httpGet"]["path"])
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
