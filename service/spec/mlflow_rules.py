"""Which names MLflow accepts, known before training: MLflow itself says so only at its end.

The rules are those of MLflow's validators and of the columns of its databases, of which only
SQLite accepts longer texts. MLflow is not imported: it takes seconds.
"""

import re
import unicodedata

# The columns of registered models' and experiments' names.
MAX_NAME_LENGTH = 256
MAX_ALIAS_LENGTH = 255
MAX_TAG_LENGTH = 8000
MAX_PARAM_LENGTH = 6000

# Control characters, and separators of lines and of paragraphs.
LINE_CATEGORIES = ("Cc", "Zl", "Zp")

SOURCE_FORMS = "models:/NAME@ALIAS, models:/NAME/3, models:/m-ID or runs:/ID/student"

NameProblem = tuple[str, str]
"""What is wrong with a name, and the remedy."""


def registered_model_problem(name: str) -> NameProblem | None:
    """Why MLflow would not register a model under this name; None if it would."""
    shown = f"is {name!r}"
    if not name.strip():
        return f"{shown}, an empty name", "give a name with letters"
    if "/" in name or ":" in name:
        return f"{shown}, but MLflow allows no / and : in the name of a model", "replace them"
    if any(unicodedata.category(letter) in LINE_CATEGORIES for letter in name):
        return f"{shown}, with line breaks or control characters", "remove them"
    if name in (".", "..") or name.startswith(".."):
        return f"{shown}, which MLflow takes for a path", "do not start it with two periods"
    return _length_problem(name, MAX_NAME_LENGTH)


def alias_problem(alias: str) -> NameProblem | None:
    """Why MLflow would not set this alias of a model version; None if it would."""
    shown = f"is {alias!r}"
    if not re.fullmatch(r"[\w-]+", alias):
        return shown, "use letters, digits, _ and - only, such as champion"
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        return (
            f"{shown}, which MLflow reserves for versions",
            "use another alias than latest and v<number>, such as champion",
        )
    return _length_problem(alias, MAX_ALIAS_LENGTH)


def experiment_problem(name: str) -> NameProblem | None:
    """Why MLflow would not create an experiment of this name; None if it would."""
    if not name:
        return "is empty", "give a name, such as dtkd"
    return _length_problem(name, MAX_NAME_LENGTH)


def source_problem(source: str) -> NameProblem | None:
    """What an MLflow address of weights lacks; None if it may name something."""
    scheme, _, path = source.partition(":/")
    parts = path.split("/")
    shown = f"is {source!r}"
    if not parts[0]:
        return shown, f"give {SOURCE_FORMS}"
    is_version = scheme == "models" and "@" not in parts[0] and not parts[0].startswith("m-")
    if is_version and (len(parts) == 1 or not parts[1].isdigit()):
        return f"{shown}, which names no version", f"give {SOURCE_FORMS}"
    return None


def _length_problem(name: str, limit: int) -> NameProblem | None:
    if len(name) <= limit:
        return None
    return f"has {len(name)} characters", f"MLflow stores at most {limit}; make it shorter"
