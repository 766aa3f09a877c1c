"""Each rule of deploy/kubernetes/checks passes on what is built, and fails on a copy that breaks it."""

import copy

import pytest
from check import rules
from checks.manifests import at, pods
from kubectl import overlays
from support.built_overlays import documents_of, find, problems_of_rule


@pytest.mark.parametrize("overlay", overlays())
@pytest.mark.parametrize("name", rules(release=False))
def test_overlays_pass(overlay, name):
    assert problems_of_rule(name, documents_of(overlay)) == []


def _pod(documents, app):
    return next(pod for pod in pods(documents) if pod.labels.get("app") == app)


def _container(documents, app):
    return _pod(documents, app).spec["containers"][0]


def _cluster(documents):
    return find(documents, "RayCluster")["spec"]


def _job(documents):
    return find(documents, "RayJob")["spec"]


def _policy(documents, name):
    return find(documents, "NetworkPolicy", name)["spec"]


def _rename(documents, kind, name):
    find(documents, kind, name)["metadata"]["name"] = "other"


def _config_map(documents, start):
    (name,) = {
        document["metadata"]["name"]
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith(start)
    }
    return find(documents, "ConfigMap", name)


def _set_env(documents, app, name, value):
    _container(documents, app)["env"].append({"name": name, "value": value})


