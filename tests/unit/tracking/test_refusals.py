"""What a server answers for good, and what may be otherwise later."""

import pytest
import requests

from service.tracking.refusals import is_refusal


@pytest.mark.parametrize(
    ("status", "expected"),
    # RFC 9110 and 6585: 4xx blames the request, 5xx the server; some of 4xx are of the moment.
    [
        *((status, True) for status in (400, 403, 404, 413)),
        *((status, False) for status in (408, 409, 429, 500, 502, 503)),
    ],
)
def test_status_of_a_request_for_artifacts(status, expected):
    response = requests.Response()
    response.status_code = status
    with pytest.raises(requests.HTTPError) as error:
        response.raise_for_status()
    assert is_refusal(error.value) is expected


def test_connection_that_breaks_is_no_refusal():
    assert not is_refusal(requests.HTTPError("no response"))
    assert not is_refusal(requests.ConnectionError("reset"))
