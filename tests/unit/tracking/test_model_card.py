"""A student's card says what it is, as Markdown in which names are only names."""

import pytest
from safetensors.torch import save_file

from service.models.build import build_model
from service.run.journal import Event
from service.run.student_card import student_card
from service.spec.loading import parse_spec
from service.tracking.markdown import code_block, escaped, limited, table
from service.tracking.model_card import MAX_CLASSES, model_card

VALUES = {"val/top1": 0.6034, "val/top5": 0.98, "val/ece": 0.0312, "val/agreement": 0.71}
TAGS = {
    "dataset_train_fingerprint": "ab" * 32,
    "dataset_train_num_images": "256",
    "dataset_val_fingerprint": "cd" * 32,
    "service_version": "0.1.0",
}


def card_of(content, tmp_path, epoch=2, values=VALUES, classes=("cat", "dog", "n01440764", "a|b")):
    spec = parse_spec(content)
    path = tmp_path / "weights.safetensors"
    save_file(build_model(spec.student.model, 4).state_dict(), path)
    card = student_card(spec, classes, path, run_id="0123")
    event = Event("evaluation", 10, epoch, 0, values)
    return spec, card, model_card(spec, card, event, TAGS)


def test_card_has_figures_training_limits_and_code(make_content, teacher, tmp_path):
    losses = {"ce": {"weight": 0.5}, "dtkd": {"weight": 3}}
    content = make_content(teacher=teacher, losses=losses, training={"ema_decay": 0.9})
    spec, card, text = card_of(content, tmp_path)
    for value in ("60.34%", "98.00%", "3.12%", "71.00%"):
        assert f"| {value} |" in text
    assert "after epoch 2 of 2." in text
    assert "ce x 0.5, dtkd x 3" in text
    assert "distillation from cifar:resnet8" in text
    assert "decay 0.9" in text
    assert spec.content_hash() in text
    assert "abababababab" in text
    assert "cat, dog, tench, a\\|b" in text
    assert "16 pixels" in text
    assert "0.485, 0.456, 0.406" in text
    for snippet in card["load"].values():
        assert f"```python\n{snippet}\n```" in text
    assert "license" not in text.lower()


def test_card_of_a_checkpoint_warns_of_its_choice(make_content, tmp_path):
    _, _, text = card_of(make_content(), tmp_path, epoch=1, values={"val/top1": 0.5})
    assert "after epoch 1 of 2; if it was chosen by them" in text
    assert "trained on labels, without a teacher" in text
    assert "ECE" not in text


def test_held_out_images_are_not_called_val(make_content, tmp_path):
    content = make_content(dataset={"held_out": {"num_images": 64}})
    _, _, text = card_of(content, tmp_path, values={"held_out/top1": 0.5})
    assert "| 50.00% |" in text
    assert "On held-out images of train" in text


@pytest.mark.parametrize("classes", [None, tuple(f"class{i}" for i in range(1000))])
def test_many_classes_are_cut_and_unknown_ones_left_out(make_content, tmp_path, classes):
    _, _, text = card_of(make_content(), tmp_path, classes=classes)
    if classes is None:
        assert "into 4 classes." in text
    else:
        assert f"class{MAX_CLASSES - 1} and {1000 - MAX_CLASSES} more" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b*c", "a\\_b\\*c"),
        ("[x](http://y)", "\\[x\\](http://y)"),
        ("<script>|", "\\<script\\>\\|"),
        ("two\nlines", "two lines"),
    ],
)
def test_special_characters_are_escaped(text, expected):
    assert escaped(text) == expected
    assert table("h", [(text, text)]).splitlines()[2] == f"| {expected} | {expected} |"


def test_fence_is_longer_than_those_within():
    assert code_block("a\n```\nb").splitlines() == ["````", "a", "```", "b", "````"]


def test_whole_lines_are_kept_up_to_the_limit():
    assert limited("ab\ncd\nef", 8) == "ab\ncd\nef"
    assert limited("ab\ncd\nef", 7) == "ab\ncd"
