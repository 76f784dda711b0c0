"""The artifacts root, if it is outside the stack's folder: an S3 prefix, or a folder that the user chose."""

from churn_platform.files import artifacts
from churn_platform.operations.cleanup.plan import Findings, Item, Kept, Report, Writer, size


class Files:
    """CHURN_ARTIFACTS. Only the platform's folders are deleted, and only if the root has the platform's marker file."""

    def __init__(self, root: str) -> None:
        self._root = root

    @property
    def word(self) -> str:
        """Bucket and prefix, or the folder's name."""
        return self._root.removeprefix("s3://") if artifacts.in_s3(self._root) else self._root.rpartition("/")[2]

    def collect(self, report: Report) -> Findings:
        """Return the platform's folders, and the names of everything else in the root.

        Raises:
            ArtifactStoreError: the S3 server does not answer.
        """
        report(f"Listing {self._root}")
        names = artifacts.list_names(self._root)
        ours = artifacts.is_claimed(self._root)
        found = Findings()
        for name in names:
            if not ours:
                found.kept.append(Kept(self._root, name, f"not the platform's: there is no {artifacts.MARKER}"))
            elif name in artifacts.FOLDERS:
                files, total = artifacts.count_files(artifacts.join(self._root, name), report)
                found.items.append(Item(self._root, f"{name}/", f"{files:,} files, {size(total)}"))
            elif name == artifacts.MARKER:
                found.items.append(Item(self._root, name, "marker file"))
            else:
                found.kept.append(Kept(self._root, name, "not created by the platform"))
        return found

    def writers(self) -> list[Writer]:
        """Return nothing: S3 does not list its writers. They have sessions in PostgreSQL or belong to the stack."""
        return []

    def check_deletable(self) -> None:
        """Do nothing, because S3 cannot check whether an object could be deleted."""

    def delete(self, report: Report) -> None:
        """Delete the platform's folders, then the marker file.

        Raises:
            ArtifactStoreError: the S3 server refuses, or cannot be reached; what was deleted until then stays deleted.
        """
        if not artifacts.is_claimed(self._root):
            return
        for folder in artifacts.FOLDERS:
            report(f"Deleting {artifacts.join(self._root, folder)}")
            artifacts.delete_folder(artifacts.join(self._root, folder))
        artifacts.release(self._root)
