"""Model bundles in a folder, local or in S3: the one place that saves and loads them.

What a bundle is, and how its parts are verified, belongs to scoring/. This module only moves the parts. It imports
neither training code nor MLflow, so the stream can load a champion with it.
"""

from churn_platform.files.artifacts import join, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.scoring.bundle import MANIFEST, ModelBundle, listed_parts, missing_part


def save_bundle(bundle: ModelBundle, uri: str) -> None:
    """Write a bundle into its folder, manifest last: a bundle with a manifest is complete.

    Args:
        bundle: the bundle.
        uri: absolute path or s3:// prefix of the folder.

    Raises:
        ArtifactStoreError: S3 refuses the request or cannot be reached.
    """
    for name, content in bundle.to_parts().items():
        write_bytes(join(uri, name), content)


def load_bundle(uri: str) -> ModelBundle:
    """Return the bundle saved at `uri`, verified and ready to score.

    Raises:
        BundleIncompleteError: the manifest or a part is missing.
        BundleTamperedError: the SHA-256 of a part is not the one in the manifest.
        BundleFormatError: a part cannot be read or belongs to another customer schema.
        ArtifactStoreError: S3 refuses the request or cannot be reached.
    """
    manifest = _read(uri, MANIFEST)
    parts = {name: _read(uri, name) for name in listed_parts(manifest, origin=uri)}
    return ModelBundle.from_parts({**parts, MANIFEST: manifest}, origin=uri)


def _read(uri: str, name: str) -> bytes:
    try:
        return read_bytes(join(uri, name))
    except ArtifactNotFoundError as error:
        raise missing_part(name, origin=uri) from error
