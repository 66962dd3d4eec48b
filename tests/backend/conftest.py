import pytest

from hegpu.backend.cpu import CpuBackend, simd_levels
from hegpu.backend.protocol import Backend
from hegpu.backend.reference import ReferenceBackend


@pytest.fixture(params=["reference", "cpu-scalar", "cpu-avx2", "cpu-avx512"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend of this machine; the tests compare each with the reference, bit for bit."""
    if request.param == "reference":
        return ReferenceBackend()
    level = request.param.partition("-")[2]
    if level not in simd_levels():
        pytest.skip(f"this processor has no {level}")
    return CpuBackend(threads=2, simd=level)


@pytest.fixture
def reference() -> Backend:
    return ReferenceBackend()
