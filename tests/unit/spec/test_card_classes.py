"""What the cards of weights say about classes."""

import pytest

from service.spec.teacher_classes import classes_of_card


@pytest.mark.parametrize(
    ("card", "num_names"),
    [
        ({"num_classes": 1000}, 1000),
        # A student of this service, whose data had no names, is of no ImageNet.
        ({"num_classes": 1000, "classes": None, "architecture": "resnet18"}, None),
        ({"num_classes": 10}, None),
        ({"num_classes": 2, "classes": ["cat", "dog"], "architecture": "resnet18"}, 2),
        ({"num_classes": 3, "classes": ["cat", "dog"], "architecture": "resnet18"}, None),
    ],
)
def test_only_what_a_card_can_mean_is_taken_for_names(card, num_names):
    known = classes_of_card(card)
    assert known.sizes == (card["num_classes"],)
    assert (known.names and len(known.names)) == num_names
