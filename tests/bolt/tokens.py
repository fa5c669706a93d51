"""Keys and tokens for the tests of authentication, made by other hands than ours."""

from __future__ import annotations

import base64
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

SECRET = "a secret of the tests, longer than any of the hashes it is for, 64+"

SHARED = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC = (*RSA, "ES256", "ES384", "EdDSA")


@cache
def private_key(algorithm: str, number: int) -> Any:
    """A private key for an algorithm; another one for another number."""
    if algorithm in RSA:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())


def private_pem(algorithm: str) -> str:
    key = private_key(algorithm, 0)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(algorithm: str) -> str:
    key = private_key(algorithm, 0).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**more: Any) -> dict[str, Any]:
    """Claims of a token that is good for an hour."""
    return {"sub": "7", "exp": int(time.time()) + 3600} | more


def token(algorithm: str = "HS256", *, number: int = 0, kid: str | None = None, **more: Any) -> str:
    """A token that PyJWT signed."""
    key = SECRET if algorithm in SHARED else private_key(algorithm, number)
    return jwt.encode(claims(**more), key, algorithm, headers={"kid": kid} if kid else None)


def unsigned(header: dict[str, Any], signature: bytes = b"", **more: Any) -> str:
    """A token with a header and a signature of one's own."""
    parts = [json.dumps(header).encode(), json.dumps(claims(**more)).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def jwk(algorithm: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """The public key as a JSON Web Key."""
    public = private_key(algorithm, number).public_key()
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return {name: value for name, value in made.items() if name != "key_ops"} | more
