# space-agent in an image that holds nothing else. From the top of the repository:
#   docker build -f deploy/docker/agent.Dockerfile -t perigee/space-agent .
# The binary is static: musl carries its own name resolution, which a static glibc does not.

FROM rust:1.95-bookworm AS build
# The image's own toolchain; rust-toolchain.toml would fetch components that a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools make
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p space-agent --target "$(uname -m)-unknown-linux-musl" \
    && mkdir -p /image/own/var/lib/perigee/agent /image/own/run/perigee \
    && install -m 0755 "target/$(uname -m)-unknown-linux-musl/release/space-agent" /image/space-agent

FROM scratch
# Authorities for exporters that use TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/space-agent /space-agent
COPY --from=build --chown=65532:65532 /image/own/ /
USER 65532:65532
# Mount the configuration and certificates at /etc/perigee. In a container of its own the agent must listen beyond loopback:
# endpoint: 0.0.0.0:4317 with tls, or with insecure: true beside it.
VOLUME /var/lib/perigee/agent
EXPOSE 4317 4318 8888
ENTRYPOINT ["/space-agent"]
CMD ["run", "--config", "/etc/perigee/agent.yaml"]
