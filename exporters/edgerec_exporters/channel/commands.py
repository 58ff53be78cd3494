"""`edgerec channel`: a TUF repository of bundles, from which devices update."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgerec.errors import ChannelError
from edgerec_exporters.channel import publishing
from edgerec_exporters.channel.draft import ROLES, Saved
from edgerec_exporters.channel.keys import KeyRing, public_key

PASSPHRASE = "EDGEREC_CHANNEL_PASSPHRASE"

_home = click.argument("home", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_keys = click.option(
    "--keys",
    multiple=True,
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Private keys at hand, at any depth. May be repeated.",
)
_encrypt = click.option(
    "--encrypt", is_flag=True, help=f"Lock new offline keys with a passphrase, asked for or from {PASSPHRASE}."
)


@click.group()
def channel() -> None:
    """Publishes bundles to devices through a TUF repository; see docs/channel.md."""


@channel.command()
@_home
@click.option("--keys", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where new keys go.")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="ROLE=N[/M]",
    help="N of a role's M keys must sign; 1/1 by default. May be repeated.",
)
@click.option("--expires", multiple=True, metavar="ROLE=DAYS", help="How long a role's metadata are good for.")
@_encrypt
@_json
def init(
    home: Path, keys: Path, thresholds: tuple[str, ...], expires: tuple[str, ...], encrypt: bool, as_json: bool
) -> None:
    """Makes a channel in DIR, and its keys: offline for root and targets, online for the rest."""
    quorums = {role: _quorum(text) for role, text in map(_pair, thresholds)}
    days = {role: _days(text) for role, text in map(_pair, expires)}
    saved = publishing.init(home, keys, quorums=quorums, days=days, passphrase=_new_passphrase() if encrypt else None)
    told = f"a channel in {home}\n  ship {home / 'metadata' / '1.root.json'} with the app\n"
    _show({"root": str(home / "metadata" / "1.root.json")}, saved, as_json, told + f"  move {keys / 'offline'} away")


@channel.command()
@_home
@click.argument("bundle", type=click.Path(path_type=Path))
@_keys
@_json
def publish(home: Path, bundle: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Verifies BUNDLE as a device would, and offers it; its version must be the highest of its name so far."""
    manifest, saved = publishing.publish(home, bundle, ring_of(keys))
    told = {"name": manifest.name, "version": manifest.version}
    _show(told, saved, as_json, f"{manifest.name} version {manifest.version}")


@channel.command()
@_home
@click.argument("version", type=click.IntRange(1))
@click.option("--name", help="The bundle's name, where the channel holds several.")
@_keys
@_json
def withdraw(home: Path, version: int, name: str | None, keys: tuple[Path, ...], as_json: bool) -> None:
    """Offers VERSION no more. Devices that run it stay on it until there is a higher one, or the app goes back."""
    saved = publishing.withdraw(home, version, ring_of(keys), name=name)
    _show({"withdrawn": version}, saved, as_json, f"version {version} is withdrawn")


@channel.command()
@_home
@_keys
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Sign this one anew in any case.")
@_json
def refresh(home: Path, keys: tuple[Path, ...], roles: tuple[str, ...], as_json: bool) -> None:
    """Signs the timestamp anew, and what is half expired and has its keys here. Run it daily."""
    _show({}, publishing.refresh(home, ring_of(keys), roles=roles), as_json, "refreshed")


@channel.command()
@_home
@click.option("--role", required=True, type=click.Choice(ROLES))
@_keys
@click.option(
    "--public",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A new key's public half, a PEM file, where the private one is kept elsewhere. May be repeated.",
)
@click.option("--threshold", metavar="N[/M]", help="N of M keys must sign from now on.  [default: as before]")
@_encrypt
@_json
def rotate(
    home: Path,
    role: str,
    keys: tuple[Path, ...],
    public: tuple[Path, ...],
    threshold: str | None,
    encrypt: bool,
    as_json: bool,
) -> None:
    """Replaces all keys of a role, by new ones in the first folder of keys, or by public ones.

    Needs the root's keys, for bundles those of targets. Where some are not here, the change waits for `sign`.
    """
    saved = publishing.rotate(
        home,
        role,
        ring_of(keys),
        keys=keys[0],
        public=[public_key(path) for path in public],
        quorum=_quorum(threshold) if threshold else None,
        passphrase=_new_passphrase if encrypt else None,
    )
    _show({"role": role}, saved, as_json, f"{role} has new keys")


@channel.command()
@_home
@click.option(
    "--key",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A private key, a PEM file. May be repeated.",
)
@click.option(
    "--keys", multiple=True, metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False), help="Others at hand."
)
@_json
def sign(home: Path, files: tuple[Path, ...], keys: tuple[Path, ...], as_json: bool) -> None:
    """Adds a signature to what waits for it, and publishes what has enough."""
    _show({}, publishing.sign(home, ring_of(keys, files)), as_json, "signed")


@channel.command()
@_home
@_json
def status(home: Path, as_json: bool) -> None:
    """Roles, thresholds, expiries, what waits for signatures, and the bundles."""
    found = publishing.status(home)
    click.echo(json.dumps(found) if as_json else _described(found))


def ring_of(folders: tuple[Path, ...], files: tuple[Path, ...] = ()) -> KeyRing:
    """Keys at hand, whose passphrase is asked for where it is needed."""
    return KeyRing(folders, files, passphrase=_passphrase)


def _passphrase(*, confirm: bool = False) -> str:
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise ChannelError("a private key is locked", hint=f"set {PASSPHRASE}, or run it in a terminal")
    return str(click.prompt("Passphrase of the offline keys", hide_input=True, confirmation_prompt=confirm, err=True))


def _new_passphrase() -> str:
    found = _passphrase(confirm=True)
    if not found:
        raise ChannelError("the passphrase is empty")
    return found


def _pair(text: str) -> tuple[str, str]:
    role, _, value = text.partition("=")
    if role not in ROLES:
        raise ChannelError(f"{text!r} names no role", hint=f"ROLE=VALUE with one of {', '.join(ROLES)}")
    return role, value


def _quorum(text: str) -> publishing.Quorum:
    threshold, _, keys = text.partition("/")
    return publishing.Quorum(_number(threshold), _number(keys or threshold))


def _days(text: str) -> int:
    return _number(text, most=3650)


def _number(text: str, most: int = 64) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ChannelError(f"{text!r} is no number from 1 to {most}")
    return int(text)


def _show(told: dict[str, Any], saved: Saved, as_json: bool, text: str) -> None:
    if as_json:
        done = {"published": bool(saved.versions), "versions": saved.versions, "waiting": saved.waiting}
        click.echo(json.dumps({**told, **done}))
        return
    click.echo(text if saved.versions else f"{text}, once it is signed")
    for role, missing in saved.waiting.items():
        click.echo(f"  {role} waits for {missing} more signatures")


def _described(found: dict[str, Any]) -> str:
    lines = [
        f"{role:<10} version {told['version']:<4} {told['threshold']} of {len(told['keys'])} keys, "
        + (f"{told['days_left']:.1f} days left" if told["days_left"] > 0 else "EXPIRED")
        for role, told in found["roles"].items()
    ]
    lines += [f"{role} waits for {missing} more signatures" for role, missing in found["waiting"].items()]
    for entry in found["bundles"]:
        withdrawn = ", withdrawn" if entry["withdrawn"] else ""
        lines.append(f"{entry['name']} version {entry['version']}: {entry['bytes']:,} bytes{withdrawn}")
    return "\n".join(lines)
