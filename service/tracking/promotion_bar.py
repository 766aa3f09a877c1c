"""The bar of a promotion: whether a registered version passes it, and why not."""

import math
from collections.abc import Mapping

from service.spec.sections import Promotion

# Tags of a registered version: what it was evaluated on, and with which accuracy.
FINGERPRINT_TAG, TOP1_TAG = "val_fingerprint", "val_top1"
UNBEATEN_REMEDY = "set tracking.promote.beats_current to false to move it in any case"
MAX_DIGITS = 15


def figures_tags(top1: float | None, fingerprint: str | None) -> dict[str, str]:
    """Tags of a new version; ``top1``: a share of val, whose ``fingerprint`` must be known too."""
    if top1 is None or fingerprint is None:
        return {}
    return {TOP1_TAG: repr(top1), FINGERPRINT_TAG: fingerprint}


def objection(
    tags: Mapping[str, str], promotion: Promotion, current: Mapping[str, str] | None
) -> str | None:
    """Why the version with ``tags`` does not pass the bar; None if it does.

    ``current``: tags of the version that has the alias, if there is one.
    """
    top1 = top1_of(tags)
    if top1 is None and (
        promotion.min_top1 is not None or (current is not None and promotion.beats_current)
    ):
        return "its accuracy on val is not known; only students that were evaluated on val have one"
    if promotion.min_top1 is not None and top1 is not None and top1 < promotion.min_top1:
        return "its top-1 of {} is below min_top1, {}".format(*distinct(top1, promotion.min_top1))
    if current is None or not promotion.beats_current:
        return None
    current_top1 = top1_of(current)
    if current_top1 is None:
        return f"that one's accuracy is not known; {UNBEATEN_REMEDY}"
    if current[FINGERPRINT_TAG] != tags[FINGERPRINT_TAG]:
        return f"that one was evaluated on other data; {UNBEATEN_REMEDY}"
    assert top1 is not None, "checked above"
    if top1 <= current_top1:
        return "its top-1 of {} is not above {}".format(*distinct(top1, current_top1))
    return None


def top1_of(tags: Mapping[str, str]) -> float | None:
    """The accuracy of a version that says on which data it was measured."""
    try:
        top1 = float(tags[TOP1_TAG])
    except (KeyError, ValueError):
        return None
    return top1 if tags.get(FINGERPRINT_TAG) and math.isfinite(top1) else None


def known_top1(tags: Mapping[str, str]) -> float:
    """The accuracy of a version that has one, as the caller knows."""
    top1 = top1_of(tags)
    assert top1 is not None, "the caller knows it"
    return top1


def distinct(first: float, second: float) -> tuple[str, str]:
    """Two shares as percentages, with as many digits as it takes to tell them apart."""
    for num_digits in range(2, MAX_DIGITS):
        texts = f"{first:.{num_digits}%}", f"{second:.{num_digits}%}"
        if first == second or texts[0] != texts[1]:
            break
    return texts


def accuracy_text(tags: Mapping[str, str], current: Mapping[str, str] | None) -> str:
    """The end of a sentence: the accuracy, and that of the version before on the same data."""
    top1, before = top1_of(tags), top1_of(current or {})
    if top1 is None:
        return ""
    if before is None or current is None or current[FINGERPRINT_TAG] != tags[FINGERPRINT_TAG]:
        return f": top-1 {top1:.2%}"
    return ": top-1 {}, after {}".format(*distinct(top1, before))
