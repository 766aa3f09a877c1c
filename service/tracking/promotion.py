"""Moves an alias of a registered model to a new version, if it passes the bar of the spec.

The decision is made once and stored with the version. Publishing the version again, after a lost
answer or by jobs/sync.py, completes it, but does not take back an alias that has moved on since.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mlflow import MlflowClient
from pydantic import TypeAdapter, ValidationError

from service.spec.sections import Promotion

logger = logging.getLogger(__name__)

# Tags of a registered version: what it was evaluated on, and with which accuracy.
FINGERPRINT_TAG, TOP1_TAG = "val_fingerprint", "val_top1"
# Tags of a version: the decision for people (also a tag of the run), and what completes it.
PROMOTION_TAG, STATE_TAG = "promotion", "promotion_state"
UNBEATEN_REMEDY = "set tracking.promote.beats_current to false to move it in any case"


@dataclass(frozen=True)
class Decision:
    """What was decided for a version under a rule.

    ``rule``: the spec's section as JSON. ``moves``: whether the alias is moved, from the version
    ``from_version``; None if none had it. ``is_done``: whether it has been moved, or stays.
    """

    rule: str
    text: str
    moves: bool
    from_version: str | None
    is_done: bool


def figures_tags(top1: float | None, fingerprint: str | None) -> dict[str, str]:
    """Tags of a new version; ``top1``: a share of val, whose ``fingerprint`` must be known too."""
    if top1 is None or fingerprint is None:
        return {}
    return {TOP1_TAG: repr(top1), FINGERPRINT_TAG: fingerprint}


def promote(client: MlflowClient, name: str, version: str, promotion: Promotion) -> str:
    """Decide about a version of the registered model ``name``, or complete what was decided.

    Returns the decision in words.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    rule = promotion.model_dump_json()
    tags = client.get_model_version(name, version).tags
    decision = _stored(tags)
    if decision is not None and decision.rule == rule and decision.is_done:
        return decision.text
    holder = client.get_registered_model(name).aliases.get(promotion.alias)
    holder = None if holder is None else str(holder)
    if decision is None or decision.rule != rule:
        decision = _decided(client, name, version, tags, promotion, holder)
        _store(client, name, version, decision)
    # If another version has the alias by now, it got it after this one: it keeps it.
    if decision.moves and holder == decision.from_version:
        client.set_registered_model_alias(name, promotion.alias, version)
    client.set_model_version_tag(name, version, PROMOTION_TAG, decision.text)
    _store(client, name, version, Decision(**{**asdict(decision), "is_done": True}))
    return decision.text


def _decided(
    client: MlflowClient,
    name: str,
    version: str,
    tags: Mapping[str, str],
    promotion: Promotion,
    holder: str | None,
) -> Decision:
    rule, alias = promotion.model_dump_json(), promotion.alias
    if holder == version:
        return Decision(rule, f"{alias} is version {version} already", False, holder, False)
    current = None if holder is None else client.get_model_version(name, holder).tags
    objection = _objection(tags, promotion, current)
    if objection is not None:
        stays = "no version has it" if holder is None else f"it stays with version {holder}"
        text = f"{alias} is not moved to version {version}, {stays}: {objection}"
        return Decision(rule, text, False, holder, False)
    before = "" if holder is None else f" from version {holder}"
    text = f"{alias} is moved{before} to version {version}{_accuracy_text(tags, current)}"
    return Decision(rule, text, True, holder, False)


def _objection(
    tags: Mapping[str, str], promotion: Promotion, current: Mapping[str, str] | None
) -> str | None:
    """Why the version with ``tags`` does not pass the bar; None if it does.

    ``current``: tags of the version that has the alias, if there is one.
    """
    top1 = _top1(tags)
    if top1 is None and (
        promotion.min_top1 is not None or (current is not None and promotion.beats_current)
    ):
        return "its accuracy on val is not known; only students that were evaluated on val have one"
    if promotion.min_top1 is not None and top1 is not None and top1 < promotion.min_top1:
        return f"its top-1 of {top1:.2%} is below min_top1, {promotion.min_top1:.2%}"
    if current is None or not promotion.beats_current:
        return None
    current_top1 = _top1(current)
    if current_top1 is None:
        return f"that one's accuracy is not known; {UNBEATEN_REMEDY}"
    if current[FINGERPRINT_TAG] != tags[FINGERPRINT_TAG]:
        return f"that one was evaluated on other data; {UNBEATEN_REMEDY}"
    assert top1 is not None, "checked above"
    if top1 <= current_top1:
        return f"its top-1 of {top1:.2%} is not above {current_top1:.2%}"
    return None


def _top1(tags: Mapping[str, str]) -> float | None:
    """The accuracy of a version that says on which data it was measured."""
    try:
        return float(tags[TOP1_TAG]) if tags.get(FINGERPRINT_TAG) else None
    except (KeyError, ValueError):
        return None


def _accuracy_text(tags: Mapping[str, str], current: Mapping[str, str] | None) -> str:
    top1, before = _top1(tags), _top1(current or {})
    if top1 is None:
        return ""
    is_same_data = current is not None and current.get(FINGERPRINT_TAG) == tags[FINGERPRINT_TAG]
    earlier = f", after {before:.2%}" if before is not None and is_same_data else ""
    return f": top-1 {top1:.2%}{earlier}"


def _stored(tags: Mapping[str, str]) -> Decision | None:
    """The decision of an earlier attempt; None if there is none that can be read."""
    try:
        return TypeAdapter(Decision).validate_json(tags.get(STATE_TAG, ""), strict=True)
    except ValidationError:
        return None


def _store(client: MlflowClient, name: str, version: str, decision: Decision) -> None:
    client.set_model_version_tag(name, version, STATE_TAG, json.dumps(asdict(decision)))
