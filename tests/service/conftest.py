import numpy as np
import pytest
from processes import Server

from hegpu.backend.cpu import CpuBackend
from hegpu.ct.phantom import phantom


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that do not break it."""
    s = Server(tmp_path_factory.mktemp("server"), "--body-seconds", "1", "--max-requests", "24", "--key-mib", "2",
               "--key-quota-mib", "3", "--body-memory-mib", "4")  # fmt: skip
    yield s
    s.stop()


@pytest.fixture(scope="session")
def backend() -> CpuBackend:
    return CpuBackend(1)


@pytest.fixture(scope="session")
def hu() -> np.ndarray:
    return phantom((48, 48), seed=1)
