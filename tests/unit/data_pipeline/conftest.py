"""Fixtures of the data pipeline's tests."""

import pytest
from support.image_makers import converted, write_folder
from support.layout_makers import write_tiny_imagenet

from data_pipeline.beton import open_beton


@pytest.fixture
def image_folder(tmp_path):
    """Class folders with JPEGs of different sizes."""
    return write_folder(tmp_path / "images")


@pytest.fixture
def jpeg_file(tmp_path):
    """Twelve JPEGs of different sizes."""
    converted(write_folder(tmp_path / "images"), tmp_path / "jpeg.beton")
    return open_beton(tmp_path / "jpeg.beton")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Tiny ImageNet's folders, with two images of three classes in train and val; not to change."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    write_tiny_imagenet(root)
    return root
