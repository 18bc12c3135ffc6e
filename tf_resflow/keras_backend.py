"""The backend of Keras that this package needs."""


def check_backend(name: str) -> None:
    """Raises an ImportError if the name of the backend is not "tensorflow"."""
    if name != "tensorflow":
        raise ImportError(
            f"tf_resflow needs Keras on TensorFlow, but the backend is {name!r}: set KERAS_BACKEND=tensorflow, or "
            '"backend": "tensorflow" in ~/.keras/keras.json.'
        )
