# ground-station in an image that holds nothing else. From the top of the repository:
#   docker build -f deploy/docker/ground.Dockerfile -t perigee/ground-station .
# The binary is static: musl carries its own name resolution, which a static glibc does not.

FROM rust:1.95-bookworm AS build
# The image's own toolchain; rust-toolchain.toml would fetch components that a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools make
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p ground-station --target "$(uname -m)-unknown-linux-musl" \
    && mkdir -p /image/own/var/lib/perigee/ground /image/own/run/perigee \
    && install -m 0755 "target/$(uname -m)-unknown-linux-musl/release/ground-station" /image/ground-station

FROM scratch
# Authorities for exporters that use TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/ground-station /ground-station
COPY --from=build --chown=65532:65532 /image/own/ /
USER 65532:65532
# Mount the configuration and certificates at /etc/perigee. In a container of its own the link listens on 0.0.0.0:4433 (UDP).
VOLUME /var/lib/perigee/ground
EXPOSE 4433/udp 8889 8890
ENTRYPOINT ["/ground-station"]
CMD ["run", "--config", "/etc/perigee/ground.yaml"]
