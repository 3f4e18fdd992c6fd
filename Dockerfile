# docker build --build-arg RUNTIME=cpu -t soft-targets .     (or RUNTIME=gpu)
# It listens on all addresses of the container, so it starts only with keys (SOFT_TARGETS__AUTH__KEYS_FILE, a file
# that the user soft-targets can read) or with SOFT_TARGETS__AUTH__OPEN=true; deploy/compose.yaml shows the first.
FROM python:3.12-slim-bookworm AS build
ARG RUNTIME=cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY operators operators
COPY service service
RUN python -m venv /opt/soft-targets \
    && /opt/soft-targets/bin/python -m pip install --no-cache-dir -c constraints.txt ./client ".[${RUNTIME},redis]"

FROM python:3.12-slim-bookworm
# A volume on /keys takes this folder's owner, so that `key new` can write there.
RUN useradd --system --no-create-home soft-targets && install -d -m 700 -o soft-targets /keys
COPY --from=build /opt/soft-targets /opt/soft-targets
ENV PATH=/opt/soft-targets/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SOFT_TARGETS__SERVER__HOST=0.0.0.0
USER soft-targets
EXPOSE 8000
ENTRYPOINT ["soft-targets"]
CMD ["serve", "/ensembles/ensembles.yaml"]
