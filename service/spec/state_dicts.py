"""Which tensors of a file are the network's: state dicts within containers, under prefixes.

Files of training programs have them under names such as state_dict.module.conv1.weight, often with
an average of the weights (EMA) beside, and the state of the optimizer.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn

from service.spec.errors import BadInputError, Problem
from service.spec.sections import Weights

AVERAGES = frozenset(("ema", "average", "averaged", "avg", "swa", "shadow", "polyak"))
"""Words in the names of averaged weights; modelema is seen too."""

USUAL_NAMES = ("", "state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
"""What training programs call the weights themselves, the first ones first."""

CLASSIFIER = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:fc|classifier|head|heads\.head|linear|head\.fc|classifier\.\d+)"
    r"\.(?:weight|bias)"
)
"""Names of the tensors of classifiers, as far as they are usual."""

MAX_NAMES = 3


class Choice(NamedTuple):
    """``prefix``: of the names of the chosen tensors, "" or with a final dot. ``others``: those of
    other weights of the same network.
    """

    prefix: str
    others: tuple[str, ...] = ()

    @property
    def within(self) -> tuple[str, ...]:
        """Those of the others whose names begin with the prefix too."""
        return tuple(other for other in self.others if other.startswith(self.prefix))

    def note(self, role: str) -> str | None:
        """What to say about the choice; None if there was none."""
        if not self.others:
            average = f"{role} weights: {_shown(self.prefix)} of the file, an average"
            return average if is_average(self.prefix) else None
        others = " and ".join(map(_shown, self.others))
        return f"{role} weights: {_shown(self.prefix)} of the file, which has {others} too"


def renamed(name: str, rename: Iterable[tuple[str, str]]) -> str:
    """A tensor's name with parts replaced, each being one or several words between dots."""
    dotted = f".{name}."
    for old, new in rename:
        dotted = dotted.replace(f".{old}.", f".{new}." if new else ".")
    return dotted.strip(".")


def prefixes_of_network(names: Iterable[str], expected: Collection[str]) -> list[str]:
    """The prefixes under which ``names`` has all tensors of a network; the fullest if none has.

    ``expected``: the names of the network's tensors.
    """
    hits: Counter[str] = Counter()
    for name in names:
        for prefix in _prefixes(name):
            if name[len(prefix) :] in expected:
                hits[prefix] += 1
    complete = [prefix for prefix, count in hits.items() if count == len(expected)]
    return complete or [prefix for prefix, _ in hits.most_common(1)]


def prefixes_of_classifiers(names: Iterable[str]) -> list[str]:
    """The prefixes under which ``names`` seems to have a network, where it is not known which."""
    names = list(names)
    found = dict.fromkeys(m["prefix"] for n in names if (m := CLASSIFIER.fullmatch(n)))
    # A layer within a network may be named like a classifier.
    outer = [p for p in found if not any(o in found for o in _prefixes(p[:-1]) if o)]
    sizes = Counter(p for name in names for p in _prefixes(name) if p in found)
    if "" in sizes:
        sizes[""] -= sum(sizes[prefix] for prefix in outer if prefix)
    return [prefix for prefix in outer if 2 * sizes[prefix] > max(sizes.values())]


def _prefixes(name: str) -> Iterator[str]:
    """What may be in front of a tensor's own name: "" and all that ends with a dot."""
    end = 0
    while end >= 0:
        yield name[:end]
        end = name.find(".", end) + 1 or -1


def choose(
    prefixes: Iterable[str], names: Iterable[str], weights: Weights, where: str
) -> Choice | None:
    """The weights that a spec means, of those under ``prefixes``; None if there are none.

    ``weights.key`` decides, or else what is no average, with the most usual name.

    Raises:
        BadInputError: naming the field below ``where``; the key does not exist, or several fit.
    """
    prefixes, key = list(prefixes), weights.key
    if key is not None:
        key = key.rstrip(".")
        if not any(f"{name}.".startswith(f"{key}.") for name in names):
            known = [prefix.rstrip(".") for prefix in prefixes if prefix]
            there = ", ".join(known or _first_words(names))
            _refuse(f"{where}.key", f"is {key!r}, but the file has {there}", "use one of these")
        meant = [prefix for prefix in prefixes if prefix.startswith(f"{key}.")]
    else:
        meant = [prefix for prefix in prefixes if not is_average(prefix)] or prefixes
    others = tuple(prefix for prefix in prefixes if prefix not in meant)
    if len(meant) > 1:
        ranks = {prefix: _rank(prefix) for prefix in meant}
        best = [prefix for prefix in meant if ranks[prefix] == min(ranks.values())]
        if len(best) > 1:
            there = " and ".join(map(_shown, best[:MAX_NAMES]))
            _refuse(f"{where}.key", f"is needed: the file has {there}", "set it to one of them")
        others, meant = tuple(p for p in prefixes if p not in best), best
    return Choice(meant[0], others) if meant else None


def largest_container(containers: Mapping[str, Collection[str]]) -> str:
    """The prefix of the dictionary with the most tensors, which a message is about."""
    return max(containers, key=lambda name: len(containers[name]))


def is_average(prefix: str) -> bool:
    """Whether a prefix names averaged weights, such as those of model_ema."""
    words = re.split(r"[._]", prefix.lower())
    return any(word in AVERAGES or word.endswith("ema") for word in words)


def _rank(prefix: str) -> int:
    first = prefix.split(".")[0]
    return USUAL_NAMES.index(first) if first in USUAL_NAMES else len(USUAL_NAMES)


def _shown(prefix: str) -> str:
    return prefix.rstrip(".") or "the outermost names"


def _first_words(names: Iterable[str]) -> list[str]:
    return sorted({name.split(".")[0] for name in names})[:20]


def _refuse(where: str, wrong: str, remedy: str) -> NoReturn:
    raise BadInputError("spec", [Problem(where, wrong, remedy)])
