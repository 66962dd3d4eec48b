"""The one family of errors. Every message names the operation, its operands, the cause and what to do."""


class HegpuError(Exception):
    """Base class: ``except hegpu.HegpuError`` catches everything this package raises on purpose."""


class ParameterError(HegpuError, ValueError):
    """An argument or an encryption parameter lies outside its documented range."""


class SecurityError(ParameterError):
    """Parameters reach less than the required security level."""


class FormatError(HegpuError, ValueError):
    """A file or message is damaged, hostile, of another version or of another kind."""


class KeyMismatchError(HegpuError):
    """A key does not belong to the ciphertext it is used with."""


class MissingKeyError(HegpuError):
    """An operation needs an evaluation key that was not made."""


class ModelError(HegpuError, ValueError):
    """A network file is damaged, or the network cannot be executed by the chosen protocol."""


class BudgetError(HegpuError):
    """The modulus is too small: the network is too deep, its weights too large or the noise too high."""


class ImageError(HegpuError, ValueError):
    """An image or DICOM file cannot be used: wrong modality, shape, range or missing pixel data."""


class BackendError(HegpuError, RuntimeError):
    """The requested backend does not exist on this machine."""