BROKEN = [
    ("names_exist", lambda d: _rename(d, "PersistentVolumeClaim", "dtkd-runs"), "no PersistentV"),
    ("names_exist", lambda d: _rename(d, "PriorityClass", "dtkd-head"), "no PriorityClass dtkd-h"),
    ("names_exist", lambda d: _rename(d, "ServiceAccount", "ray-head"), "no ServiceAccount ray-h"),
    (
        "names_exist",
        lambda d: _config_map(d, "redis-config")["metadata"].update(name="r"),
        "no ConfigMap redis-config-",
    ),
    (
        "names_exist",
        lambda d: _cluster(d)["authOptions"].update(secretName="other"),
        "no Secret other",
    ),
    (
        "names_exist",
        lambda d: at(_cluster(d), "gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef")[
            0
        ].update(key="other"),
        "Secret dtkd-redis has no other",
    ),
    (
        "names_exist",
        lambda d: find(d, "Ingress")["spec"]["tls"][0].update(secretName="other"),
        "no Secret other",
    ),
    (
        "volumes_match",
        lambda d: _container(d, "redis")["volumeMounts"][0].update(name="other"),
        "no volume other",
    ),
    (
        "volumes_match",
        lambda d: _pod(d, "redis").spec["volumes"].append({"name": "more", "emptyDir": {}}),
        "no container mounts volume more",
    ),
    (
        "volumes_match",
        lambda d: _config_map(d, "postgres-scripts")["data"].pop("create-databases.sh"),
        "has no create-databases.sh",
    ),
    ("services_answer", lambda d: _rename(d, "Service", "mlflow"), "no service mlflow has port"),
    ("services_answer", lambda d: _rename(d, "Service", "postgres"), "no service postgres has"),
    ("services_answer", lambda d: _rename(d, "Service", "redis"), "no service redis has port 63"),
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
        "pods_are_restricted",
        lambda d: _pod(d, "redis").spec["securityContext"].pop("runAsUser"),
        "may run as root",
    ),
    (
        "pods_are_restricted",
        lambda d: _pod(d, "mlflow").spec["securityContext"].update(runAsNonRoot=False),
        "may run as root",
    ),
    (
        "pods_are_restricted",
        lambda d: _pod(d, "ray-submitter").spec["securityContext"].pop("seccompProfile"),
        "no seccomp profile",
    ),
    (
        "pods_are_restricted",
        lambda d: _container(d, "ray-worker").pop("securityContext"),
        "keeps capabilities",
    ),
    (
        "pods_are_restricted",
        lambda d: _cluster(d)["autoscalerOptions"].pop("securityContext"),
        "container autoscaler: securityContext.allowPrivilegeEscalation is not false",
    ),
    (
        "pods_are_restricted",
        lambda d: _pod(d, "mlflow").spec["initContainers"][0].pop("securityContext"),
        "container wait-for-database: keeps capabilities",
    ),
    (
        "pods_are_restricted",
        lambda d: _container(d, "redis")["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem is not true",
    ),
    (
        "pods_are_restricted",
        lambda d: _container(d, "redis")["securityContext"]["capabilities"].update(
            add=["SYS_ADMIN"]
        ),
        "adds capability SYS_ADMIN",
    ),
    (
        "pods_are_restricted",
        lambda d: _container(d, "redis")["securityContext"].update(privileged=True),
        "is privileged",
    ),
    (
        "pods_are_restricted",
        lambda d: _pod(d, "redis").spec.update(hostNetwork=True),
        "has hostNetwork",
    ),
    (
        "pods_are_restricted",
        lambda d: _container(d, "redis")["ports"][0].update(hostPort=6379),
        "has a port of the host",
    ),
    (
        "pods_are_restricted",
        lambda d: _pod(d, "redis").spec["volumes"].append(
            {"name": "root", "hostPath": {"path": "/"}}
        ),
        "volume root is a hostPath",
    ),
    (
        "resources_are_set",
        lambda d: _container(d, "ray-head")["resources"]["limits"].pop("memory"),
        "has no limits of memory",
    ),
    (
        "resources_are_set",
        lambda d: _container(d, "postgres-backup")["resources"]["requests"].pop(
            "ephemeral-storage"
        ),
        "has no requests of ephemeral-storage",
    ),
    (
        "resources_are_set",
        lambda d: _pod(d, "redis").spec["volumes"].append({"name": "tmp2", "emptyDir": {}}),
        "volume tmp2 has no limit",
    ),
    ("probes_are_set", lambda d: _container(d, "mlflow").pop("livenessProbe"), "no livenessProbe"),
    ("probes_are_set", lambda d: _container(d, "ray-worker").pop("startupProbe"), "no startupPr"),
    (
        "ends_leave_time",
        lambda d: _pod(d, "ray-worker").spec.update(terminationGracePeriodSeconds=120),
        "terminationGracePeriodSeconds is 120, and 120 s may be needed",
    ),
    (
        "ends_leave_time",
        lambda d: _pod(d, "ray-head").spec.pop("terminationGracePeriodSeconds"),
        "terminationGracePeriodSeconds is 30, and 120 s may be needed",
    ),
    (
        "ends_leave_time",
        lambda d: _container(d, "ray-head").update(env=[]),
        "the head has no RAY_JOB_STOP_WAIT_TIME_S",
    ),
    (
        "data_is_read_only",
        lambda d: _container(d, "ray-worker")["volumeMounts"][0].pop("readOnly"),
        "can write dtkd-data",
    ),
    (
        "data_is_read_only",
        lambda d: _pod(d, "ray-head").spec["volumes"][0]["persistentVolumeClaim"].pop("readOnly"),
        "can write dtkd-data",
    ),
    (
        "tokens_are_not_mounted",
        lambda d: _pod(d, "ray-worker").spec.pop("automountServiceAccountToken"),
        "every container gets a token",
    ),
    (
        "tokens_are_not_mounted",
        lambda d: _container(d, "ray-head")["volumeMounts"].append(
            {"name": "kubernetes-token", "mountPath": "/token"}
        ),
        "container ray-head: mounts a token",
    ),
    (
        "all_is_denied",
        lambda d: _policy(d, "deny-all").update(policyTypes=["Ingress"]),
        "none denies all",
    ),
    (
        "policies_select_pods",
        lambda d: _policy(d, "redis")["podSelector"]["matchLabels"].update(app="rediss"),
        "no pod has the labels",
    ),
    (
        "policies_select_pods",
        lambda d: _policy(d, "mlflow")["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(
            app="postgresql"
        ),
        "no pod has the labels",
    ),
    (
        "rules_name_ports",
        lambda d: _policy(d, "redis")["ingress"][0].pop("ports"),
        "open to all, or for all ports",
    ),
    (
        "rules_name_ports",
        lambda d: _policy(d, "redis")["ingress"][0].pop("from"),
        "open to all, or for all ports",
    ),
    (
        "ports_are_open",
        lambda d: _container(d, "mlflow")["ports"].append({"containerPort": 5001}),
        "no policy lets anybody reach port 5001",
    ),
    (
        "ports_are_open",
        lambda d: _policy(d, "ray-metrics").update(ingress=[]),
        "no policy lets anybody reach port 8080",
    ),
    (
        "both_ends_agree",
        lambda d: _policy(d, "mlflow")["egress"].pop(0),
        "mlflow to postgres: ingress to ports 5432 to 5432 meets no egress",
    ),
    (
        "both_ends_agree",
        lambda d: _policy(d, "ray-worker")["ingress"][1]["ports"].pop(),
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
        lambda d: _set_env(d, "mlflow", "MLFLOW_AUTH_ADMIN_PASSWORD", "x"),
        "MLFLOW_AUTH_ADMIN_PASSWORD is a value",
    ),
    (
        "secrets_are_referred_to",
        lambda d: _set_env(d, "mlflow", "DATABASE", "postgresql://mlflow:word@postgres/mlflow"),
        "has a password in a text",
    ),
    (
        "secrets_are_referred_to",
        lambda d: _config_map(d, "mlflow-config")["data"].update(
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
        lambda d: _cluster(d)["authOptions"].update(mode="disabled"),
        "takes jobs without a token",
    ),
    (
        "kuberay_accepts",
        lambda d: _cluster(d)["workerGroupSpecs"][0].update(minReplicas=9),
        "replicas is not between",
    ),
    (
        "kuberay_accepts",
        lambda d: _pod(d, "ray-head").spec.update(restartPolicy="Always"),
        "restarts pods beside the autoscaler",
    ),
    (
        "kuberay_accepts",
        lambda d: find(d, "RayJob")["metadata"].update(name="x" * 48),
        "no DNS-1035 label of at most 47",
    ),
    (
        "kuberay_accepts",
        lambda d: _job(d).update(shutdownAfterJobFinishes=True),
        "has deletionRules and shutdownAfterJobFinishes",
    ),
    ("kuberay_accepts", lambda d: _job(d).pop("deletionStrategy"), "its cluster stays for ever"),
    (
        "kuberay_accepts",
        lambda d: _job(d).update(clusterSelector={"ray.io/cluster": "dtkd"}),
        "retries on a cluster that it does not own",
    ),
    (
        "kuberay_accepts",
        lambda d: _job(d)["rayClusterSpec"].update(enableInTreeAutoscaling=True),
        "deletes workers beside an autoscaler",
    ),
    (
        "kuberay_accepts",
        lambda d: at(_job(d), "deletionStrategy.deletionRules.condition")[0].update(
            ttlSeconds=90_000
        ),
        "a later deletion comes earlier",
    ),
    (
        "images_are_fixed",
        lambda d: _container(d, "redis").update(image="redis:latest"),
        "image redis:latest has no tag that stays",
    ),
    ("images_are_fixed", lambda d: _container(d, "redis").update(image="redis"), "has no tag"),
]


@pytest.mark.parametrize(("name", "break_it", "expected"), BROKEN)
def test_broken_copies_are_found(name, break_it, expected):
    documents = documents_of()
    break_it(documents)
    assert any(expected in problem for problem in problems_of_rule(name, documents))


def test_every_rule_has_a_broken_copy():
    assert {name for name, _, _ in BROKEN} == set(rules(release=False))


def test_a_release_needs_digests():
    rule = rules(release=True)["images_are_fixed"]
    documents = documents_of()
    assert len(list(rule(documents))) > 5
    for pod in pods(documents):
        for container in pod.containers:
            container["image"] = "registry.example.com/team/image@sha256:" + "0" * 64
    documents[:] = [copy.deepcopy(d) for d in documents if d["kind"] != "RayCluster"]
    assert list(rule(documents)) == []
