# Builds the way scripts/run does: the program with cargo, the pinned codex with scripts/fetch-codex.
# The version repeats scripts/versions; a test compares them.
ARG CODEX_VERSION=0.169.0

FROM rust:1.95-slim-bookworm AS program
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
RUN cargo build --release --locked --bins

FROM node:22-bookworm-slim AS codex
ARG CODEX_VERSION
COPY scripts/fetch-codex /usr/local/bin/
RUN binary="$(XDG_CACHE_HOME=/cache fetch-codex "$CODEX_VERSION")" && mv "$(dirname "$(dirname "$binary")")" /codex

FROM debian:bookworm-slim
# The program that speaks TLS here is codex.
COPY --from=program /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=codex /codex /opt/codex
COPY --from=program /src/target/release/codex-completions /usr/local/bin/
RUN useradd --uid 1000 --create-home app && install -d -o app -g app -m 700 /app /app/.codex-api
USER app
WORKDIR /app
# Reachable from outside the container, so it does not start without PROXY_API_KEY.
ENV CODEX_BIN=/opt/codex/bin/codex CODEX_HOME=/app/.codex-api PROXY_HOST=0.0.0.0 PORT=11435
VOLUME /app/.codex-api
EXPOSE 11435
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PORT} && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["codex-completions"]
