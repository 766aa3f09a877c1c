"""The rules of deploy/kubernetes pass on what is built, and fail on copies that break them."""

import pytest
from check import rules
from checks.manifests import at
from kubectl import overlays
from support.built_overlays import (
    cluster_of,
    config_map_of,
    container_of,
    documents_of,
    find,
    job_of,
    pod_of,
    policy_of,
    problems_of_rule,
    rename,
    rules_of,
    set_variable,
)

BROKEN = [
    ("names_exist", lambda d: rename(d, "PersistentVolumeClaim", "dtkd-runs"), "no PersistentV"),
    ("names_exist", lambda d: rename(d, "PriorityClass", "dtkd-head"), "no PriorityClass dtkd-h"),
    ("names_exist", lambda d: rename(d, "ServiceAccount", "ray-head"), "no ServiceAccount ray-h"),
    (
        "names_exist",
        lambda d: config_map_of(d, "redis-config")["metadata"].update(name="r"),
        "no ConfigMap redis-config-",
    ),
    (
        "names_exist",
        lambda d: cluster_of(d)["authOptions"].update(secretName="other"),
        "no Secret other",
    ),
    (
        "names_exist",
        lambda d: at(
            cluster_of(d), "gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef"
        )[0].update(key="other"),
        "Secret dtkd-redis has no other",
    ),
    (
        "names_exist",
        lambda d: find(d, "Ingress")["spec"]["tls"][0].update(secretName="other"),
        "no Secret other",
    ),
    (
        "volumes_match",
        lambda d: container_of(d, "redis")["volumeMounts"][0].update(name="other"),
        "no volume other",
    ),
    (
        "volumes_match",
        lambda d: pod_of(d, "redis").spec["volumes"].append({"name": "more", "emptyDir": {}}),
        "no container mounts volume more",
    ),
    (
        "volumes_match",
        lambda d: config_map_of(d, "postgres-scripts")["data"].pop("create-databases.sh"),
        "has no create-databases.sh",
    ),
    ("services_answer", lambda d: rename(d, "Service", "mlflow"), "no service mlflow has port"),
    ("services_answer", lambda d: rename(d, "Service", "postgres"), "no service postgres has"),
    ("services_answer", lambda d: rename(d, "Service", "redis"), "no service redis has port 63"),
    (
        "services_answer",
        lambda d: find(d, "Service", "redis")["spec"]["selector"].update(app="other"),
        "no pod that it selects listens on port 6379",
    ),
    (
        "services_answer",
        lambda d: find(d, "Service", "mlflow")["spec"]["ports"][0].update(name="web"),
        "service mlflow has no port",
    ),
    (
        "all_is_denied",
        lambda d: policy_of(d, "deny-all").update(policyTypes=["Ingress"]),
        "none denies all",
    ),
    (
        "policies_select_pods",
        lambda d: policy_of(d, "redis")["podSelector"]["matchLabels"].update(app="rediss"),
        "no pod has the labels",
    ),
    (
        "policies_select_pods",
        lambda d: policy_of(d, "mlflow")["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(
            app="postgresql"
        ),
        "no pod has the labels",
    ),
    (
        "rules_name_ports",
        lambda d: policy_of(d, "redis")["ingress"][0].pop("ports"),
        "open to all, or for all ports",
    ),
    (
        "rules_name_ports",
        lambda d: policy_of(d, "redis")["ingress"][0].pop("from"),
        "open to all, or for all ports",
    ),
    (
        "ports_are_open",
        lambda d: container_of(d, "mlflow")["ports"].append({"containerPort": 5001}),
        "no policy lets anybody reach port 5001",
    ),
    (
        "ports_are_open",
        lambda d: policy_of(d, "ray-metrics").update(ingress=[]),
        "no policy lets anybody reach port 8080",
    ),
    (
        "both_ends_agree",
        lambda d: policy_of(d, "mlflow")["egress"].pop(0),
        "mlflow to postgres: ingress to ports 5432 to 5432 meets no egress",
    ),
    (
        "both_ends_agree",
        lambda d: policy_of(d, "ray-worker")["ingress"][1]["ports"].pop(),
        "ray-worker to ray-worker: egress to ports 32768 to 60999 meets no ingress",
    ),
    (
        "namespace_is_restricted",
        lambda d: find(d, "Namespace")["metadata"]["labels"].pop(
            "pod-security.kubernetes.io/enforce"
        ),
        "does not enforce the restricted profile",
    ),
    (
        "namespace_is_restricted",
        lambda d: find(d, "Ingress")["metadata"].pop("namespace"),
        "Ingress mlflow: is not in dtkd",
    ),
    (
        "settings_are_filled",
        lambda d: find(d, "Ingress")["spec"].update(ingressClassName="set-by-settings"),
        "has set-by-settings",
    ),
    (
        "secrets_are_referred_to",
        lambda d: d.append({"kind": "Secret", "metadata": {"name": "s"}}),
        "Secret s: is a Secret",
    ),
    (
        "secrets_are_referred_to",
        lambda d: set_variable(d, "mlflow", "MLFLOW_AUTH_ADMIN_PASSWORD", "x"),
        "MLFLOW_AUTH_ADMIN_PASSWORD is a value",
    ),
    (
        "secrets_are_referred_to",
        lambda d: set_variable(d, "mlflow", "DATABASE", "postgresql://mlflow:word@postgres/mlflow"),
        "has a password in a text",
    ),
    (
        "secrets_are_referred_to",
        lambda d: config_map_of(d, "mlflow-config")["data"].update(
            {"basic_auth.ini": "admin_password = word"}
        ),
        "has a password in a text",
    ),
    (
        "budgets_can_be_met",
        lambda d: find(d, "Deployment", "mlflow")["spec"].update(replicas=1),
        "lets no pod be evicted",
    ),
    (
        "budgets_can_be_met",
        lambda d: at(find(d, "PodDisruptionBudget", "ray-head"), "spec.selector.matchLabels")[
            0
        ].update(app="other"),
        "selects no pod",
    ),
    (
        "kuberay_accepts",
        lambda d: cluster_of(d)["authOptions"].update(mode="disabled"),
        "takes jobs without a token",
    ),
    (
        "kuberay_accepts",
        lambda d: cluster_of(d)["workerGroupSpecs"][0].update(minReplicas=9),
        "replicas is not between",
    ),
    (
        "kuberay_accepts",
        lambda d: pod_of(d, "ray-head").spec.update(restartPolicy="Always"),
        "restarts pods beside the autoscaler",
    ),
    (
        "kuberay_accepts",
        lambda d: find(d, "RayJob")["metadata"].update(name="x" * 48),
        "no DNS-1035 label of at most 47",
    ),
    (
        "kuberay_accepts",
        lambda d: job_of(d).update(shutdownAfterJobFinishes=True),
        "has deletionRules and shutdownAfterJobFinishes",
    ),
    ("kuberay_accepts", lambda d: job_of(d).pop("deletionStrategy"), "its cluster stays for ever"),
    (
        "kuberay_accepts",
        lambda d: job_of(d).update(clusterSelector={"ray.io/cluster": "dtkd"}),
        "retries on a cluster that it does not own",
    ),
    (
        "kuberay_accepts",
        lambda d: job_of(d)["rayClusterSpec"].update(enableInTreeAutoscaling=True),
        "deletes workers beside an autoscaler",
    ),
    (
        "kuberay_accepts",
        lambda d: at(job_of(d), "deletionStrategy.deletionRules.condition")[0].update(
            ttlSeconds=90_000
        ),
        "a later deletion comes earlier",
    ),
]


@pytest.mark.parametrize("overlay", overlays())
@pytest.mark.parametrize("name", rules(release=False))
def test_overlays_pass(overlay, name):
    assert problems_of_rule(name, documents_of(overlay)) == []


@pytest.mark.parametrize(("name", "break_it", "expected"), BROKEN)
def test_broken_objects_are_found(name, break_it, expected):
    documents = documents_of()
    break_it(documents)
    assert any(expected in problem for problem in problems_of_rule(name, documents))


def test_every_rule_has_a_broken_copy():
    assert {name for name, _, _ in BROKEN} == rules_of("references", "network", "objects")
