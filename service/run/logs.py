"""The format and level of what a job's process logs."""

import logging


def set_up_logging() -> None:
    """Show the service's warnings on stderr, whatever level other libraries give the root logger.

    A process that has set up logging itself keeps its handlers.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("service").setLevel(logging.WARNING)
    # Of every try of a request; what sent it says itself that there was no answer.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
