from tests.serving.conftest import (  # noqa: F401
    call,
    export_dir,
    exported_vectors,
    image_model,
    images,
    loaded,
    loaded_vectors,
    vector_model,
)
