"""The denoising service: an HTTP server that computes on ciphertexts, and its client."""
