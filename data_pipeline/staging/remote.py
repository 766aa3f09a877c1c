"""Reads files in an object store or on a shared mount, with errors that name the remedy.

Credentials and endpoints come only from the environment, so that no spec contains a secret:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, and
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for s3://; GOOGLE_APPLICATION_CREDENTIALS, and
STORAGE_EMULATOR_HOST for a store with Google's protocol, for gs://.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow.fs as arrow_fs

from data_pipeline.files import is_remote
from data_pipeline.json_files import UnusableFileError, read_bounded

CONNECT_TIMEOUT_S = 2.5
# The store's client tries twice: a dead endpoint takes about twice this time.
ANSWER_TIMEOUT_S = 5.0

_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId",
            "SignatureDoesNotMatch", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED",
            "UNAUTHENTICATED", "OAuth2 access token")  # fmt: skip
_UNREACHABLE = ("NETWORK_CONNECTION", "curlCode", "CURL error", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_OTHER_REGION = ("HTTP status 301", "HTTP status 307", "PermanentRedirect")


class StagingError(ValueError):
    """A dataset that cannot be copied to the node; the message names the file and the remedy."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as pyarrow addresses it; safe to read from several threads.

    ``location`` is as in a spec; ``path`` is its path within ``filesystem``.
    """

    location: str
    filesystem: arrow_fs.FileSystem
    path: str

    def num_bytes(self) -> int:
        """Size in bytes now.

        Raises:
            StagingError: no such file, access refused, or no answer.
        """
        try:
            info = self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise explain(self.location, error) from error
        if info.type != arrow_fs.FileType.File:
            raise self._missing()
        return int(info.size)

    def read(self, limit_bytes: int) -> bytes:
        """The content of a small file, of at most ``limit_bytes``.

        Raises:
            StagingError: no such file, access refused, or no answer.
            UnusableFileError: it is larger, or no regular file.
        """
        try:
            if not is_remote(self.location):
                return read_bounded(Path(self.path), limit_bytes, follow_links=True)
            with self.filesystem.open_input_file(self.path) as stream:
                content = bytes(stream.read(limit_bytes + 1))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise self._missing() from error
        except OSError as error:
            raise explain(self.location, error) from error
        if len(content) > limit_bytes:
            wrong = f"has more than {limit_bytes:,} bytes"
            raise UnusableFileError(Path(self.location), "", wrong, "give the file that was meant")
        return content

    def read_range(self, offset: int, num_bytes: int) -> bytes:
        """Bytes from ``offset`` on; fewer than ``num_bytes`` if the file ends before.

        Each call opens the file again: a shared handle would serialize the reads of gs://, and
        would keep a broken connection.

        Raises:
            OSError: the read failed; another attempt may succeed. See ``explain``.
        """
        with self.filesystem.open_input_file(self.path) as stream:
            return bytes(stream.read_at(num_bytes, offset))

    def _missing(self) -> StagingError:
        """The error for a missing file, or bucket: stores answer "no such key" for both."""
        if is_remote(self.location):
            bucket = self.path.split("/", 1)[0]
            try:
                kind = self.filesystem.get_file_info(bucket).type
            except OSError:
                kind = None  # credentials may allow reading files but not the bucket's information
            if kind == arrow_fs.FileType.NotFound:
                return StagingError(
                    f"{self.location}: there is no bucket {bucket}; correct its name, or set the "
                    f"endpoint of the store that has it ({_endpoint_variable(self.location)})"
                )
        return StagingError(
            f"{self.location} does not exist; correct the location, or put there NAME.beton "
            "and NAME.beton.json as the conversion wrote them"
        )


def remote_file(location: str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> RemoteFile:
    """The file at s3://bucket/key, gs://bucket/key or a path.

    ``answer_timeout_s``: how long a store may send nothing before a request fails, in seconds.

    Raises:
        StagingError: a location of another form.
    """
    if not is_remote(location):
        if "://" in location:
            raise StagingError(
                f"{location} is of an unknown kind; give s3://bucket/key, gs://bucket/key or a path"
            )
        return RemoteFile(location, arrow_fs.LocalFileSystem(), str(Path(location).absolute()))
    scheme, path = location.split("://", 1)
    bucket, _, key = path.partition("/")
    if not bucket or not key or key.endswith("/"):
        raise StagingError(f"{location} names no file; give {scheme}://bucket/key")
    make = _s3_filesystem if scheme == "s3" else _gcs_filesystem
    return RemoteFile(location, make(answer_timeout_s), path)


def _s3_filesystem(answer_timeout_s: float) -> arrow_fs.FileSystem:
    # pyarrow reads the credentials from the environment itself, but not the endpoint.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scheme, address = _split_endpoint(endpoint) if endpoint else ("https", None)
    return arrow_fs.S3FileSystem(
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        scheme=scheme,
        endpoint_override=address,
        connect_timeout=CONNECT_TIMEOUT_S,
        # On Linux this limits the time without data, not the duration of a request.
        request_timeout=answer_timeout_s,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=2),
    )


def _gcs_filesystem(answer_timeout_s: float) -> arrow_fs.FileSystem:
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    limit = timedelta(seconds=answer_timeout_s)
    if not endpoint:
        return arrow_fs.GcsFileSystem(retry_time_limit=limit)
    scheme, address = _split_endpoint(endpoint)
    return arrow_fs.GcsFileSystem(
        anonymous=True, scheme=scheme, endpoint_override=address, retry_time_limit=limit
    )


def _split_endpoint(endpoint: str) -> tuple[str, str]:
    scheme, separator, address = endpoint.partition("://")
    return (scheme, address.rstrip("/")) if separator else ("http", endpoint)


def explain(location: str, error: OSError) -> StagingError:
    """Convert an error of the store or the system to one that names the remedy."""
    text = str(error)
    if isinstance(error, PermissionError) or any(mark in text for mark in _REFUSED):
        return StagingError(
            f"{location}: access refused ({_cause_of(text)}); {_access_remedy(location)}"
        )
    if any(mark in text for mark in _UNREACHABLE):
        return StagingError(
            f"{location}: the store does not answer ({_cause_of(text)}); check the network and the "
            f"endpoint ({_endpoint_variable(location)})"
        )
    if any(mark in text for mark in _OTHER_REGION):
        return StagingError(
            f"{location}: the bucket is in another region; set AWS_REGION to the bucket's region"
        )
    return StagingError(f"{location} cannot be read ({_cause_of(text)}); fix that and start again")


def _access_remedy(location: str) -> str:
    if location.startswith("s3://"):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may read it "
            "(a store may also refuse access if the file is missing)"
        )
    if location.startswith("gs://"):
        return "set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account that may read it"
    return "give this user permission to read the file and its folders"


def _endpoint_variable(location: str) -> str:
    return "AWS_ENDPOINT_URL" if location.startswith("s3://") else "STORAGE_EMULATOR_HOST"


def _cause_of(text: str) -> str:
    """The cause, which is last in a client's chain of messages; at most 200 characters."""
    text = text.split(" error_info=")[0]
    for mark in ("Details: ", "last message of ", "AWS Error "):
        text = text.rsplit(mark, 1)[-1]
    return text.strip().rstrip(".")[:200]
