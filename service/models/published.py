"""The files that torchvision publishes: downloaded once, as torch.hub does, but never unpickled."""

import re
from pathlib import Path
from urllib.parse import urlparse

import torch.hub

from service.spec.errors import BadInputError, Problem

# torch.hub names files by the beginning of their SHA-256 digest.
DIGEST = re.compile(r"-([a-f0-9]{8,})\.")


def published_file(model: str, enum: str, where: str) -> Path:
    """The local copy of the weights ``enum`` of torchvision's ``model``, downloaded if need be.

    Raises:
        BadInputError: naming the field ``where``; it cannot be downloaded.
    """
    # Imported here: torchvision takes seconds to import, and most networks need none of it.
    from torchvision.models import get_model_weights

    url = get_model_weights(model)[enum].url
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        digest = DIGEST.search(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), digest[1] if digest else None, progress=False
            )
        except (OSError, RuntimeError) as error:  # no connection; another digest
            wrong = f"{url} cannot be downloaded ({error})"
            remedy = "copy the file to the cluster and give its path"
            raise BadInputError("spec", [Problem(where, wrong, remedy)]) from error
    return path
