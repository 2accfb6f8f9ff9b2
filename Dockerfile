# Image of respkv: a drop-in place for the redis image. Data in /data, user redis (999), port 6379.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# The hot modules are compiled (docs/decisions/0010); the compiler stays in this stage.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY pyproject.toml setup.py README.md ./
COPY respkv ./respkv
RUN RESPKV_COMPILE=1 pip install --no-cache-dir --prefix=/install .

FROM python:3.11-slim-bookworm
RUN groupadd -r -g 999 redis \
    && useradd -r -g redis -u 999 -d /data redis \
    # redis-cli for charts that probe with it inside the container, setpriv comes with util-linux
    && apt-get update \
    && apt-get install -y --no-install-recommends redis-tools \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /data \
    && chown redis:redis /data
COPY --from=build /install /usr/local
COPY conf/docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
# The names of both servers lead to the same program, so that compose files need no change.
RUN ln -s respkv-server /usr/local/bin/redis-server \
    && ln -s respkv-server /usr/local/bin/respkv \
    && chmod 0755 /usr/local/bin/docker-entrypoint.sh \
    && python -m compileall -q /usr/local/lib/python3.11/site-packages/respkv
# A container's network is its own, and clients always come from elsewhere: however the server is started there, its
# protected mode is off unless a file or an option asks for it.
ENV PYTHONUNBUFFERED=1 RESPKV_PROTECTED_MODE=no
VOLUME /data
WORKDIR /data
ENTRYPOINT ["docker-entrypoint.sh"]
EXPOSE 6379
CMD ["redis-server"]
