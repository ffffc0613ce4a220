# The build downloads only crates and needs no builder extensions.

# The version of rust-toolchain.toml.
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-${DEBIAN} AS build
WORKDIR /src

# Builds the dependencies in a layer of their own, which changes only with the lock file.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY crates crates
COPY fuzz fuzz
RUN mkdir src \
 && echo 'fn main() {}' | tee src/main.rs > build.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && rm -r src build.rs

COPY build.rs ./
COPY proto proto
COPY src src
# Cargo compares timestamps, and those of the sources can be older than the build above.
RUN touch build.rs src/main.rs src/lib.rs \
 && cargo build --release --locked \
 && cp target/release/latchkey /usr/local/bin/

FROM debian:${DEBIAN}-slim

# Numeric ids, so that an orchestrator can verify that this is not root, and volumes can be prepared for it.
RUN groupadd --gid 10001 latchkey \
 && useradd --uid 10001 --gid latchkey --no-create-home --home-dir /var/lib/latchkey \
      --shell /usr/sbin/nologin latchkey \
 && install --directory --owner=latchkey --group=latchkey --mode=0700 /var/lib/latchkey

COPY LICENSE NOTICE /usr/share/doc/latchkey/
COPY --from=build /usr/local/bin/latchkey /usr/local/bin/latchkey

ENV LATCHKEY_DATA_DIR=/var/lib/latchkey \
    LATCHKEY_LISTEN__GRPC=0.0.0.0:50051 \
    LATCHKEY_LISTEN__HTTP=0.0.0.0:8081

USER 10001:10001
WORKDIR /var/lib/latchkey
VOLUME /var/lib/latchkey
# The gRPC port, and the HTTP port with probes, metrics and public keys.
EXPOSE 50051 8081

ENTRYPOINT ["latchkey"]
CMD ["serve"]
