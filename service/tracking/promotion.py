"""Moves an alias of a registered model to a new version, if it passes the bar of the spec.

A decision that was carried out is stored with the version and never made again: publishing the
version once more, after a lost answer or by jobs/sync.py, takes back no alias that has moved on.
One that was not carried out is made anew, from what has the alias by then.

MLflow cannot set an alias only if it is still where it was. So of students that are published at
the same time each may move it from the same version. The decision is stored before the alias is
moved, and after it each looks for the others' and leaves the alias with the best: whoever moves it
last sees all of them. Only a publisher that is killed in between leaves it with a worse one, until
it publishes again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter, ValidationError

from service.spec.sections import Promotion
from service.tracking.promotion_bar import (
    FINGERPRINT_TAG,
    accuracy_text,
    distinct,
    known_top1,
    objection,
    top1_of,
)

# Tags of a version: the decision for people (also a tag of the run); the alias that it claimed
# last; and, for each rule that was applied, the decision that completes an interrupted attempt.
PROMOTION_TAG, CLAIM_TAG, STATE_PREFIX = "promotion", "promotion_claim", "promotion_state_"


@dataclass(frozen=True)
class Decision:
    """What was decided for a version under a rule.

    ``rule``: the spec's section as JSON, for ``alias``. ``moves``: whether the alias is moved, from
    the version ``from_version``; None if none had it. ``is_done``: whether it has been moved, or
    stays.
    """

    rule: str
    alias: str
    text: str
    moves: bool
    from_version: str | None
    is_done: bool = False


def promote(client: MlflowClient, name: str, version: str, promotion: Promotion) -> str:
    """Decide about a version of the registered model ``name``, or complete what was decided.

    Returns the decision in words.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    tags = client.get_model_version(name, version).tags
    decision = _stored(tags.get(_state_tag(promotion.model_dump_json())))
    if decision is None or not decision.is_done:
        decision = _carried_out(client, name, version, promotion, decision)
    client.set_model_version_tag(name, version, PROMOTION_TAG, decision.text)
    _store(client, name, version, replace(decision, is_done=True))
    return decision.text


def _carried_out(
    client: MlflowClient,
    name: str,
    version: str,
    promotion: Promotion,
    interrupted: Decision | None,
) -> Decision:
    """Decide, and move the alias; ``interrupted``: the decision that may not be carried out."""
    alias = promotion.alias
    # Before the holder is read: what was done by now is no rival, it has had the alias already.
    old_claims = {key for key, claim in _claims(client, name, alias).items() if claim.is_done}
    holder, decision = _holder(client, name, alias), interrupted
    while decision is None or not (decision.moves and holder == version):
        decision = _decided(client, name, version, promotion, holder)
        _store(client, name, version, decision)
        before, holder = holder, _holder(client, name, alias)
        if holder == before:
            if not decision.moves:
                return decision
            client.set_registered_model_alias(name, alias, version)
            holder = version
    rivals = {k: claim for k, claim in _claims(client, name, alias).items() if k not in old_claims}
    best = _best_rival(client, name, version, decision, rivals) if promotion.beats_current else None
    if best is not None and _holder(client, name, alias) == version:
        client.set_registered_model_alias(name, alias, str(best.version))
        own = client.get_model_version(name, version).tags
        better, worse = distinct(known_top1(best.tags), known_top1(own))
        text = f"{alias} is moved to version {best.version}, which was about to get it too, not to "
        text += f"version {version}: its top-1 of {worse} is below {better}"
        return replace(decision, text=text, moves=False)
    return decision


def _best_rival(
    client: MlflowClient,
    name: str,
    version: str,
    decision: Decision,
    claims: Mapping[tuple[str, str], Decision],
) -> ModelVersion | None:
    """The best version that has taken the alias from the same one, or after it; None if it is own.

    Those that were evaluated on other data cannot be compared.
    """
    start = decision.from_version
    reached: set[str | None] = {start}
    new: set[str | None] = {start}
    while new:
        new = {
            rival
            for (rival, _), claim in claims.items()
            if claim.from_version in new and rival not in (version, *reached)
        }
        reached |= new
    rivals = [client.get_model_version(name, each) for each in reached - {start} if each]
    own = client.get_model_version(name, version)
    if top1_of(own.tags) is None:
        return None
    comparable = [
        each
        for each in (own, *rivals)
        if top1_of(each.tags) is not None
        and each.tags[FINGERPRINT_TAG] == own.tags[FINGERPRINT_TAG]
    ]
    best = max(comparable, key=lambda each: known_top1(each.tags))
    return None if best is own else best


def _claims(client: MlflowClient, name: str, alias: str) -> dict[tuple[str, str], Decision]:
    """The decisions to move the alias to a version of the model, by version and rule."""
    # Not by name: MLflow's filters have no way to write every name that it accepts.
    query, found, token = f"tags.{CLAIM_TAG} = '{alias}'", [], None
    while True:
        page = client.search_model_versions(query, page_token=token)
        found += [version for version in page if version.name == name]
        token = page.token
        if not token:
            break
    return {
        (str(version.version), decision.rule): decision
        for version in found
        for key, text in version.tags.items()
        if key.startswith(STATE_PREFIX)
        and (decision := _stored(text)) is not None
        and decision.moves
        and decision.alias == alias
    }


def _holder(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that has the alias now."""
    holder = client.get_registered_model(name).aliases.get(alias)
    return None if holder is None else str(holder)


def _decided(
    client: MlflowClient, name: str, version: str, promotion: Promotion, holder: str | None
) -> Decision:
    rule, alias = promotion.model_dump_json(), promotion.alias
    tags = client.get_model_version(name, version).tags
    if holder == version:
        # What an earlier rule has said of it says more.
        text, earlier = f"{alias} is version {version} already", tags.get(PROMOTION_TAG, "")
        text = earlier if earlier.startswith(f"{alias} is moved") else text
        return Decision(rule, alias, text, False, holder)
    current = None if holder is None else client.get_model_version(name, holder).tags
    problem = objection(tags, promotion, current)
    if problem is not None:
        stays = "no version has it" if holder is None else f"it stays with version {holder}"
        text = f"{alias} is not moved to version {version}, {stays}: {problem}"
        return Decision(rule, alias, text, False, holder)
    before = "" if holder is None else f" from version {holder}"
    text = f"{alias} is moved{before} to version {version}{accuracy_text(tags, current)}"
    return Decision(rule, alias, text, True, holder)


def _state_tag(rule: str) -> str:
    return STATE_PREFIX + hashlib.sha256(rule.encode()).hexdigest()[:16]


def _stored(state: str | None) -> Decision | None:
    """The decision of an earlier attempt; None if there is none that can be read."""
    try:
        return TypeAdapter(Decision).validate_json(state or "", strict=True)
    except ValidationError:
        return None


def _store(client: MlflowClient, name: str, version: str, decision: Decision) -> None:
    state = json.dumps(asdict(decision))
    client.set_model_version_tag(name, version, _state_tag(decision.rule), state)
    if decision.moves and not decision.is_done:
        client.set_model_version_tag(name, version, CLAIM_TAG, decision.alias)
