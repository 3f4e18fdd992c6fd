# docker build --build-arg RUNTIME=cpu -t soft-targets:cpu .     or RUNTIME=gpu: CUDA 13 and cuDNN come as wheels, so
# the base image is the same; the driver and the NVIDIA Container Toolkit are the host's.
#
# The base is pinned by tag. To pin it by digest as well, pass what your registry gives for the tag:
#   --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG RUNTIME=cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY operators operators
COPY service service
# The environment has no pip of its own; that of the base image fills it, and stays here. What it fetched the builder
# keeps, outside of all layers: other sources bring no gigabytes again.
RUN --mount=type=cache,target=/root/.cache/pip \
    case "${RUNTIME}" in cpu|gpu) ;; *) echo "RUNTIME is cpu or gpu, not ${RUNTIME}" >&2; exit 2 ;; esac \
    && python -m venv --without-pip /opt/soft-targets \
    && python -m pip --python /opt/soft-targets/bin/python install --disable-pip-version-check \
        -c constraints.txt ./client ".[${RUNTIME},redis,otel]"

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="soft-targets" \
      org.opencontainers.image.description="Fuses several teacher models into one trustworthy soft target per input" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A user of a fixed number, so that volumes and Kubernetes' runAsNonRoot can rely on it. A new volume takes the
# owner of the folder that it is mounted on: keys and passwords, certificates, and a cache in files. Nothing
# installs anything here any more, so pip goes too.
RUN groupadd --gid 10001 soft-targets \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin soft-targets \
    && install -d -m 700 -o 10001 -g 10001 \
        /etc/soft-targets /var/lib/soft-targets /var/cache/soft-targets \
    && python -m pip uninstall --yes --quiet --root-user-action=ignore pip
COPY --from=build /opt/soft-targets /opt/soft-targets
# The port is set here, above what a configuration says, because the health check asks there. It listens on all
# addresses of the container, so it starts only with keys, or with SOFT_TARGETS__AUTH__OPEN=true.
ENV PATH=/opt/soft-targets/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CUDA_CACHE_PATH=/tmp/cuda \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SOFT_TARGETS__SERVER__HOST=0.0.0.0 \
    SOFT_TARGETS__SERVER__PORT=8000 \
    SOFT_TARGETS__SERVER__STATE_DIR=/var/lib/soft-targets
USER 10001:10001
EXPOSE 8000
# Loading, certifying and warming come before it listens: minutes for large models, and the first time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/readyz' % os.environ['SOFT_TARGETS__SERVER__PORT'], timeout=4)"]
ENTRYPOINT ["soft-targets"]
CMD ["serve", "/ensembles/ensembles.yaml"]
