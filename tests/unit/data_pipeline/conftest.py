"""Fixtures of the data pipeline's tests."""

import pytest
from support.image_makers import write_folder


@pytest.fixture
def image_folder(tmp_path):
    """Class folders with JPEGs of different sizes."""
    return write_folder(tmp_path / "images")
