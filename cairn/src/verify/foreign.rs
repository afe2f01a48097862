//! Files of other projects that are given as a bundle or as a trust root: refused by name before they are parsed, because the first field that the parser does not know says nothing to a user.

use input_file::{ForeignBundle, Kind};
use transparency::{Code, Refusal};

/// Refuses a file that is known not to be a bundle of Cairn.
pub fn check_bundle(bytes: &[u8]) -> Result<(), Refusal> {
    let hint = match Kind::of(bytes) {
        Kind::ForeignBundle(ForeignBundle::Keyless) => {
            "Cairn trusts keys, not certificates: run `cosign verify-blob-attestation --certificate-identity NAME --certificate-oidc-issuer URL --bundle BUNDLE FILE`"
        }
        Kind::ForeignBundle(ForeignBundle::RekorV1) => {
            "run `cosign verify-blob-attestation --key KEY --bundle BUNDLE FILE`, or publish the statement in a log of Rekor v2"
        }
        Kind::ForeignBundle(ForeignBundle::Pypi) => "run `pypi-attestations verify attestation --identity NAME FILE`",
        Kind::SigstoreTrustRoot | Kind::TrustRoot => "give the bundle of the release (*.sigstore.json) with --bundle",
        Kind::Encoded(_) => {
            "a signature or certificate alone proves no entry of a log: give the bundle (*.sigstore.json)"
        }
        _ => return Ok(()),
    };
    Err(refusal(Code::Schema, "the bundle", bytes, hint))
}

/// Refuses a file that is known not to be a trust root of Cairn.
pub fn check_trust_root(bytes: &[u8]) -> Result<(), Refusal> {
    let hint = match Kind::of(bytes) {
        Kind::SigstoreTrustRoot => "give the signed trust root of Cairn's publisher, which lists keys and logs",
        Kind::Bundle(_) | Kind::ForeignBundle(_) => {
            "give the bundle with --bundle, and the trust root with --trust-root"
        }
        _ => return Ok(()),
    };
    Err(refusal(Code::TrustRoot, "the trust root", bytes, hint))
}

fn refusal(code: Code, what: &str, bytes: &[u8], hint: &'static str) -> Refusal {
    Refusal::new(code, format!("{what}: it is {}", Kind::of(bytes))).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &[u8] = br#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;
    const KEYLESS: &[u8] = br#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{},"verificationMaterial":{"certificate":{}}}"#;

    #[test]
    fn file_of_another_project_is_refused_by_name_under_the_code_of_its_place() {
        for (bytes, words) in [
            (KEYLESS, "keyless signing)\nhint: Cairn trusts keys"),
            (ROOT, "a trust root of Sigstore (trusted_root.json)\nhint: give the bundle"),
            (br#"{"attestation_bundles":[]}"#, "PEP 740)\nhint: run `pypi-attestations"),
            (&[b'A'; 64], "hint: "),
        ] {
            let refusal = check_bundle(bytes).unwrap_err();
            assert!(refusal.code == Code::Schema && refusal.found.contains(words), "{words}: {}", refusal.found);
        }
        for (bytes, words) in [(ROOT, "(trusted_root.json)\nhint: give the signed"), (KEYLESS, "with --bundle")] {
            let refusal = check_trust_root(bytes).unwrap_err();
            assert!(refusal.code == Code::TrustRoot && refusal.found.contains(words), "{words}: {}", refusal.found);
        }
        for other in [&b""[..], b"{}", br#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}"#] {
            assert!(check_bundle(other).is_ok());
        }
        assert!(check_trust_root(b"{}").is_ok());
    }
}
