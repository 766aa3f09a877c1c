"""Rules for network policies: all is denied, and what is opened is opened at both of its ends."""

from collections.abc import Iterator
from typing import Any

from checks.manifests import Document, Pod, label, pods
from service.spec.errors import Problem

Rule = dict[str, Any]
DIRECTIONS = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}


def all_is_denied(documents: list[Document]) -> Iterator[Problem]:
    """A policy denies every pod all traffic in both directions."""
    for policy in _policies(documents):
        spec = policy["spec"]
        is_for_all = spec["podSelector"] == {} and not {"ingress", "egress"} & spec.keys()
        if is_for_all and set(spec["policyTypes"]) == set(DIRECTIONS):
            return
    yield Problem("NetworkPolicy", "none denies all", "add one with podSelector {} and no rules")


def policies_select_pods(documents: list[Document]) -> Iterator[Problem]:
    """Every policy, and every peer of it in this namespace, selects pods, by each name it gives."""
    everyone = list(pods(documents))
    for policy in _policies(documents):
        selectors = [policy["spec"]["podSelector"]]
        for direction, peers in DIRECTIONS.values():
            for rule in policy["spec"].get(direction, []):
                selectors += [
                    peer["podSelector"]
                    for peer in rule.get(peers, [])
                    if "podSelector" in peer and "namespaceSelector" not in peer
                ]
        for selector in selectors:
            apps = _apps(selector)
            found = {pod.labels.get("app") for pod in everyone if _selects(selector, pod)}
            if apps - found or not (found or selector == {}):
                wrong = f"no pod has the labels {selector}"
                yield Problem(label(policy), wrong, "correct the selector")


def ports_are_open(documents: list[Document]) -> Iterator[Problem]:
    """Every port that a container declares is open to somebody."""
    for pod in pods(documents):
        opened = [
            port
            for rule in _rules(documents, pod, "Ingress")
            for port in rule.get("ports", [{"port": 1, "endPort": 65535}])
        ]
        for container in pod.main_containers:
            for port in container.get("ports", []):
                number = port["containerPort"]
                if not any(_covers(each, number) for each in opened):
                    wrong = f"no policy lets anybody reach port {number}"
                    yield Problem(pod.owner, wrong, "add a policy, or remove the port")


def both_ends_agree(documents: list[Document]) -> Iterator[Problem]:
    """What a pod may connect to lets it in, and who is let in may connect."""
    everyone = list(pods(documents))
    for source in everyone:
        for target in everyone:
            out = ports_between(documents, "Egress", source, target)
            into = ports_between(documents, "Ingress", target, source)
            names = f"{source.labels.get('app')} to {target.labels.get('app')}"
            for first, last in sorted(set(out) - set(into)):
                wrong = f"egress to ports {first} to {last} meets no ingress"
                yield Problem(f"NetworkPolicy, {names}", wrong, "open both, or neither")
            for first, last in sorted(set(into) - set(out)):
                wrong = f"ingress to ports {first} to {last} meets no egress"
                yield Problem(f"NetworkPolicy, {names}", wrong, "open both, or neither")


def rules_name_ports(documents: list[Document]) -> Iterator[Problem]:
    """Every rule says to whom and which ports it opens."""
    for policy in _policies(documents):
        for direction, peers in DIRECTIONS.values():
            for rule in policy["spec"].get(direction, []):
                if not rule.get("ports") or not rule.get(peers):
                    wrong = f"a rule for {direction} is open to all, or for all ports"
                    yield Problem(label(policy), wrong, f"give {peers} and ports")


def _policies(documents: list[Document]) -> list[Document]:
    return [document for document in documents if document["kind"] == "NetworkPolicy"]


def _rules(documents: list[Document], pod: Pod, policy_type: str) -> list[Rule]:
    """Rules for a pod, of all policies that select it."""
    direction, _ = DIRECTIONS[policy_type]
    return [
        rule
        for policy in _policies(documents)
        if policy_type in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get(direction, [])
    ]


def ports_between(
    documents: list[Document], policy_type: str, pod: Pod, peer: Pod
) -> list[tuple[int, int]]:
    """Ranges of ports that a pod's rules open for a peer in this namespace."""
    _, peers = DIRECTIONS[policy_type]
    return [
        (port["port"], port.get("endPort", port["port"]))
        for rule in _rules(documents, pod, policy_type)
        if any(
            "podSelector" in each
            and "namespaceSelector" not in each
            and _selects(each["podSelector"], peer)
            for each in rule[peers]
        )
        for port in rule["ports"]
    ]


def _covers(port: Document, number: int) -> bool:
    first: int = port["port"]
    last: int = port.get("endPort", first)
    return first <= number <= last


def _apps(selector: Document) -> set[str]:
    """The values of the label app that a selector names."""
    named = {selector["matchLabels"]["app"]} if "app" in selector.get("matchLabels", {}) else set()
    for expression in selector.get("matchExpressions", []):
        if expression["key"] == "app" and expression["operator"] == "In":
            named |= set(expression["values"])
    return named


def _selects(selector: Document, pod: Pod) -> bool:
    """Whether a selector of labels, and of values that a label is in, selects a pod."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= pod.labels.items() and all(
        pod.labels.get(expression["key"]) in expression["values"] for expression in expressions
    )
