"""Bad input: every problem found, each with the field, what is wrong and the remedy."""

from collections.abc import Sequence
from typing import NamedTuple

from data_pipeline.uris import redacted

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 3


class Problem(NamedTuple):
    """One mistake: the field or file it is in, what is wrong, and what would be right."""

    where: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.wrong}; {self.remedy}"


class BadInputError(ValueError):
    """Input that cannot be used; carries every problem found, not only the first.

    Secrets in the URIs that the problems repeat are replaced.
    """

    def __init__(self, subject: str, problems: Sequence[Problem]):
        self.subject = redacted(subject)
        self.problems = tuple(Problem(*map(redacted, problem)) for problem in problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = [f"{self.subject}: {count}", *(f"  {problem}" for problem in self.problems)]
        super().__init__("\n".join(lines))
