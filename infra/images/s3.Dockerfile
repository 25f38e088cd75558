# An S3 server for one machine: Ceph's gateway with a single OSD, from Debian's packages. Build it in the project's root:
#   docker build -f infra/images/s3.Dockerfile -t world2act-s3 .
FROM debian:bookworm-20251020-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ceph-base ceph-common ceph-mon ceph-osd curl radosgw tini \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o ceph -g ceph /data
LABEL org.opencontainers.image.title="world2act-s3" \
      org.opencontainers.image.description="Ceph RGW on one machine: versioning, conditional writes, IAM policies" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY infra/images/s3.sh /usr/local/bin/s3
# the user ceph of Debian's package
USER 64045
WORKDIR /data
ENV S3_DATA=/data
EXPOSE 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:9000/"]
ENTRYPOINT ["tini", "--"]
CMD ["s3"]
