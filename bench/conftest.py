"""What every result file says about the machine; no host name, no path."""

import platform
import subprocess
from importlib.metadata import version

import pytest

from bench.peers.client import Clock
from hegpu.backend.cpu import simd_levels
from hegpu.doctor import processor


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pytest_benchmark_update_machine_info(config, machine_info):
    del config
    machine_info.clear()
    machine_info.update(
        processor=processor(), simd=simd_levels(), python=platform.python_version(), system=platform.system(),
        hegpu=version("hegpu"), numpy=version("numpy"),
    )  # fmt: skip


def pytest_benchmark_update_commit_info(config, commit_info):
    del config

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    commit_info.clear()
    dirty = bool(git("status", "--porcelain", "--", ":!reports"))
    commit_info.update(id=git("rev-parse", "HEAD"), dirty=dirty, time=git("show", "-s", "--format=%cI"))
