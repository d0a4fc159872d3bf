"""Put the function's source into an archive whose name carries its content's SHA-256; print that name.

What git knows goes in, and nothing else: a file that lies about in handlers/ is not deployed. The same tree gives the
same bytes, on any machine: entries are sorted, have no times or owners of their own, and are stored, not compressed,
since two versions of zlib need not compress alike. The name goes to build/source_object too.

No bytecode goes in. The buildpack compiles every source anew, whatever lies beside it; what makes the result last
is SOURCE_DATE_EPOCH in infra/function.tf.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"


def sources(root: Path = ROOT) -> list[Path]:
    """What the function needs to run, and nothing else. Raises LookupError where git does not know."""
    line = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(root),
        "ls-files",
        "-z",
        "--",
        "main.py",
        "handlers",
        "requirements.txt",
    ]
    listed = subprocess.run(line, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        raise LookupError(f"Only what git knows is packaged, and git knows nothing here: {listed.stderr.strip()}")
    known = [root / name for name in listed.stdout.rstrip("\0").split("\0")]
    return sorted(path for path in known if path.suffix == ".py" or path.name == "requirements.txt")


def archive(root: Path = ROOT) -> bytes:
    """The archive's bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for path in sources(root):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix())  # dated 1980, the earliest that a zip can say
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, path.read_bytes())
    return content.getvalue()


def main() -> None:
    try:
        content = archive()
    except LookupError as wrong:
        sys.exit(str(wrong))
    name = f"archive-job-retry-{hashlib.sha256(content).hexdigest()}.zip"
    BUILD.mkdir(exist_ok=True)
    (BUILD / name).write_bytes(content)
    (BUILD / "source_object").write_text(f"{name}\n")
    sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
