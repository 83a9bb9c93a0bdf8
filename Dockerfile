# docker build -t opd-cliff .       the package, ready to run
# docker build --target test .      the package, and its tests (make test)
# docker run --gpus all -v opd-cliff-runs:/opd-cliff/runs opd-cliff train lam.value=1.2
#
# torch 2.13.0 as pip installs it on Linux is built for CUDA 13.0 and brings its libraries along.
# The devel image adds nvcc of that version, which DeepSpeed insists on to compile for a GPU.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS package

# Ubuntu 24.04 has Python 3.12; python3-dev, g++ and make build the operator below; git names the
# commit in records. Ubuntu keeps one version of each, so a pin would only break the build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 opdcliff \
    && install -d -o opdcliff -g opdcliff /opd-cliff /opd-cliff/runs /opd-cliff/results
USER 10001
WORKDIR /opd-cliff
ENV PIP_NO_CACHE_DIR=1

# The environment comes first, so that an edit of the code does not install it anew.
COPY --chown=opdcliff Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=opdcliff src/opdcliff/__init__.py src/opdcliff/
RUN make install

# DeepSpeed's Adam for offloaded optimizer states, built now, for a GPU machine (DS_ACCELERATOR)
# and for the processor that builds (-march=native): build where you run. Runs of this package do
# not need it: engine.offload_optimizer=true keeps torch's AdamW, so that engines agree.
RUN DS_ACCELERATOR=cuda DS_BUILD_CPU_ADAM=1 .venv/bin/python -m pip install --no-deps \
        --no-build-isolation --force-reinstall --no-binary deepspeed -c constraints.txt deepspeed \
    && .venv/bin/python -c "import torch, deepspeed.ops.adam.cpu_adam_op"

COPY --chown=opdcliff . .
ENV PATH="/opd-cliff/.venv/bin:$PATH"

FROM package AS test
RUN make test

FROM package
ENTRYPOINT ["opdcliff"]
CMD ["--help"]
