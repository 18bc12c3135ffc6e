"""The backend of Keras that this package needs."""

__all__ = ["check_backend"]


def check_backend(name):
    """Refuses another backend than TensorFlow.

    Args:
      name: of the backend.

    Raises:
      ImportError: when it is not "tensorflow".
    """
    if name != "tensorflow":
        raise ImportError(
            f"tf_resflow needs Keras on TensorFlow, but the backend is {name!r}: set KERAS_BACKEND=tensorflow, or "
            '"backend": "tensorflow" in ~/.keras/keras.json.'
        )
