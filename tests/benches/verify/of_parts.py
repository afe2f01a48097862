# What sigstore (Python) can verify of a bundle that a key has signed: the statement's signature, the proof, and the log's
# head. Its own program wants a certificate in each bundle, so these are its parts, called in the order in which it calls them.
# python of_parts.py TRUSTED_ROOT RELEASE_PUB BUNDLE

import json
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint
from sigstore._internal.trust import KeyringPurpose
from sigstore.dsse import Envelope, _verify
from sigstore.models import TransparencyLogEntry, TrustedRoot
from sigstore_models.rekor.v1 import TransparencyLogEntry as Entry

root, key, path = sys.argv[1:]
with open(path) as file:
    bundle = json.load(file)
with open(key, "rb") as file:
    public = load_pem_public_key(file.read())
entry = TransparencyLogEntry(Entry.from_json(json.dumps(bundle["verificationMaterial"]["tlogEntries"][0])))
verify_merkle_inclusion(entry)
verify_checkpoint(TrustedRoot.from_file(root).rekor_keyring(KeyringPurpose.VERIFY), entry)
_verify(public, Envelope._from_json(json.dumps(bundle["dsseEnvelope"])))
