#!/usr/bin/env python3
"""An imitation of S3 that is called as SeaweedFS is, and knows the one key of its environment."""

import os
import sys
from collections.abc import Callable, Iterable

sys.path.insert(0, "/opt/stand-in")

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


def main() -> None:
    """Serve at the address and the port of the command."""
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    application = DomainDispatcherApplication(create_backend_app)

    def serve(environment: dict[str, str], respond: Callable[..., object]) -> Iterable[bytes]:
        if environment["PATH_INFO"] == "/healthz":
            respond("200 OK", [])
            return []
        key = f"Credential={os.environ['AWS_ACCESS_KEY_ID']}/"
        if key not in environment.get("HTTP_AUTHORIZATION", ""):
            respond("403 Forbidden", [])
            return []
        return application(environment, respond)

    run_simple(options["-ip.bind"], int(options["-s3.port"]), serve, threaded=True)


if __name__ == "__main__":
    main()
