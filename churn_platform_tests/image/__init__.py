"""Tests of the image and docker-compose.yaml without a container engine: `make test-image`."""
