"""The one exception that the client raises."""


class ServiceError(RuntimeError):
    """Segmentation was not possible; the message says what happened and what to do."""
