// What npm's verifier of Sigstore bundles says of ours: node verify.js TRUSTED_ROOT RELEASE_PUB BUNDLE...
// One line of JSON for each bundle: {"bundle": ..., "refused": null or a code, "found": null or a reason}. Whatever is
// no judgement ends the program with an error.

const { createHash, createPublicKey } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { ValidationError, bundleFromJSON } = require('@sigstore/bundle');
const { TrustedRoot } = require('@sigstore/protobuf-specs');
const { PolicyError, VerificationError, Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');

const read = (path) => JSON.parse(readFileSync(path, 'utf8'));

function judge(verifier, path) {
  const json = read(path);
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(json)));
    return { bundle: path, refused: null, found: null };
  } catch (error) {
    if (error instanceof ValidationError) {
      return { bundle: path, refused: 'BUNDLE', found: error.message };
    }
    if (error instanceof VerificationError || error instanceof PolicyError) {
      return { bundle: path, refused: error.code, found: error.message };
    }
    throw error;
  }
}

const [rootPath, keyPath, ...bundles] = process.argv.slice(2);
const key = createPublicKey(readFileSync(keyPath)).export({ type: 'spki', format: 'der' });
const hint = createHash('sha256').update(key).digest('base64');
const keys = { [hint]: { rawBytes: key, keyDetails: 'PKIX_ECDSA_P256_SHA_256' } };
// A log of Rekor v2 knows no time, and these bundles have no timestamp.
const options = { tlogThreshold: 1, ctlogThreshold: 0, timestampThreshold: 0 };
const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(read(rootPath)), keys), options);
for (const path of bundles) {
  console.log(JSON.stringify(judge(verifier, path)));
}
