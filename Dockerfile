# pt_flows in a container. The default image runs on a CPU, and on GPUs through the driver of the host, because torch
# brings its own CUDA libraries. Another base with Python 3.11 or newer goes by BASE.
#     docker build -t pt-flows .
#     docker run --rm --gpus all -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" pt-flows fit --config cifar10/w1_fe
ARG BASE=python:3.12-slim
FROM ${BASE}
RUN useradd --create-home user && mkdir /work && chown user /work
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY pt_flows /src/pt_flows
COPY configs /src/configs
RUN python -m pip install --no-cache-dir -c /src/constraints.txt "/src[tune]" && rm -r /src
USER user
WORKDIR /work
ENTRYPOINT ["pt-flows"]
CMD ["help"]
