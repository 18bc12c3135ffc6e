from tests.serving.conftest import image_model, images, vector_model  # noqa: F401
