"""Accuracies, and what latencies are measured on, in closed form."""

import numpy as np

from service.export import side_by_side
from service.export.side_by_side import compare_accuracy, compare_latency


def classes(*predicted):
    """A function that gives images these classes; "none" has logits that are not finite."""

    def classify(images):
        rows = [np.full(3, np.nan) if c == "none" else np.eye(3)[c] for c in predicted]
        return np.array([rows[int(image[0, 0, 0])] for image in images], np.float32)

    return classify


def numbered(count):
    return np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones(
        (1, 3, 2, 2), np.float32
    )


def test_accuracies_count_every_image_once_and_nan_as_wrong():
    images, labels = numbered(5), np.array([0, 1, 2, 0, 1])
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    networks = classes(0, 1, 2, 0, 2), classes(0, 1, 0, "none", 2)
    pair = compare_accuracy(*networks, batches, None)
    assert pair == (5, 0.8, 0.4, 0.6)
    assert round(pair.drop_points, 9) == 40
    # Wilson's interval of 2 of 5, with 1.96 standard deviations.
    assert pair.interval(pair.int8) == "11.8 to 76.9 %"


def test_accuracies_of_some_classes_leave_the_other_logits_out():
    """Of two classes in another order; the third one, which is predicted, does not count."""

    def classify(images):
        return np.repeat(np.float32([[0.1, 0.2, 9]]), len(images), axis=0)

    batches = [(numbered(3), np.array([0, 1, 0]))]
    assert compare_accuracy(classify, classify, batches, (1, 0)).float32 == 2 / 3


def test_latency_batches_are_full_whatever_the_number_of_images(monkeypatch):
    monkeypatch.setattr(side_by_side, "MEASURED_S", 0)
    sizes = []

    def classify(images):
        sizes.append(images.shape)
        return images

    pairs = compare_latency(classify, classify, numbered(9))
    assert [pair.batch_size for pair in pairs] == [1, 32]
    assert set(sizes) == {(1, 3, 2, 2), (32, 3, 2, 2)}
    assert all(pair.float32_s > 0 and pair.int8_s > 0 for pair in pairs)
