# An image that trains. Build it in the root of the repository:
#   docker build -f examples/docker/train.Dockerfile -t resflow-train .
#   mkdir -p runs
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" resflow-train --config=digits --workdir=/runs/digits
# For GPUs, build with --build-arg TENSORFLOW=tensorflow[and-cuda], and run with --gpus=all.
FROM python:3.12-slim
ARG TENSORFLOW=tensorflow
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir "${TENSORFLOW}" ".[all]" -c constraints.txt
WORKDIR /
RUN useradd --create-home --uid 1000 resflow
USER 1000
ENTRYPOINT ["resflow-train"]
