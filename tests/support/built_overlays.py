"""What the overlays build, once for all tests of a process."""

import copy
import functools

from check import built, rules
from checks.manifests import pods


@functools.cache
def _built(overlay):
    return built(overlay)


def documents_of(overlay="gpu"):
    """A copy of everything that an overlay puts into a cluster, with a run."""
    return copy.deepcopy(_built(overlay))


def find(documents, kind, name=None):
    """The one object of this kind and, where there are several, name."""
    (found,) = (
        document
        for document in documents
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    )
    return found


def problems_of_rule(name, documents):
    """What a rule finds, as lines."""
    return [str(problem) for problem in rules(release=False)[name](documents)]


def rules_of(*modules):
    """Names of the rules of some modules of checks."""
    return {
        name
        for name, rule in rules(release=False).items()
        if getattr(rule, "func", rule).__module__.rpartition(".")[2] in modules
    }


def pod_of(documents, app):
    """The pod with this label app."""
    return next(pod for pod in pods(documents) if pod.labels.get("app") == app)


def container_of(documents, app):
    """The first container of the pod with this label app."""
    return pod_of(documents, app).spec["containers"][0]


def cluster_of(documents):
    """The spec of the standing cluster."""
    return find(documents, "RayCluster")["spec"]


def job_of(documents):
    """The spec of the run's RayJob."""
    return find(documents, "RayJob")["spec"]


def policy_of(documents, name):
    """The spec of a network policy."""
    return find(documents, "NetworkPolicy", name)["spec"]


def rename(documents, kind, name):
    """Give an object another name, which nothing refers to."""
    find(documents, kind, name)["metadata"]["name"] = "other"


def config_map_of(documents, start):
    """The generated ConfigMap whose name starts so."""
    (name,) = {
        document["metadata"]["name"]
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith(start)
    }
    return find(documents, "ConfigMap", name)


def set_variable(documents, app, name, value):
    """Add a variable to the environment of a pod's first container."""
    container_of(documents, app)["env"].append({"name": name, "value": value})
