FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked && strip target/dist/portcullis

FROM debian:bookworm-slim
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /src/target/dist/portcullis /usr/local/bin/portcullis
USER 10001:10001
ENV PORTCULLIS_DATA=/data
VOLUME /data
EXPOSE 80 443
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["portcullis", "system", "ready"]
ENTRYPOINT ["portcullis"]
CMD ["serve"]
