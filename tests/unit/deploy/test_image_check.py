"""What the check of the image tells a build of this machine's package indexes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "deploy" / "docker"))

from cpu_image import pip_options


def test_an_index_in_the_network_is_passed_on_as_it_is():
    settings = "global.index-url='https://index.example/simple'\nglobal.timeout='60'\n"
    assert pip_options(settings) == ["--build-arg=PIP_INDEX_URL=https://index.example/simple"]


def test_local_folders_are_mounted_and_later_settings_count(tmp_path):
    wheels, certificates = tmp_path / "wheels", tmp_path / "cert.pem"
    index = tmp_path / "index" / "simple"
    for folder in (wheels, index):
        folder.mkdir(parents=True)
    certificates.touch()
    settings = (
        f"global.extra-index-url='https://a.example/ file://{index}'\n"
        f"global.find-links='/nowhere'\nglobal.cert='{certificates}'\n"
        f":env:.find-links='{wheels}'\n"
    )
    assert pip_options(settings) == [
        f"--volume={tmp_path / 'index'}:/tmp/pip/extra-index-url/1:ro",
        "--build-arg=PIP_EXTRA_INDEX_URL=https://a.example/ file:///tmp/pip/extra-index-url/1/simple",
        f"--volume={wheels}:/tmp/pip/find-links/0:ro",
        "--build-arg=PIP_FIND_LINKS=/tmp/pip/find-links/0",
        f"--volume={certificates}:/tmp/pip/cert/0:ro",
        "--build-arg=PIP_CERT=/tmp/pip/cert/0",
    ]
