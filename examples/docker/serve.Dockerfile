# An image that serves one exported model with TensorFlow Serving, over gRPC (port 8500) and HTTP (port 8501):
#   resflow-export --workdir=runs/digits --export_dir=served/digits
#   docker build -f examples/docker/serve.Dockerfile --build-arg MODEL=served/digits -t digits .
#   docker run --rm -p 8500:8500 -p 8501:8501 digits
# For an image that does not change, also pass --build-arg TF_SERVING_VERSION=VERSION.
ARG TF_SERVING_VERSION=latest
FROM tensorflow/serving:${TF_SERVING_VERSION}
ARG MODEL
COPY ${MODEL} /models/flow
ENV MODEL_NAME=flow
