# Dockerfile -- the project in a container, by the very set-up that a bare machine takes: the packages
# of packages.txt and, unless CUDA=0, the toolkit of src/setup/cuda.lock (1.2 GB to fetch).
#
#   docker build -t longca .                            # or --build-arg CUDA=0
#   docker run --rm -v "$PWD/out:/longca/figures/out" longca make figures
#   docker run --rm --gpus all ... on a machine with GPUs
#
# BASE may be pinned to the bytes: --build-arg BASE=debian@sha256:...   No registry could be asked when
# this was written, so no digest is claimed here. src/setup/prove_container.sh runs these steps without
# a Docker engine; it understands the instructions used below and stops at any other.
ARG BASE=debian:12
FROM ${BASE}
ARG CUDA=1

WORKDIR /longca
COPY setup.sh packages.txt ./
COPY src/setup src/setup
RUN ./setup.sh
RUN [ "$CUDA" = 0 ] || ./setup.sh --cuda

RUN useradd --create-home reader && chown reader /longca
USER reader
COPY --chown=reader . .
RUN make -j"$(nproc)"
RUN make test

CMD ["make", "figures"]
