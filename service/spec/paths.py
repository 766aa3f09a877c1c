"""Paths in a spec: made absolute, and refused where Ray would remove what is written there."""

import errno
import itertools
import os
from pathlib import Path
from urllib.parse import quote, unquote

from service.spec.errors import Problem

SQLITE = "sqlite:///"
MAX_NAME_BYTES = 255
# Where Ray unpacks what `ray job submit --working-dir` uploads, one folder for each content.
RAY_UPLOADS = ("runtime_resources", "working_dir_files")
# Ray sets it in the process that `ray job submit` starts.
RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def absolute_path(path: Path | str) -> Path:
    """The path from the root, with ~ replaced; a ~ of a user that does not exist is kept."""
    path = Path(path)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        return path.absolute()


def is_same_folder(first: Path, second: Path) -> bool:
    """Whether two paths lead to the same folder, which exists."""
    try:
        return first.samefile(second)
    except OSError:
        return False


def sqlite_uri(path: Path) -> str:
    """The URI of a SQLite file; what has a meaning in a URI is quoted."""
    return SQLITE + "".join(quote(char) if char in "%?#" else char for char in str(path))


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for other URIs."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def absolute_uri(uri: str) -> str:
    """The same tracking URI; a relative path of SQLite starts from the current directory."""
    path = uri.removeprefix(SQLITE)
    if not uri.startswith(SQLITE) or path.startswith(("/", ":memory:", "file:")) or not path:
        return uri
    if path.startswith("~"):
        user, _, rest = path.partition("/")
        return f"{sqlite_uri(absolute_path(user))}/{rest}"
    return f"{sqlite_uri(Path.cwd())}/{path}"


def output_problem(where: str, path: Path | str) -> Problem | None:
    """A problem if what is written there would be lost: Ray's copy of a working directory."""
    parts = Path(path).parts
    if RAY_UPLOADS not in itertools.pairwise(parts):
        return None
    return Problem(
        where,
        f"is in {path}, Ray's own copy of the submitted folder: it is another one after any change "
        "there, and Ray removes it",
        "give an absolute path",
    )


def new_file_problem(where: str, path: Path) -> Problem | None:
    """A problem if a new file cannot be written there; ``where``: the option that names it."""
    path = absolute_path(path)
    if os.path.lexists(path):
        return Problem(where, f"{path} exists", "give the path of a new file, or remove it")
    if not path.parent.is_dir():
        wrong = f"{path.parent} is no folder"
        return Problem(where, wrong, "create it, or give another path")
    if not os.access(path.parent, os.W_OK):
        return Problem(where, f"{path.parent} cannot be written", "give another path")
    return output_problem(where, path)


def refused_path(path: Path | str) -> str | None:
    """Why the system refuses a path, such as for its length; None where a file is or could be."""
    try:
        if has_long_name(path):
            # Where a folder is missing, the system finds this out when it is created.
            return os.strerror(errno.ENAMETOOLONG)
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    except ValueError:
        return "is no path of a file"
    return None


def has_long_name(path: Path | str) -> bool:
    """Whether the name of a file or folder of a path has more bytes than file systems allow."""
    return max(map(len, map(os.fsencode, Path(path).parts)), default=0) > MAX_NAME_BYTES


def home_problem(where: str, path: Path | str) -> Problem | None:
    """A problem if a path starts with ~ and a name that is not a user's."""
    name = str(path).partition("/")[0]
    if not name.startswith("~") or absolute_path(name).name != name:
        return None
    return Problem(where, f"is {str(path)!r}, but {name} is no home directory", "write it in full")


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process."""
    return RAY_JOB_VARIABLE in os.environ


def path_remedy(path: Path | str, what: str) -> str:
    """What to give where there is no file: ``what``, and in a Ray job how paths are looked up."""
    if Path(path).is_absolute() or not in_ray_job():
        return f"give {what}"
    return (
        f"give {what}: a Ray job starts in the directory in which Ray was started; use an absolute "
        "path, or ray job submit --working-dir"
    )
