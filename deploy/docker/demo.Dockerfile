# The demo: services, space-agent and ground-station in an image that holds nothing else. From the top of the repository:
#   docker build -f deploy/docker/demo.Dockerfile -t perigee/demo .
# The binary is static: musl carries its own name resolution, which a static glibc does not.

FROM rust:1.95-bookworm AS build
# The image's own toolchain; rust-toolchain.toml would fetch components that a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools make
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p demo --target "$(uname -m)-unknown-linux-musl" \
    && mkdir -p /image/own/data \
    && install -m 0755 "target/$(uname -m)-unknown-linux-musl/release/demo" /image/demo

FROM scratch
# Authorities for exporters that use TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/demo /demo
COPY --from=build --chown=65532:65532 /image/own/ /
USER 65532:65532
# Each run makes a directory of its own here.
ENV TMPDIR=/data
ENTRYPOINT ["/demo"]
