"""Keys as PEM files: made, found again by the role that lists them, and unlocked only when a signature needs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from edgerec.errors import ChannelError

Passphrase = Callable[[], str]
"""Asks for the passphrase of private keys; called only where one is needed."""

_ID_LENGTH = 16


def public_key(path: Path) -> Key:
    """The key in a public PEM file, as `openssl pkey -pubout` writes it. Raises ChannelError."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ChannelError(f"{path.name} is no public key: {error}", hint="a PEM file, as openssl writes it") from None


class KeyRing:
    """Private keys at hand: those in folders, at any depth, and single files."""

    def __init__(self, folders: Iterable[Path] = (), files: Iterable[Path] = (), *, passphrase: Passphrase) -> None:
        """Raises ChannelError for a folder or file that is not there, or is no key."""
        self._passphrase = passphrase
        self._signers: dict[str, Signer] = {}
        self._locked: list[Path] = []
        for folder in folders:
            if not folder.is_dir():
                raise ChannelError(f"there is no folder of keys at {folder}")
            for path in sorted(folder.rglob("*.pem")):
                self._take(path)
        self.given = [self._add(self._unlocked(path)) for path in files]

    def holds(self, keyid: str) -> bool:
        """Whether a key is at hand without a passphrase."""
        return keyid in self._signers

    def signer(self, keyid: str) -> Signer | None:
        """The signer of a key, None where its private half is not at hand. Raises ChannelError if it stays locked."""
        if keyid not in self._signers:
            for path in [path for path in self._locked if keyid[:_ID_LENGTH] in path.name]:
                self._locked.remove(path)
                self._add(self._unlocked(path))
        return self._signers.get(keyid)

    def make(self, folder: Path, role: str, passphrase: str | None = None) -> Key:
        """A new Ed25519 key pair; its private half is at hand, and in `folder`, readable by its owner alone."""
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            lock = serialization.BestAvailableEncryption(passphrase.encode())
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{role}-{signer.public_key.keyid[:_ID_LENGTH]}.pem"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        self._add(signer)
        return signer.public_key

    def _take(self, path: Path) -> None:
        try:
            self._add(_loaded(path, None))
        except TypeError:  # it is encrypted; nobody is asked for a passphrase before the key is needed
            self._locked.append(path)
        except ValueError:
            pass  # some other PEM file, a public key for one
        except OSError as error:
            raise ChannelError(f"the private key {path.name} cannot be read: {error.strerror}") from None

    def _unlocked(self, path: Path) -> Signer:
        try:
            try:
                return _loaded(path, None)
            except TypeError:
                return _loaded(path, self._passphrase())
        except (OSError, ValueError) as error:
            raise ChannelError(f"the private key {path.name} cannot be used: {error}") from None

    def _add(self, signer: Signer) -> str:
        self._signers[signer.public_key.keyid] = signer
        return signer.public_key.keyid


def _loaded(path: Path, passphrase: str | None) -> Signer:
    secret = None if passphrase is None else passphrase.encode()
    return CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), secret))
