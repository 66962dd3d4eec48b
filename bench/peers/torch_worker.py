"""torch on the plain image. Runs in its own interpreter: ``python torch_worker.py``."""

import torch
from protocol import sample, serve


def conv2d(channels, side, kernel, threads, rounds, iterations):
    """float32 ``conv2d`` of one slice, channels -> channels, no padding."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, channels, side, side, generator=generator)
    w = torch.rand(channels, channels, kernel, kernel, generator=generator) - 0.5
    with torch.inference_mode():
        y = torch.nn.functional.conv2d(x, w)
        exact = (x[0, :, 7 : 7 + kernel, 9 : 9 + kernel].double() * w[3].double()).sum()
        error = float(abs(y[0, 3, 7, 9].double() - exact) / exact.abs().clamp(min=1))
        if error > 1e-4:
            raise ValueError(f"wrong result, error {error}")
        return {"samples": sample(lambda: torch.nn.functional.conv2d(x, w), rounds, iterations), "check": error}


if __name__ == "__main__":
    serve({"conv2d": conv2d}, f"torch {torch.__version__}")
