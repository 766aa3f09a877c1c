"""Secrets in URIs: found, to be refused, and replaced in text that is printed or stored.

User names, passwords and signatures belong into the environment: a location is written to logs,
manifests and tracking servers.
"""

import re

MASK = "***"

# The time that each of these takes grows with the length of a text, not with its square.
_SECRET_NAME = (
    r"(?=[\w.-]*(?:passw(?:or)?d|passwd|pwd|token|secret|signature|credential|access_?key"
    r"|api_?key|account_?key|authorization))[\w.-]*+|sig|key|auth|x-(?:amz|goog)-[\w-]++"
)
_UP_TO_LAST_AT = re.compile(r"(?<![^\s'\"])[^\s'\"]*@")
# The user name and password before a host. A path in which two slashes became one still has them; a
# password may contain slashes, but what follows a port is a path.
_USERINFO = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}:)(?P<slashes>//|/(?=[^/\s@]*:))"
    r"(?:[^/\s@'\"]*+|(?=[^/\s@'\"]*:(?!\d++/))[^\s@'\"]*+)@(?:[^/\s@'\"]*+@)*",
    re.IGNORECASE,
)
_QUERY = re.compile(rf"(?P<name>[?&;](?:{_SECRET_NAME})=)(?P<value>[^&#;\s'\"]+)", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}:/", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with ``***`` in place of user names, passwords and signatures of its URIs."""
    if not _SCHEME.search(text):
        return text
    text = _UP_TO_LAST_AT.sub(_without_userinfo, text)
    return _QUERY.sub(rf"\g<name>{MASK}", text)


def _without_userinfo(match: re.Match[str]) -> str:
    return _USERINFO.sub(rf"\g<scheme>\g<slashes>{MASK}@", match[0])


def has_secret(uri: str) -> bool:
    """Whether a URI contains a user name, a password, a token or a signature."""
    return redacted(uri) != uri and MASK not in uri


def secret_remedy(uri: str) -> str:
    """Where the secrets of such a URI belong."""
    scheme = uri.partition(":")[0].lower()
    if scheme in ("s3", "s3a", "s3n"):
        variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif scheme in ("gs", "gcs"):
        variables = "GOOGLE_APPLICATION_CREDENTIALS"
    else:
        variables = (
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for "
            "MLflow, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://"
        )
    return f"remove it, and set {variables} in the environment"
