"""Images without labels: all of a folder, tars and shards, whatever folders they are in."""

import tarfile

import pytest
from support.image_makers import jpeg_bytes, smooth_image
from support.layout_makers import refusal, write_image, write_shard
from support.source_makers import WNIDS, class_tars, image, samples, write_cifar, write_tar

from data_pipeline.beton import open_beton
from data_pipeline.manifest import read_manifest
from data_pipeline.sources import SourceError
from data_pipeline.sources.unlabeled import open_unlabeled
from jobs import convert, verify

NAMES = ["z.jpg", "a/b/c/deep.jpg", "train/cat/1.jpg", "val/1.jpg", "n01440764/x.JPEG"]


@pytest.fixture
def folder(tmp_path):
    """Images at every level, beside files that are none."""
    root = tmp_path / "images"
    for seed, name in enumerate(NAMES):
        write_image(root / name, seed)
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    (root / ".cache" / "hidden.jpg").write_bytes(b"")
    return root


def test_all_images_of_a_folder_are_one_class_and_the_rest_is_counted(folder, caplog):
    with caplog.at_level("INFO", "data_pipeline"):
        found = samples(open_unlabeled(folder))
    expected = {("unlabeled", (folder / name).read_bytes()) for name in NAMES}
    assert len(found) == len(expected)
    assert set(found) == expected
    assert "skipped 1 .txt file, 1 hidden or system file" in caplog.text


def test_a_tar_has_the_images_and_keys_of_its_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, "")
    of_tar, of_folder = open_unlabeled(tmp_path / "images.tar"), open_unlabeled(folder)
    assert sorted(samples(of_tar)) == sorted(samples(of_folder))
    assert set(of_tar.keys.tolist()) == set(of_folder.keys.tolist())


def test_images_of_inner_tars_and_of_a_folder_of_tars_are_found(tmp_path):
    expected = {("unlabeled", image(f"{wnid}{n}")) for wnid in WNIDS for n in (7, 12)}
    write_tar(tmp_path / "train.tar", class_tars())
    assert set(samples(open_unlabeled(tmp_path / "train.tar"))) == expected
    (tmp_path / "tars").mkdir()
    for name, content in class_tars().items():
        (tmp_path / "tars" / name).write_bytes(content)
    assert set(samples(open_unlabeled(tmp_path / "tars"))) == expected


def test_the_classes_of_shards_are_ignored_and_counted(tmp_path, caplog):
    write_shard(tmp_path / "s-000.tar", ["a.jpg", "a.cls", "b.jpg"])
    write_shard(tmp_path / "s-001.tar", ["a.jpg"])
    with caplog.at_level("INFO", "data_pipeline"):
        found = samples(open_unlabeled(tmp_path / "s-{000..001}.tar"))
    assert found.count(("unlabeled", jpeg_bytes(smooth_image(24, 20, 0)))) == 2
    assert len(found) == 3
    assert "skipped 1 .cls file" in caplog.text


def test_labels_of_cifar_are_ignored(tmp_path):
    pixels = write_cifar(tmp_path)
    found = samples(open_unlabeled(tmp_path / "cifar-10-batches-py", split="test"))
    assert {name for name, _ in found} == {"unlabeled"}
    assert (found[0][1] == pixels["cifar-10-batches-py/test_batch"][0]).all()


def test_what_has_no_images_or_two_kinds_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "no_images.tar", {"a.txt": b"x"})
    for name in ("empty", "no_images.tar"):
        with pytest.raises(SourceError, match="has no images"):
            open_unlabeled(tmp_path / name)
    write_image(tmp_path / "class" / "1.jpg", 1)
    with pytest.raises(SourceError, match="tars beside folders or images"):
        open_unlabeled(tmp_path)


def test_a_converted_file_says_that_it_has_no_labels(folder, tmp_path, capsys):
    path = tmp_path / "train.beton"
    assert convert.main([str(folder), str(path), "--unlabeled"]) == 0
    assert "5 images without labels" in capsys.readouterr().out
    assert read_manifest(path)["classes"] == ["unlabeled"]
    assert open_beton(path).labels.tolist() == [0] * 5
    assert verify.main([str(path)]) == 0


def test_a_source_without_classes_is_refused_without_the_option(folder, tmp_path, capsys):
    assert "convert" in refusal(capsys, tmp_path, folder)


@pytest.mark.parametrize(
    "options",
    [["--labels", "labels.txt"], ["--hold-out", "1", "--hold-out-path", "h.beton"]],
)
def test_options_about_labels_are_refused_with_it(folder, tmp_path, capsys, options):
    with pytest.raises(SystemExit, match="2"):
        convert.main([str(folder), str(tmp_path / "out.beton"), "--unlabeled", *options])
    assert "leave out --labels and --hold-out" in capsys.readouterr().err
