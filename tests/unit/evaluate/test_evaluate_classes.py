"""A model's classes are the data's: by label, or by name where it has more or another order."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_makers import converted, write_folder
from support.teachers import WNIDS
from torchvision.transforms import v2

from data_pipeline.beton import digest
from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection
from data_pipeline.sources.image_labels import imagenet_names
from data_pipeline.sources.unlabeled import open_unlabeled
from service.evaluate.dataset import logit_indices, names_of_classes, open_data
from service.evaluate.options import ModelOptions
from service.evaluate.predict import Execution, center_crops, classifier, predict
from service.evaluate.preprocessing import Preprocessing
from service.evaluate.source import FoundModel
from service.models.build import build_model
from service.spec.data_sections import Normalization
from service.spec.errors import BadInputError

OPTIONS = ModelOptions()


def model_of(names, num_classes=None, network=None):
    count = num_classes or len(names)
    size = Preprocessing(34, 30, Normalization())
    readable = tuple(imagenet_names().get(name, name) for name in names) if names else None
    network = network or torch.nn.Identity()
    known = (network, "cifar:resnet8", count, names, readable, size, "MODEL", "0" * 64)
    return FoundModel(*known, None, None, None, "bilinear", "options")


@pytest.fixture
def make_data(tmp_path):
    """A function that opens data with images of these classes, in this order."""

    def make(classes, per_class=3):
        root = write_folder(tmp_path / "images", len(classes), per_class)
        for label, name in enumerate(classes):
            (root / f"class{label}").rename(root / name)
        converted(root, tmp_path / "data.beton")
        return open_data(tmp_path / "data.beton")

    return make


def refusal(call):
    with pytest.raises(BadInputError) as error:
        call()
    (problem,) = error.value.problems
    return str(problem)


def test_the_same_classes_need_no_indices(make_data):
    data = make_data(("ant", "bee"))
    assert logit_indices(data, model_of(("ant", "bee")), OPTIONS, by_name=False) is None
    # Nothing is known of the names: labels are compared by their number.
    assert logit_indices(data, model_of(None, 2), OPTIONS, by_name=False) is None


def test_other_classes_are_refused(make_data):
    data = make_data(("ant", "bee"))
    text = refusal(lambda: logit_indices(data, model_of(("ant", "cat")), OPTIONS, by_name=False))
    assert text.startswith("MODEL: MODEL lacks bee, 1 of the data's 2 classes;")
    text = refusal(lambda: logit_indices(data, model_of(("bee", "ant")), OPTIONS, by_name=False))
    assert "has label 0 for bee, but in the data it is ant; give --classes by_name" in text
    more = model_of(("ant", "bee", "cat"))
    text = refusal(lambda: logit_indices(data, more, OPTIONS, by_name=False))
    assert "has 3 classes, the data 2; use data of its classes, or give --classes by_name" in text
    text = refusal(lambda: logit_indices(data, model_of(("ant",), 1), OPTIONS, by_name=False))
    assert text.endswith("has 1 classes, the data 2; use data of its classes")


def test_classes_by_name_may_be_some_in_another_order(make_data):
    data = make_data(("ant", "bee"))
    more = model_of(("cat", "Bee", "dog", "ant"))
    assert logit_indices(data, more, OPTIONS, by_name=True) == (3, 1)
    unnamed = model_of(None, 2)
    assert "does not name its classes" in refusal(
        lambda: logit_indices(data, unnamed, OPTIONS, by_name=True)
    )
    other = model_of(("ant", "ant", "bee"))
    assert "has several classes for ant" in refusal(
        lambda: logit_indices(data, other, OPTIONS, by_name=True)
    )
    lacking = model_of(("ant", "cat"))
    assert "lacks bee" in refusal(lambda: logit_indices(data, lacking, OPTIONS, by_name=True))


def test_imagenets_classes_are_found_by_their_wnids(make_data):
    data = make_data(WNIDS)
    wnids = tuple(sorted(imagenet_names()))
    assert logit_indices(data, model_of(wnids), OPTIONS, by_name=True) == (0, 217, 482, 491)
    assert names_of_classes(data, model_of(wnids))[0] == "tench"


def test_data_without_labels_is_refused(tmp_path):
    source = open_unlabeled(write_folder(tmp_path / "images"))
    convert(source, tmp_path / "data.beton", Encoding(), Selection(), 1, 0)
    text = refusal(lambda: open_data(tmp_path / "data.beton"))
    assert text.endswith("has no labels; give images with labels")


def test_images_and_logits_are_those_of_torchvision(make_data, tmp_path):
    """Resized and cropped as torchvision does, chosen classes alone; all images once."""
    data = make_data(("ant", "bee", "cat"), per_class=4)
    torch.manual_seed(3)
    network = build_model("cifar:resnet8", 5).eval()
    model = model_of(("cat", "x", "bee", "ant", "y"), network=network)
    indices = logit_indices(data, model, OPTIONS, by_name=True)
    execution = Execution(torch.device("cpu"), "float32", 5, 1)
    with center_crops(data, model.preprocessing, execution) as batches:
        found = predict(classifier(model, indices, execution), batches(), execution)
    prepare = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(34, antialias=True),
            v2.CenterCrop(30),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*model.preprocessing.normalization.model_dump().values()),
        ]
    )
    # The order of the file is another one than that of the folder.
    by_digest = {digest(file.read_bytes()): file for file in (tmp_path / "images").rglob("*.JPEG")}
    files = [by_digest[source] for source in data.file.digests["source"].tolist()]
    with torch.inference_mode():
        logits = network(torch.stack([prepare(Image.open(file)) for file in files]))
    expected = logits[:, [3, 2, 0]].double().log_softmax(1).numpy()
    np.testing.assert_array_equal(found.predicted, expected.argmax(1))
    assert [data.classes[label] for label in found.labels] == [file.parent.name for file in files]
    own = -expected[np.arange(12), found.labels]
    np.testing.assert_allclose(found.losses, own, atol=2e-2)
    np.testing.assert_allclose(found.confidences, np.exp(expected).max(1), atol=1e-2)
