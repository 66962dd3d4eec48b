"""The page that describes the service tells the truth: requests made from it get what it says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from hegpu.backend.cpu import CpuBackend
from hegpu.service.app import create_app
from hegpu.service.catalogue import load_catalogue
from hegpu.service.limits import Limits
from hegpu.service.service import PROTOCOLS, Service
from hegpu.service.tokens import Tokens, make_token

# A description cannot say which model is run by which protocol, how long a body of a session is, what its digest is.
REFUSED_ALL_THE_SAME = ["2xx", 400, 404, 413, 422]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """(the description of an application, a valid token)"""
    folder = tmp_path_factory.mktemp("openapi")
    token = make_token("tester", folder / "tokens", False)
    tokens = Tokens.read(folder / "tokens")
    catalogue = load_catalogue(folder, True, {"linear": PROTOCOLS["linear"]})
    service = Service(CpuBackend(1), catalogue, tokens, folder / "state", Limits())
    config = schemathesis.Config.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": REFUSED_ALL_THE_SAME}}}
    )
    app = create_app(service)

    async def running(scope, receive, send) -> None:
        """The application, which schemathesis would start and stop around every request."""
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})

    yield schemathesis.openapi.from_asgi("/openapi.json", running, config=config), token
    service.close()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_description(described, mode) -> None:
    """Every operation, with what it takes and with what it does not, against all checks of schemathesis."""
    schema, token = described
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 11
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.path_parameters or operation.body):
            continue  # takes nothing that could be wrong

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {token}"})

        check()
