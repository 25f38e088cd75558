# What a robot needs to fetch a release: no git, no DVC, no torch. Build it in the project's root:
#   docker build -f infra/images/client.Dockerfile -t world2act-client .
#   docker run --rm --env-file robot.env -v "$PWD/policy:/policy" world2act-client get policy@prod /policy/current
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
WORKDIR /build
RUN python -m venv /opt/venv
COPY client/requirements.lock client/
RUN pip install --no-deps --require-hashes -r client/requirements.lock
COPY client client
RUN pip install --no-deps ./client

FROM python:${PYTHON}
ARG UID=1000
ARG REVISION=unknown
LABEL org.opencontainers.image.title="world2act-client" \
      org.opencontainers.image.description="Fetch a released World2Act policy from S3: verified, resumed, cached" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid "$UID" --create-home robot
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER $UID
WORKDIR /home/robot
# it fetches and exits, so there is no service to check
HEALTHCHECK NONE
ENTRYPOINT ["world2act-client"]
CMD ["--help"]
