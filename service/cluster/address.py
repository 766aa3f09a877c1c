"""RAY_ADDRESS, checked in seconds: Ray itself tries for more than ten minutes to join a cluster."""

import os
import socket
import time

import grpc
from ray.exceptions import AuthenticationError, RayError

from service.cluster.ray_internals import check_control_service, check_ray, cluster_address
from service.spec.errors import BadInputError, Problem

VARIABLE = "RAY_ADDRESS"
# How long a cluster may take to answer, such as while it starts.
ANSWER_TIMEOUT_S = 10.0
RETRY_PAUSE_S = 0.5
# With these, Ray looks for a cluster of this machine, or starts one.
NO_ADDRESSES = ("", "auto", "local")
START_HERE = f"or {VARIABLE}=local to start one here"


def check_address() -> None:
    """Refuse a RAY_ADDRESS, or a cluster of this machine, that does not answer.

    Raises:
        BadInputError: naming RAY_ADDRESS, or what this release of Ray lacks.
    """
    check_ray()
    given = os.environ.get(VARIABLE, "")
    if "://" in given:
        raise address_error(
            f"{given} is not the address of a cluster's control service",
            "give HOST:PORT, such as 10.0.0.1:6379, from a node of the cluster, or use "
            "ray job submit --address http://HOST:8265",
        )
    host, _, port = given.rpartition(":")
    if given not in NO_ADDRESSES and not (host and port.isdecimal() and int(port) < 1 << 16):
        raise address_error(
            f"{given!r} is not an address", f"give HOST:PORT, such as 10.0.0.1:6379, {START_HERE}"
        )
    try:
        address = cluster_address()
    except (ConnectionError, ValueError, OSError) as error:
        raise address_error(f"{given}: {error}", f"give HOST:PORT, {START_HERE}") from error
    if address is None:
        return
    _check_answer(address, given)
    _check_token(address, given)


def _check_answer(address: str, given: str) -> None:
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    host, _, port = address.rpartition(":")
    while True:
        left_s = max(deadline_s - time.monotonic(), RETRY_PAUSE_S)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left_s):
                break
        except OSError as error:
            if time.monotonic() + RETRY_PAUSE_S > deadline_s:
                raise _no_answer(address, given) from error
            time.sleep(RETRY_PAUSE_S)
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        # With TLS, ray.init() checks that it is Ray that listens.
        return
    # No proxy is meant for the nodes of a cluster.
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    with channel:
        try:
            left_s = max(deadline_s - time.monotonic(), RETRY_PAUSE_S)
            grpc.channel_ready_future(channel).result(timeout=left_s)
        except grpc.FutureTimeoutError as error:
            raise _no_answer(address, given) from error


def _no_answer(address: str, given: str) -> BadInputError:
    if given in NO_ADDRESSES:
        return address_error(
            f"the cluster that was started last on this machine, {address}, does not answer within "
            f"{ANSWER_TIMEOUT_S:.0f} s",
            f"run ray stop, give the address of a cluster as HOST:PORT, {START_HERE}",
        )
    return address_error(
        f"no cluster answers at {given} within {ANSWER_TIMEOUT_S:.0f} s",
        f"start it, give the address of another one as HOST:PORT, {START_HERE}",
    )


def _check_token(address: str, given: str) -> None:
    is_found = given in NO_ADDRESSES
    try:
        check_control_service(address, is_found=is_found)
    except AuthenticationError as error:
        raise token_error(address) from error
    except RayError as error:
        if is_found:
            raise _no_answer(address, given) from error
        raise address_error(
            f"what answers at {address} is not a cluster's control service: {error}",
            "give HOST:PORT of its head node, with the port of ray start, 6379 by default",
        ) from error


def token_error(address: str) -> BadInputError:
    """That a cluster rejects the token of this process, or its lack."""
    return address_error(
        f"the cluster at {address} rejects the token, or there is none",
        "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token",
    )


def address_error(wrong: str, remedy: str) -> BadInputError:
    """An error about RAY_ADDRESS."""
    return BadInputError("environment", [Problem(VARIABLE, wrong, remedy)])
