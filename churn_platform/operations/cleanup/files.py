"""The artifacts root where it is no part of the stack's folder: a prefix in S3, or a folder of the user's choice."""

from churn_platform.files import artifacts
from churn_platform.operations.cleanup.plan import Findings, Item, Kept, Report, Writer, size


class Files:
    """CHURN_ARTIFACTS. Only what lies in its known folders, and only where the platform has left its mark."""

    def __init__(self, root: str) -> None:
        self._root = root

    @property
    def word(self) -> str:
        """Bucket and prefix, or the folder's name."""
        return self._root.removeprefix("s3://") if artifacts.in_s3(self._root) else self._root.rpartition("/")[2]

    def look(self, report: Report) -> Findings:
        """What lies in our folders, and the names of what lies beside them.

        Raises:
            ArtifactStoreError: the S3 server cannot be asked.
        """
        report(f"Looking at {self._root}")
        names = artifacts.list_names(self._root)
        ours = artifacts.is_claimed(self._root)
        found = Findings()
        for name in names:
            if not ours:
                found.kept.append(Kept(self._root, name, f"there is no {artifacts.MARKER}: it was there before"))
            elif name in artifacts.FOLDERS:
                files, total = artifacts.count_files(artifacts.join(self._root, name), report)
                found.items.append(Item(self._root, f"{name}/", f"{files:,} files, {size(total)}"))
            elif name == artifacts.MARKER:
                found.items.append(Item(self._root, name, "mark"))
            else:
                found.kept.append(Kept(self._root, name, "not made by the platform"))
        return found

    def writers(self) -> list[Writer]:
        """S3 does not tell; who writes there has a session in PostgreSQL too, or is a part of the stack."""
        return []

    def rehearse(self) -> None:
        """S3 has no way to ask whether an object could be deleted."""

    def remove(self, report: Report) -> None:
        """Delete our folders, then the mark.

        Raises:
            ArtifactStoreError: the S3 server refuses, or cannot be reached; what was deleted until then is gone.
        """
        if not artifacts.is_claimed(self._root):
            return
        for folder in artifacts.FOLDERS:
            report(f"Deleting {artifacts.join(self._root, folder)}")
            artifacts.delete_folder(artifacts.join(self._root, folder))
        artifacts.release(self._root)
