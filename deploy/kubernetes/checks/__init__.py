"""What the built manifests must satisfy, beyond the schemas of Kubernetes and KubeRay."""
