import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    terminalreporter.write_line(
        f"gpu tests: run on {device}" if device else "gpu tests: skipped, torch sees no CUDA device"
    )
