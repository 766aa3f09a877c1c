"""What is known of torchvision's published weights without torchvision is what it says itself."""

from pathlib import Path
from urllib.parse import urlparse

import pytest
from torchvision.models import get_model_weights

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.model_names import TORCHVISION_MODELS
from service.spec.published_weights import TRANSFORMED_INPUT, enums_of, published_image_size
from service.spec.weights_metadata import stated_variant


@pytest.mark.parametrize("model", sorted(TORCHVISION_MODELS))
def test_enums_and_image_sizes_are_torchvisions(model):
    published = get_model_weights(model).__members__
    classifiers = {name for name, weights in published.items() if weights.meta["categories"]}
    assert set(enums_of(model)) == classifiers
    for name in classifiers:
        meta = published[name].meta
        assert len(meta["categories"]) == 1000
        if model.startswith("vit_"):
            assert (published_image_size(model, name) or 224) == meta["min_size"][0]
        if model in TRANSFORMED_INPUT:
            file_name = Path(urlparse(published[name].url).path).stem
            assert file_name.endswith(f"-{TRANSFORMED_INPUT[model]}")


@pytest.mark.parametrize(
    ("model", "weights", "num_classes", "field", "wrong"),
    [
        ("resnet18", {"source": "torchvision:IMAGENET1K_V2"}, 1000, "source", "has no weights"),
        ("vgg16", {"source": "torchvision:IMAGENET1K_FEATURES"}, 1000, "source", "no weights"),
        ("timm:resnet18", {"source": "torchvision:DEFAULT"}, 1000, "source", "for timm:resnet18"),
        ("resnet18", {"source": "torchvision:DEFAULT"}, 4, "source", "1000 classes"),
        ("resnet18", {"source": "torchvision:DEFAULT", "key": "model"}, 1000, "key", "is set"),
        (
            "resnet18",
            {"source": "torchvision:DEFAULT", "transform_input": True},
            1000,
            "transform_input",
            "is set for resnet18",
        ),
    ],
)
def test_what_torchvision_does_not_have_is_a_problem(
    make_content, model, weights, num_classes, field, wrong
):
    content = make_content(
        dataset={"num_classes": num_classes}, teacher={"model": model, "weights": weights}
    )
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    (problem,) = (p for p in caught.value.problems if p.where.startswith("teacher"))
    assert problem.where == f"teacher.weights.{field}"
    assert wrong in problem.wrong


def test_what_torchvision_has_is_accepted_with_its_variant(make_content):
    teacher = {"model": "googlenet", "weights": {"source": "torchvision:IMAGENET1K_V1"}}
    spec = parse_spec(make_content(dataset={"num_classes": 1000}, teacher=teacher))
    assert stated_variant("googlenet", spec.teacher.weights).transform_input
