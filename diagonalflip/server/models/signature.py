"""Ed25519 signatures of files, each in a file beside it: made offline, verified before serving.

A manifest has the digest of every artifact, so its signature covers the whole export. OpenSSL
verifies it as well: ``openssl pkeyutl -verify -rawin -pubin -inkey trusted.pem -in manifest.json
-sigfile manifest.json.sig``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from diagonalflip.errors import ArtifactError, SettingError
from diagonalflip.server.models import store

REMEDY = "sign it with `make sign`, or serve without FLIP_TRUSTED_KEY"


def path_of(file: Path) -> Path:
    """Return the path of a file's signature."""
    return file.with_name(f"{file.name}.sig")


def sign(file: Path, private_key: Path) -> None:
    """Write a file's signature beside it.

    Raises:
        SettingError: The key is no Ed25519 private key in PEM, or needs a password.
        OSError: A file cannot be read or written.
    """
    try:
        key = load_pem_private_key(private_key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(f"SIGNING_KEY={private_key}: {error}", "a private key, PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingError(f"SIGNING_KEY={private_key} is of another kind", "an Ed25519 key")
    path_of(file).write_bytes(key.sign(file.read_bytes()))


def verify(file: Path, content: bytes, public_key: Path) -> None:
    """Check that a trusted key has signed the content of a file.

    Raises:
        ArtifactError: There is no signature, or it is for other content or by another key.
        SettingError: The key is not an Ed25519 public key in PEM.
    """
    try:
        key = load_pem_public_key(store.read(public_key))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        got = f"FLIP_TRUSTED_KEY={public_key}: {error}"
        raise SettingError(got, "a public key, PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingError(f"FLIP_TRUSTED_KEY={public_key} is of another kind", "an Ed25519 key")
    try:
        key.verify(store.read(path_of(file)), content)
    except FileNotFoundError as error:
        raise ArtifactError(f"{file} has no signature", "one", REMEDY) from error
    except InvalidSignature as error:
        got = f"the signature of {file} is of other content or by another key"
        raise ArtifactError(got, "a trusted one", REMEDY) from error


def main() -> int:
    """Sign the files of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diagonalflip.server.models.signature")
    parser.add_argument("key", type=Path, help="private key, PEM")
    parser.add_argument("files", type=Path, nargs="+", help="files to sign")
    arguments = parser.parse_args()
    try:
        for file in arguments.files:
            sign(file, arguments.key)
            print(f"Signed {file}")
    except (SettingError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
