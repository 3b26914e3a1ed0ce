# The image of Sluice: an interpreter, its libraries and the program; no shell, no package manager. `make image` builds it
# for this machine's platform. It holds the wheel of dist/, so what is tested and published is what runs.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /build
COPY requirements/runtime.txt requirements/
COPY deploy/image/assemble.py deploy/image/
COPY dist/*.whl dist/
RUN python deploy/image/assemble.py /image dist/*.whl

FROM scratch
COPY --from=build /image /
ENV PATH=/usr/local/bin HOME=/tmp SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65534:65534
EXPOSE 9090 8080 9440
ENTRYPOINT ["sluice"]
CMD ["--help"]
