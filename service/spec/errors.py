"""Bad input: every problem found, each with the field, what is wrong and the remedy."""

from collections.abc import Sequence
from typing import NamedTuple

from data_pipeline.text import printable
from data_pipeline.uris import redacted

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 3

MAX_PROBLEMS = 50
"""Problems that are listed; a file with more of them is another one than was meant."""
MAX_TEXT_LENGTH = 600


class Problem(NamedTuple):
    """One mistake: the field or file it is in, what is wrong, and what would be right."""

    where: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.wrong}; {self.remedy}"


class BadInputError(ValueError):
    """Input that cannot be used; carries every problem found, not only the first.

    Secrets in the URIs that the problems repeat are replaced, and so is what is no readable text.
    """

    def __init__(self, subject: str, problems: Sequence[Problem]):
        self.subject = shown(subject)
        self.problems = tuple(Problem(*map(shown, problem)) for problem in problems[:MAX_PROBLEMS])
        count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
        lines = [f"{self.subject}: {count}", *(f"  {problem}" for problem in self.problems)]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"  and {len(problems) - MAX_PROBLEMS:,} more; fix these first")
        super().__init__("\n".join(lines))


def shown(text: str) -> str:
    """One line of printable text, without secrets and without the middle of what is very long."""
    # A field may be named "\n": what would be empty is shown as Python writes it.
    text = " ".join(redacted(text).splitlines()) or ascii(text)
    if len(text) > MAX_TEXT_LENGTH:
        text = f"{text[: MAX_TEXT_LENGTH // 2]} ... {text[-MAX_TEXT_LENGTH // 2 :]}"
    return printable(text)
