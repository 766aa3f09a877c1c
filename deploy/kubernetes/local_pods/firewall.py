"""Network policies as rules of iptables in a pod's own network namespace.

They are the built policies: who may reach whom, by port, with all else dropped. Peers outside the
namespace, addresses (ipBlock) and names are not opened: there is none of them here.
"""

from collections.abc import Mapping

from checks.manifests import Document, Pod
from checks.network import ports_between

HEAD = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT DROP [0:0]"]
ESTABLISHED = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"


def firewall(documents: list[Document], pod: Pod, peers: Mapping[str, Pod], node: str) -> str:
    """Input of iptables-restore for a pod; ``peers`` by their addresses.

    ``node``: the address of the machine, which every pod answers: the kubelet's probes.
    """
    rules = [*HEAD, "-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT"]
    rules += [
        f"-A INPUT {ESTABLISHED}",
        f"-A OUTPUT {ESTABLISHED}",
        f"-A INPUT -s {node} -j ACCEPT",
    ]
    for policy_type, chain, side in (("Ingress", "INPUT", "-s"), ("Egress", "OUTPUT", "-d")):
        for address, peer in peers.items():
            for first, last in ports_between(documents, policy_type, pod, peer):
                rules.append(f"-A {chain} -p tcp {side} {address} --dport {first}:{last} -j ACCEPT")
    return "\n".join([*rules, "COMMIT", ""])
