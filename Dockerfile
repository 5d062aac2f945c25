# The host and the counter guest, in an image of a plain Debian.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN rustup target add wasm32-wasip2
WORKDIR /src
COPY . .
RUN cd guest && cargo build --locked --release -p counter
RUN RUSTFLAGS="$(host/profile/flags.sh)" cargo build --locked --release -p tally

FROM debian:12.9-slim
# curl asks for health.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/tally tally
COPY --from=build /src/target/release/tally /usr/local/bin/tally
COPY --from=build /src/guest/target/wasm32-wasip2/release/counter.wasm /usr/local/share/tally/counter.wasm
USER tally
# The embedded store's file and the cache of compiled guests live here.
WORKDIR /var/lib/tally
# The admin listener stays on the container's own loopback, at 3001: health checks and deployments work
# from inside. For others, set TALLY_ADMIN=0.0.0.0:3001 and TALLY_ADMIN_TOKEN (docs/operating.md).
ENV TALLY_GUEST=/usr/local/share/tally/counter.wasm \
    TALLY_LISTEN=0.0.0.0:3000
EXPOSE 3000
STOPSIGNAL SIGTERM
ENTRYPOINT ["tally"]
CMD ["serve"]
