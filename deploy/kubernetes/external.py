"""What the manifests refer to and do not have: Secrets, and what Kubernetes itself makes."""

NAMESPACE = "dtkd"

SECRETS = {
    "dtkd-ray": ("auth_token",),
    "dtkd-redis": ("password",),
    "dtkd-postgres": ("superuser-password", "mlflow-password"),
    "dtkd-mlflow": ("admin-password", "flask-secret-key", "runs-username", "runs-password"),
    "dtkd-object-store": ("access-key", "secret-key"),
}
"""Keys of each Secret that create_secrets.py makes; auth_token is the key that KubeRay reads."""

TLS_SECRET = "dtkd-ingress-tls"
"""The certificate of the Ingress, from a certificate authority: create_secrets.py makes none."""

CLUSTER_CONFIG_MAPS = {"kube-root-ca.crt": ("ca.crt",)}
"""What Kubernetes puts into every namespace."""
