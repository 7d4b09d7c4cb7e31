# Contrapose with CUDA; written by the book and not built by us yet.
#   docker build -t contrapose .
#   docker run --rm --gpus all -v "$PWD":/data -v "$HOME/.cache/huggingface":/cache/huggingface contrapose align recipes/x.yaml --out runs/a
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

# a C compiler and Python's headers are for torch.compile alone
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv

# the large packages first, so that a change of the sources does not fetch them again
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cu128 "torch>=2.4"
WORKDIR /opt/contrapose
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install --no-cache-dir ".[low-memory,play]"

ENV HF_HOME=/cache/huggingface
WORKDIR /data
ENTRYPOINT ["contrapose"]
CMD ["--help"]
