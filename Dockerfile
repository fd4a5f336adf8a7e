# One image for every service of docker-compose.yml. Needs BuildKit, the builder of Docker since version 23.

# --- The locked packages, without the tools of developers. ---
FROM python:3.11.15-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements.lock pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache \
    python -m venv /opt/venv \
    && python -m pip install --constraint requirements.lock uv \
    && uv pip install --python /opt/venv/bin/python --constraint requirements.lock \
        --requirement pyproject.toml --extra ray --extra baselines --extra serve --extra index

# --- rgals itself, as a wheel; its build tools are locked too. ---
FROM packages AS wheel
COPY README.md LICENSE ./
COPY rgals rgals
COPY services services
COPY jobs jobs
RUN --mount=type=cache,target=/root/.cache \
    uv build --wheel --build-constraints requirements.lock --out-dir /dist

# --- What runs. ---
FROM python:3.11.15-slim-bookworm
LABEL org.opencontainers.image.title="rgals" \
      org.opencontainers.image.description="Recommenders trained by alternating least squares, on one machine or a Ray cluster" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# implicit needs OpenMP's library. Any user may write to /scratch and /cache, and to nothing else: compiled once here,
# the standard library need not be compiled again by every process.
RUN python -m compileall -q /usr/local/lib/python3.11 \
    && apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 rgals \
    && useradd --uid 1000 --gid rgals --no-create-home --home-dir /scratch --shell /usr/sbin/nologin rgals \
    && mkdir --mode=1777 /scratch /cache \
    && mkdir --mode=0755 /data
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/scratch \
    TMPDIR=/scratch \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    RAY_USAGE_STATS_ENABLED=0
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python -m pip install --disable-pip-version-check --no-cache-dir --no-index --no-deps /dist/*.whl
COPY docker/cluster.py /opt/rgals/cluster.py
WORKDIR /data
USER 1000:1000
CMD ["rgals", "--help"]
