"""Images that are smaller than the crops are enlarged, and the user is warned."""

import numpy as np
from PIL import Image

from data_pipeline.batches import center_crop
from data_pipeline.beton import open_beton
from data_pipeline.loader import ImageLoader
from jobs import distill
from service.spec.image_warnings import small_image_warnings
from service.spec.loading import parse_job

LARGE = {
    "augmentation": {
        "crop": "random_resized",
        "size": 32,
        "size_stages": [{"from_epoch": 1, "size": 24}],
    },
    "evaluation": {"resize_size": 64, "crop_size": 56},
}


def test_each_crop_that_is_too_large_is_named(make_content):
    fields = [
        text.split(" ")[0] for text in small_image_warnings(*parse_job(make_content(**LARGE)))
    ]
    assert fields == [
        "augmentation.size",
        "augmentation.size_stages.0.size",
        "evaluation.crop_size",
    ]


def test_images_as_large_as_the_crop_are_not_mentioned(make_content):
    content = make_content(augmentation={"size": 16}, evaluation={"crop_size": 16})
    assert small_image_warnings(*parse_job(content)) == []


def test_validation_warns_and_accepts(write_spec, capsys):
    assert distill.main([str(write_spec(**LARGE)), "--validate"]) == 0
    assert "warning: augmentation.size is 32" in capsys.readouterr().out


def test_small_images_are_enlarged_as_pillow_does(data_folder):
    file = open_beton(data_folder / "val.beton")
    with ImageLoader(file, seed=0, num_threads=1) as loader:
        (small,) = loader.batches([np.arange(4)], center_crop(16, 16))
        small_images = small.images.numpy().copy()
        (large,) = loader.batches([np.arange(4)], center_crop(64, 64))
        for image, enlarged in zip(small_images, large.images.numpy(), strict=True):
            expected = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
            assert np.abs(np.asarray(expected, int) - enlarged.astype(int)).max() <= 1
