"""Which licenses the packages of the lock have, as SPDX expressions, and whether they are allowed.

Metadata says it in three ways, of which the first is SPDX's: License-Expression, License, which is
any text, and classifiers. What a wheel has of other projects is in its license files, which stay in
the image; where metadata leaves out what matters, it is stated here.
"""

import re
from email.message import Message

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "LicenseRef-BSD",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "PSF-2.0",
        "Zlib",
        # Copyleft of single files, which are passed on unchanged.
        "MPL-2.0",
        # Of libraries that are linked dynamically, and passed on unchanged.
        "LGPL-2.1-or-later",
        "LGPL-3.0-only",
        "LGPL-3.0-or-later",
    }
)
"""Licenses under which the image may be passed on, with the license files that it contains."""
# CUDA's license allows passing its libraries on as a part of an application; of NVIDIA's only.
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
OF_NVIDIA = re.compile(r"(nvidia|cuda)-")

STATED = {
    # A package without files, which depends on others.
    "cuda-toolkit": NVIDIA,
    # From the license files of their sources.
    "ffcv": "Apache-2.0",
    "huey": "MIT",
    "skops": "MIT",
    # With an exception for OpenSSL, which is Apache-2.0 by now.
    "psycopg2-binary": "LGPL-3.0-or-later",
    # OpenCV itself is Apache-2.0; its wheel has FFmpeg and Qt 5.
    "opencv-python": "Apache-2.0 AND LGPL-2.1-or-later AND LGPL-3.0-only",
}
"""Licenses of packages whose metadata says none, or not all."""

# In lower case, without "license", "version" and punctuation.
NAMES = {
    "3-clause bsd": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "bsd": "LicenseRef-BSD",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "isc isc": "ISC",
    "mit": "MIT",
    "mozilla public 2.0 mpl 2.0": "MPL-2.0",
    "nvidia proprietary software": NVIDIA,
    "other/proprietary": NVIDIA,
    "python software foundation": "PSF-2.0",
}
"""SPDX identifiers of what License and classifiers say."""


def license_of(name: str, metadata: Message) -> str | None:
    """The SPDX expression of a package's license; None if it is not known."""
    if name in STATED:
        return STATED[name]
    if expression := metadata.get("License-Expression"):
        return str(expression)
    if found := _identifier(metadata.get("License") or ""):
        return found
    classifiers = metadata.get_all("Classifier") or []
    last = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]
    identifiers = [_identifier(text) for text in last]
    known = [identifier for identifier in identifiers if identifier is not None]
    return " AND ".join(known) if known and len(known) == len(identifiers) else None


def is_allowed(name: str, expression: str) -> bool:
    """Whether a package may be passed on; of an "OR", one license must be allowed."""
    allowed = ALLOWED | {NVIDIA} if OF_NVIDIA.match(name) else ALLOWED
    if "(" in expression:
        parts = re.split(r" AND | OR |[()]", expression)
        return all(part.strip() in allowed for part in parts if part.strip())
    return any(
        all(part in allowed for part in alternative.split(" AND "))
        for alternative in expression.split(" OR ")
    )


def _identifier(text: str) -> str | None:
    """The expression that a text names: an SPDX expression, or a usual name of a license."""
    if "\n" in text.strip():
        return None
    text = text.strip()
    parts = re.split(r" AND | OR ", text)
    if all(part in ALLOWED or part == NVIDIA for part in parts):
        return text
    words = re.sub(r"\b(the|licen[sc]e|version)\b|[(),]", " ", text.lower())
    return NAMES.get(" ".join(words.split()))
