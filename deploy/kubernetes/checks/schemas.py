"""Validates manifests against the schemas of Kubernetes and of KubeRay's own kinds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jsonschema
import kubernetes_validate
import yaml

from checks.manifests import Document, label
from service.spec.errors import BadInputError, Problem

KUBERNETES_VERSION = "1.37"
RAY_GROUP = "ray.io/"
CRD_FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


class Validator(Protocol):
    """A validator of jsonschema."""

    def iter_errors(self, instance: object) -> Iterator[jsonschema.ValidationError]:
        """What is wrong with an object."""


def is_ray(document: Document) -> bool:
    """Whether KubeRay defines the kind of an object."""
    return bool(document["apiVersion"].startswith(RAY_GROUP))


def kubernetes_problems(documents: list[Document]) -> Iterator[Problem]:
    """What Kubernetes would refuse, or ignore, of its own kinds; equal objects are checked once."""
    unique = {json.dumps(document, sort_keys=True): document for document in documents}
    for document in unique.values():
        if is_ray(document):
            continue
        try:
            kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = f"{label(document)}, {'.'.join(map(str, error.absolute_path))}"
            yield Problem(place, error.message, f"see Kubernetes {KUBERNETES_VERSION}'s API")


def ray_validators(crds: Path) -> dict[str, Validator]:
    """A validator for each of KubeRay's kinds, from a folder with its definitions.

    Raises:
        BadInputError: the folder has not all of them.
    """
    validators: dict[str, Validator] = {}
    for kind, name in CRD_FILES.items():
        if not (crds / name).is_file():
            remedy = "give KubeRay's helm-chart/kuberay-operator/crds"
            raise BadInputError("--crds", [Problem(str(crds), f"has no {name}", remedy)])
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        definition = yaml.load((crds / name).read_text(), loader)
        (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
        schema = strict_schema(version["schema"]["openAPIV3Schema"])
        schema["properties"].update(apiVersion={}, kind={}, metadata={})
        validators[kind] = jsonschema.Draft202012Validator(schema)
    return validators


def ray_problems(documents: list[Document], validators: dict[str, Validator]) -> Iterator[Problem]:
    """What KubeRay's CustomResourceDefinitions would refuse, or ignore."""
    for document in filter(is_ray, documents):
        for error in validators[document["kind"]].iter_errors(document):
            place = f"{label(document)}, {'.'.join(map(str, error.absolute_path))}"
            yield Problem(place, error.message, "see KubeRay's API reference")


def strict_schema(schema: Any) -> Any:  # noqa: ANN401 - a part of a JSON schema
    """The same schema of a CustomResourceDefinition as JSON Schema, without unknown fields.

    Kubernetes ignores fields that the schema does not have: a misspelled one would have no effect.
    """
    if isinstance(schema, list):
        return [strict_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: strict_schema(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    has_fields = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if has_fields and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
