"""Tells a tracking server that refuses a run for good from one that is away for a while."""

import requests
from mlflow.exceptions import InvalidUrlException, MlflowException
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

# MLflow's error codes of requests that fail the same way each time. Its default, INTERNAL_ERROR, is
# also that of a server that does not answer.
PERMANENT_CODES = frozenset(
    {
        "UNAUTHENTICATED",
        "CUSTOMER_UNAUTHORIZED",
        "PERMISSION_DENIED",
        "ENDPOINT_NOT_FOUND",
        "NOT_FOUND",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_ALREADY_EXISTS",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "BAD_REQUEST",
        "NOT_IMPLEMENTED",
    }
)
# The same, without a code of their own.
PERMANENT_TEXTS = (
    "database schema",
    "not in a valid JSON format",
    "file is not a database",
    "unable to open database file",
    "attempt to write a readonly database",
    "credential configuration failed",
    "CERTIFICATE_VERIFY_FAILED",
)
# HTTP statuses of requests that fail because of the moment, among those that say that a request is
# wrong: timeout, conflict, too early, too many.
TEMPORARY_STATUSES = frozenset({408, 409, 425, 429})
REMEDIES = {
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "use an account that may write to the experiment",
    "ENDPOINT_NOT_FOUND": "give the address of an MLflow server",
}
REMEDIES["CUSTOMER_UNAUTHORIZED"] = REMEDIES["UNAUTHENTICATED"]
DEFAULT_REMEDY = "give an MLflow server, http(s)://host:port, or sqlite:///path/mlflow.db"
# What urllib3 says after the last try.
NO_CONNECTION = "Max retries exceeded"
MAX_REASON_LENGTH = 300


def is_refusal(error: Exception) -> bool:
    """Whether the same request would fail in the same way later."""
    if isinstance(error, InvalidUrlException | ImportError | ArgumentError | NoSuchModuleError):
        return True
    if isinstance(error, MlflowException) and error.error_code in PERMANENT_CODES:
        return True
    if isinstance(error, requests.HTTPError) and error.response is not None:
        # What answers requests for artifacts, which may be another server, such as an object store.
        status = error.response.status_code
        return 400 <= status < 500 and status not in TEMPORARY_STATUSES
    return any(text in str(error) for text in PERMANENT_TEXTS)


def reason_of(error: Exception) -> str:
    """What the server said, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 3] + "..."


def remedy_of(error: Exception) -> str:
    """What would be right, for an error that is a refusal."""
    if "database schema" in str(error):
        return "run mlflow db upgrade with this version of MLflow, or use another database"
    return REMEDIES.get(getattr(error, "error_code", ""), DEFAULT_REMEDY)


def unanswered_text(uri: str, error: Exception) -> str:
    """Why a script has nothing from its server, and what to do; without a client's own words.

    A server that cannot be reached has said nothing, and what its client says is long.
    """
    if is_refusal(error):
        return f"MLflow at {uri} refuses it ({reason_of(error)}); {remedy_of(error)}"
    reason = "" if NO_CONNECTION in str(error) else f" ({reason_of(error)})"
    remedy = "start it, or give another --tracking-uri"
    return f"MLflow at {uri} does not answer{reason}; {remedy}"


def server_error_text(error: Exception) -> str:
    """How a log line says what is wrong: the server refuses, or does not answer, and why."""
    verb = "refuses the run" if is_refusal(error) else "does not answer"
    return f"{verb} ({reason_of(error)})"
