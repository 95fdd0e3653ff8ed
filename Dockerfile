# syntax=docker/dockerfile:1
# The program on a CPU, from the wheel in dist/ (.ci/wheels makes it):
#
#     docker build -t metaqap .
#     docker run --rm -v "$PWD/photos:/data" metaqap score . -o scores.h5
#
# With other extras: --build-arg EXTRAS=[formats,remote]. For an NVIDIA GPU: --build-arg EXTRAS=[gpu], which brings
# torch (5 GB), and `docker run --gpus all`; the host has the driver and NVIDIA's container toolkit. See docs/install.md.
FROM python:3.13-slim
ARG EXTRAS=""
RUN --mount=type=bind,source=dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/metaqap_fast-*-py3-none-*.whl)${EXTRAS}"
# Compiled models are kept in /home/scorer/.cache: give it a volume, and the next container starts quicker.
RUN useradd --create-home --uid 1000 scorer && install -d -o scorer /data /home/scorer/.cache
USER scorer
WORKDIR /data
ENTRYPOINT ["metaqap-fast"]
CMD ["--help"]
