# The image of Latchkey:
#
#   make image                                                             latchkey:dev for this machine
#   docker buildx build --platform linux/amd64,linux/arm64 -t NAME --push .   for both architectures
#
# The program is compiled on the architecture of the machine that builds, and nothing runs in the final stage. So an image
# for another architecture needs a cross compiler, which is installed below, and no emulation.

# The version of rust-toolchain.toml.
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-${DEBIAN} AS build
ARG RUST_VERSION
ARG TARGETARCH
WORKDIR /src

# The toolchain is the one of the image, so that rustup downloads nothing. TARGETARCH is set by BuildKit.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION} \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
RUN set -eu; \
    native=$(dpkg --print-architecture); \
    architecture=${TARGETARCH:-$native}; \
    case $architecture in \
      amd64) target=x86_64-unknown-linux-gnu; gcc=gcc-x86-64-linux-gnu ;; \
      arm64) target=aarch64-unknown-linux-gnu; gcc=gcc-aarch64-linux-gnu ;; \
      *) echo "unsupported architecture $architecture: use amd64 or arm64" >&2; exit 1 ;; \
    esac; \
    echo "$target" > /target; \
    if [ "$architecture" != "$native" ]; then \
      apt-get update; \
      apt-get install -y --no-install-recommends "$gcc" "libc6-dev-$architecture-cross"; \
      rustup target add "$target"; \
    fi

# Builds the dependencies in a layer of their own, from the manifests alone: it changes only with them and the lock file.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY crates/latchkey-client/Cargo.toml crates/latchkey-client/
COPY crates/latchkey-bench/Cargo.toml crates/latchkey-bench/
COPY fuzz/Cargo.toml fuzz/
RUN grep -q "^channel = \"$RUST_VERSION\"$" rust-toolchain.toml \
 || { echo "RUST_VERSION is $RUST_VERSION, but rust-toolchain.toml names another version" >&2; exit 1; }
RUN mkdir -p src crates/latchkey-client/src crates/latchkey-bench/src crates/latchkey-bench/benches \
 && echo 'fn main() {}' | tee src/main.rs build.rs > crates/latchkey-bench/benches/micro.rs \
 && touch src/lib.rs crates/latchkey-client/src/lib.rs crates/latchkey-bench/src/lib.rs
RUN cargo build --release --locked --target "$(cat /target)" -p latchkey --bin latchkey \
 && rm -r src build.rs crates/latchkey-client/src

COPY build.rs ./
COPY proto proto
COPY crates/latchkey-client crates/latchkey-client
COPY src src
# The commit, for `latchkey --version`. The variable SOURCE_DATE_EPOCH would make Cargo compile the C code of the
# dependencies again.
ARG REVISION=
ARG COMMIT_SECONDS=
# Cargo compares timestamps, and those of the sources can be older than the build above.
RUN touch build.rs src/main.rs src/lib.rs crates/latchkey-client/src/lib.rs \
 && BUILD_COMMIT=$REVISION BUILD_COMMIT_SECONDS=$COMMIT_SECONDS \
    cargo build --release --locked --target "$(cat /target)" -p latchkey --bin latchkey

# The files of the final stage. The ids are numeric there, so that an orchestrator can verify that this is not root, and
# volumes can be prepared for it. The certificates are for webhooks and stores that use TLS.
COPY LICENSE NOTICE /rootfs/usr/share/doc/latchkey/
RUN set -eu; \
    install -D --mode=0755 "target/$(cat /target)/release/latchkey" /rootfs/usr/local/bin/latchkey; \
    install -D --mode=0644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ca-certificates.crt; \
    { cat /etc/passwd; echo 'latchkey:x:10001:10001::/var/lib/latchkey:/usr/sbin/nologin'; } > /rootfs/etc/passwd; \
    { cat /etc/group; echo 'latchkey:x:10001:'; } > /rootfs/etc/group; \
    install --directory /rootfs/data; \
    install --directory --owner=10001 --group=10001 --mode=0700 /rootfs/data/latchkey

FROM debian:${DEBIAN}-slim
ARG VERSION=dev
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="Latchkey" \
      org.opencontainers.image.description="A gRPC authentication service in which the latest login wins" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

COPY --from=build /rootfs/etc /etc
COPY --from=build --chown=10001:10001 /rootfs/data /var/lib
COPY --from=build /rootfs/usr /usr

ENV LATCHKEY_DATA_DIR=/var/lib/latchkey \
    LATCHKEY_LISTEN__GRPC=0.0.0.0:50051 \
    LATCHKEY_LISTEN__HTTP=0.0.0.0:8081

USER 10001:10001
WORKDIR /var/lib/latchkey
VOLUME /var/lib/latchkey
# The gRPC port, and the HTTP port with probes, metrics and public keys.
EXPOSE 50051 8081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["latchkey", "health"]

ENTRYPOINT ["latchkey"]
CMD ["serve"]
