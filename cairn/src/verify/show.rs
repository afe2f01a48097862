//! The same checks with tools that everybody has: openssl for the statement's and the log's signatures, cosign for the bundle and its proof. Nothing is run here. Neither tool looks at witnesses, validity, channels or what came before.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::PublicKey;
use transparency::bundle::Bundle;
use transparency::key::Key;
use transparency::statement::{PAYLOAD_TYPE, predicate_type};
use transparency::trust_root::TrustRoot;

use super::judge::{Inputs, Subject, trust_root};

/// The commands, or why there are none.
pub fn commands(inputs: &Inputs, bundle: &Path, file: Option<&Path>) -> String {
    let parts = trust_root(&inputs.roots).and_then(|root| Ok((root, Bundle::parse(&inputs.bundle)?)));
    let found = parts.map_err(|refusal| refusal.found).and_then(|(root, parsed)| {
        let payload = parsed.envelope.unverified_payload().map_err(|error| error.to_string())?;
        let (key, _) = root.key(&parsed.hint).ok_or("the bundle names no key of the trust root")?;
        let mut text = String::from("\n# The statement's signature.\n");
        text += &statement(key, &payload, &quoted(bundle));
        text += &head(&root, &parsed).unwrap_or_default();
        let kind = predicate_type(&payload).map_err(|refusal| refusal.found)?;
        text += &cosign(&root, &inputs.subject, &kind, &quoted(bundle), file);
        Ok(text)
    });
    found.unwrap_or_else(|reason| format!("\n# No commands: {reason}.\n"))
}

/// A bundle of an air-gap file as a file of its own, which all other commands take.
pub fn unpacked(name: &str, bundle: &[u8]) -> String {
    format!("\n# The bundle.\n{}", file(&quoted(Path::new(name)), &String::from_utf8_lossy(bundle)))
}

/// openssl verifies what DSSE signs: "DSSEv1", then lengths and bytes of type and payload.
fn statement(key: &Key, payload: &[u8], bundle: &str) -> String {
    let field = |name: &str| format!("grep -o '\"{name}\": *\"[^\"]*\"' {bundle} | cut -d '\"' -f 4 | base64 -d");
    let (length, payload) = (payload.len(), field("payload"));
    let prefix = format!("DSSEv1 {} {PAYLOAD_TYPE} {length} ", PAYLOAD_TYPE.len());
    format!(
        "{}{{ printf '{prefix}'; {payload}; }} > signed\n{} > signature\n\
         openssl dgst -sha256 -verify release.pub -signature signature signed\n",
        file("release.pub", &pem(key)),
        field("sig"),
    )
}

/// openssl verifies the log's signature under its head.
fn head(root: &TrustRoot, bundle: &Bundle) -> Option<String> {
    let (key, origin) = root.logs().find(|(key, origin)| key.note_id(origin) == bundle.entry.log_id)?;
    let (body, signatures) = bundle.entry.checkpoint.split_once("\n\n")?;
    let line = signatures.lines().find(|line| line.split(' ').nth(1) == Some(origin))?;
    let signature = STANDARD.decode(line.rsplit(' ').next()?).ok()?;
    let signature = STANDARD.encode(signature.get(4..)?);
    let verify = match key.public() {
        PublicKey::Ed25519(_) => {
            "openssl pkeyutl -verify -pubin -inkey log.pub -rawin -in head -sigfile head.signature"
        }
        PublicKey::P256(_) => "openssl dgst -sha256 -verify log.pub -signature head.signature head",
    };
    let (key, head) = (file("log.pub", &pem(key)), file("head", &format!("{body}\n")));
    Some(format!(
        "\n# The log's signature under its head.\n{key}{head}printf {signature} | base64 -d > head.signature\n{verify}\n"
    ))
}

/// cosign verifies signature, proof, head, kind and subject.
fn cosign(root: &TrustRoot, subject: &Subject, kind: &str, bundle: &str, path: Option<&Path>) -> String {
    let subject = match (subject, path) {
        (Subject::Value { algorithm, digest }, _) => {
            format!("--digest {} --digestAlg {}", hex::encode(digest), quoted(Path::new(algorithm)))
        }
        (_, Some(path)) => quoted(path),
        (Subject::File(digest), None) => format!("--digest {} --digestAlg sha256", hex::encode(digest)),
        (Subject::Anything, None) => "FILE".into(),
    };
    let mut text = String::from("\n# The whole bundle.\n");
    text += &file("trusted_root.json", &format!("{}\n", second_opinion::trusted_root(root)));
    let kind = quoted(Path::new(kind));
    let _ = writeln!(
        text,
        "cosign verify-blob-attestation --key release.pub --bundle {bundle} --trusted-root trusted_root.json --type {kind} {subject}"
    );
    text
}

/// A file with this text, whose lines are not the mark.
fn file(name: &str, text: &str) -> String {
    format!("cat > {name} <<'END'\n{text}END\n")
}

fn pem(key: &Key) -> String {
    let text = STANDARD.encode(key.spki());
    let (first, rest) = text.split_at(text.len().min(64));
    let rest = if rest.is_empty() { String::new() } else { format!("{rest}\n") };
    format!("-----BEGIN PUBLIC KEY-----\n{first}\n{rest}-----END PUBLIC KEY-----\n")
}

/// As one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:=@%".contains(&byte);
    let plain = !text.is_empty() && !text.starts_with('-') && text.bytes().all(is_plain);
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::verify::Kind;
    use crate::verify::fake::{Fake, documents};

    fn inputs(fake: &mut Fake) -> Inputs {
        Inputs {
            bundle: fake.publish(&documents::release().write().unwrap()).write().unwrap(),
            roots: vec![fake.sign_trust_root(&fake.trust_root().write().unwrap())],
            channel: None,
            channel_version: 0,
            newest: None,
            subject: Subject::Value { algorithm: "sha384".into(), digest: vec![7; 48] },
            kind: Kind::MeasuredBoot,
        }
    }

    #[test]
    fn the_commands_of_openssl_verify_what_we_verify() {
        let inputs = inputs(&mut Fake::new());
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: there is no openssl");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let shown = commands(&inputs, Path::new("a bundle.json"), None);
        let (openssl, cosign) = shown.split_once("\n# The whole bundle.\n").unwrap();
        assert!(cosign.ends_with(&format!("--digest {} --digestAlg sha384\n", "07".repeat(48))), "{cosign}");
        let run = |bundle: &[u8]| {
            std::fs::write(folder.path().join("a bundle.json"), bundle).unwrap();
            let output = Command::new("sh").args(["-ec", openssl]).current_dir(folder.path()).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (good, said) = run(&inputs.bundle);
        assert!(good && said.contains("Verified OK") && said.contains("Signature Verified Successfully"), "{said}");
        let text = String::from_utf8(inputs.bundle.clone()).unwrap();
        let other = text.replacen("\"payload\":\"eyJ", "\"payload\":\"eyK", 1);
        assert_ne!(text, other);
        assert!(!run(other.as_bytes()).0);
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("a/b.json")), "a/b.json");
        assert_eq!(quoted(Path::new("it's; $(x)")), "'it'\\''s; $(x)'");
        assert_eq!(quoted(Path::new("-x")), "'-x'");
        let nothing = Inputs { bundle: Vec::new(), ..inputs(&mut Fake::new()) };
        assert!(commands(&nothing, Path::new("x"), None).starts_with("\n# No commands: the bundle"));
    }
}
