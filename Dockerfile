# Two targets. `cpu`: small, for the embedded guard. `cuda`: PyTorch with its CUDA libraries, for Llama Guard and other
# large guards.
#   docker build --target cpu  -t guardproxy .
#   docker build --target cuda -t guardproxy:cuda .
# Try, with a small chat model as the upstream: docker run --read-only --tmpfs /tmp -p 8080:8080 guardproxy
# Run: docker run --read-only --tmpfs /tmp -p 8080:8080 -v guardproxy:/data guardproxy serve --host 0.0.0.0 --upstream https://llm.example
# --build-arg: EXTRAS, the extras of pyproject.toml (`images,otel,postgres,redis`); TORCH_INDEX, where torch comes from;
# PIP_INDEX_URL, a mirror of PyPI; PYTHON_IMAGE. docs/deploying.md says when each is of use.
# The image listens on every interface of its container. Publish the port only on networks whose clients may use it.

ARG PYTHON_IMAGE=python:3.12-slim

# The lists of requirements change less often than the file that they are from. Then the layers made of them are cached.
FROM ${PYTHON_IMAGE} AS requirements
ARG EXTRAS=images,otel,postgres,redis
WORKDIR /src
COPY pyproject.toml deploy/image/requirements.py ./
RUN python requirements.py pyproject.toml "$EXTRAS" /requirements

FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/guardproxy
COPY --from=requirements /requirements /requirements

FROM build AS build-cpu
ARG PIP_INDEX_URL
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/guardproxy/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -r /requirements/torch.txt
RUN /opt/guardproxy/bin/pip install --no-cache-dir -r /requirements/all.txt \
    && /opt/guardproxy/bin/pip check \
    && /opt/guardproxy/bin/pip install --no-cache-dir --no-deps -r /requirements/alone.txt

# PyPI's torch for Linux includes the CUDA runtime; the host needs only the driver.
FROM build AS build-cuda
ARG PIP_INDEX_URL
ARG TORCH_INDEX
RUN /opt/guardproxy/bin/pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    -r /requirements/torch.txt
RUN /opt/guardproxy/bin/pip install --no-cache-dir -r /requirements/all.txt \
    && /opt/guardproxy/bin/pip check \
    && /opt/guardproxy/bin/pip install --no-cache-dir --no-deps -r /requirements/alone.txt

# The package by itself: a change of the code changes one small layer of the image, and not the one of torch.
FROM build AS package
ARG PIP_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY guardproxy guardproxy
RUN /opt/guardproxy/bin/pip install --no-cache-dir --no-deps --prefix /opt/package .

FROM ${PYTHON_IMAGE} AS runtime
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
COPY --from=package /opt/package /opt/guardproxy

# `docker build` without --target builds the last stage.
FROM runtime AS cpu
COPY --from=build-cpu /opt/guardproxy /opt/guardproxy
COPY --from=package /opt/package /opt/guardproxy
