"""Datasets as they are distributed, small, and what jobs/convert.py makes of them."""

import io
import tarfile

from support.image_makers import jpeg_bytes, smooth_image

from data_pipeline.beton import open_beton
from data_pipeline.manifest import read_manifest
from jobs import convert

WNIDS = ["n01443537", "n01629819", "n01641577"]


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg_bytes(smooth_image(24, 20, seed)))


def write_tiny_imagenet(root):
    """Tiny ImageNet's folders, with two images of three classes in train and val."""
    lines = []
    for number, wnid in enumerate(sorted(WNIDS * 2)):
        write_image(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", number)
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_{number}.JPEG\t0\t10\t3\t9\n")
        write_image(root / f"val/images/val_{number}.JPEG", 10 + number)
        write_image(root / f"test/images/test_{number}.JPEG", 20 + number)
    for number, wnid in enumerate(sorted(WNIDS * 2, reverse=True)):
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))


def convert_to(path, source, *options):
    """The labels and classes of a source that jobs/convert.py converts to ``path``."""
    assert convert.main([str(source), str(path), *map(str, options)]) == 0
    return sorted(open_beton(path).labels.tolist()), read_manifest(path)["classes"]


def refusal(capsys, tmp_path, source, *options):
    """What jobs/convert.py prints when it refuses a source, which must be one line."""
    capsys.readouterr()
    assert convert.main([str(source), str(tmp_path / "out.beton"), *map(str, options)]) == 2
    assert not list(tmp_path.glob("out.beton*"))
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line


def write_shard(path, names):
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            image = jpeg_bytes(smooth_image(24, 20, number))
            content = image if name.endswith(".jpg") else str(number % 2).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
