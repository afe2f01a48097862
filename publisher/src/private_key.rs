//! Private keys: PKCS#8 (RFC 5958) in PEM, plain or encrypted as cosign does (go-securesystemslib, `encrypted`: scrypt and
//! NaCl's secretbox, in JSON). `sigstore` reads and writes the same files. It brings TLS and a second library of cryptography
//! along, which are most of what `cargo xtask keygen` would compile.

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use transparency::key::Key;
use zeroize::Zeroizing;

const PLAIN: &str = "PRIVATE KEY";
/// Label of cosign's newer keys, and of ours.
const ENCRYPTED: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// Label of cosign's older keys.
const ENCRYPTED_BEFORE: &str = "ENCRYPTED COSIGN PRIVATE KEY";
const KDF: &str = "scrypt";
const CIPHER: &str = "nacl/secretbox";
/// log2 of scrypt's N that is written.
const LOG_N: u8 = 15;
/// Those that are read: others cost an unlimited amount of memory or time, or protect nothing.
const LOG_N_READ: [u8; 2] = [15, 16];
const SALT_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// ECDSA on P-256 with SHA-256, signatures in DER: release keys.
    EcdsaP256,
    /// Ed25519: root keys.
    Ed25519,
}

/// A private key.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
}

enum Pair {
    EcdsaP256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// A new key.
    pub fn generate(scheme: Scheme) -> Result<Self> {
        let random = SystemRandom::new();
        let made = match scheme {
            Scheme::EcdsaP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
            Scheme::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        };
        Self::from_pkcs8(made.map_err(|_| no_random_numbers())?.as_ref())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let pkcs8 = Zeroizing::new(der.to_vec());
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self { pkcs8, pair: Pair::Ed25519(pair) });
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        let pair = pair.map_err(|error| anyhow!("it is no key of ECDSA on P-256 or of Ed25519: {error}"))?;
        Ok(Self { pkcs8, pair: Pair::EcdsaP256(pair) })
    }

    /// Reads a plain key.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        let (label, body) = read_pem(pem)?;
        ensure!(label == PLAIN, "its label is {label:?}, expected {PLAIN:?}");
        Self::from_pkcs8(&body)
    }

    /// Reads an encrypted key.
    pub fn from_encrypted_pem(pem: &[u8], password: &[u8]) -> Result<Self> {
        let (label, body) = read_pem(pem)?;
        ensure!([ENCRYPTED, ENCRYPTED_BEFORE].contains(&&*label), "its label is {label:?}, expected {ENCRYPTED:?}");
        Self::from_pkcs8(&decrypt(&body, password)?)
    }

    /// The key as a plain PEM file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(write_pem(PLAIN, &self.pkcs8))
    }

    /// The key as an encrypted PEM file.
    pub fn to_encrypted_pem(&self, password: &[u8]) -> Result<Zeroizing<String>> {
        Ok(Zeroizing::new(write_pem(ENCRYPTED, &encrypt(&self.pkcs8, password)?)))
    }

    /// What kind of key it is.
    pub fn scheme(&self) -> Scheme {
        match self.pair {
            Pair::EcdsaP256(_) => Scheme::EcdsaP256,
            Pair::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// Its public half.
    pub fn public(&self) -> Result<Key> {
        let key = match &self.pair {
            Pair::EcdsaP256(pair) => Key::new(envelope::PublicKey::P256(pair.public_key().as_ref().to_vec())),
            Pair::Ed25519(pair) => pair.public_key().as_ref().try_into().ok().map(Key::ed25519),
        };
        key.context("the key has no public half")
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        match &self.pair {
            Pair::EcdsaP256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| no_random_numbers())?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn no_random_numbers() -> anyhow::Error {
    anyhow!("the system has no random numbers")
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_random_numbers())?;
    Ok(bytes)
}

fn secret_box(password: &[u8], salt: &[u8], log_n: u8) -> Result<XSalsa20Poly1305> {
    let parameters = scrypt::Params::new(log_n, 8, 1).map_err(|error| anyhow!("scrypt: {error}"))?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &parameters, &mut key[..]).map_err(|error| anyhow!("scrypt: {error}"))?;
    XSalsa20Poly1305::new_from_slice(&key[..]).map_err(|error| anyhow!("secretbox: {error}"))
}

fn encrypt(plain: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let (salt, nonce) = (random::<SALT_BYTES>()?, random::<NONCE_BYTES>()?);
    let sealed = secret_box(password, &salt, LOG_N)?.encrypt(&nonce.into(), plain);
    let sealed = sealed.map_err(|_| anyhow!("the key cannot be encrypted"))?;
    let document = json!({
        "kdf": {"name": KDF, "params": {"N": 1_u32 << LOG_N, "r": 8, "p": 1}, "salt": STANDARD.encode(salt)},
        "cipher": {"name": CIPHER, "nonce": STANDARD.encode(nonce)},
        "ciphertext": STANDARD.encode(sealed),
    });
    Ok(serde_json::to_vec(&document)?)
}

fn decrypt(document: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let document: Value = serde_json::from_slice(document).context("it is not JSON")?;
    let (kdf, cipher) = (&document["kdf"], &document["cipher"]);
    ensure!(kdf["name"] == KDF && cipher["name"] == CIPHER, "it is encrypted by another method than cosign's");
    let parameters = &kdf["params"];
    let log_n = LOG_N_READ.into_iter().find(|log_n| parameters["N"] == 1_u32 << log_n);
    let (Some(log_n), true) = (log_n, parameters["r"] == 8 && parameters["p"] == 1) else {
        bail!("its parameters of scrypt are {parameters}, not those of cosign")
    };
    let bytes = |value: &Value| -> Result<Vec<u8>> {
        STANDARD.decode(value.as_str().unwrap_or_default()).context("it is not in base64")
    };
    let nonce: [u8; NONCE_BYTES] =
        bytes(&cipher["nonce"])?.try_into().map_err(|_| anyhow!("its nonce is too short"))?;
    let secret_box = secret_box(password, &bytes(&kdf["salt"])?, log_n)?;
    let plain = secret_box.decrypt(&nonce.into(), &*bytes(&document["ciphertext"])?);
    Ok(Zeroizing::new(plain.map_err(|_| anyhow!("the password does not fit"))?))
}

/// Label and content of the first block of a PEM file (RFC 7468).
fn read_pem(pem: &[u8]) -> Result<(String, Zeroizing<Vec<u8>>)> {
    let text = std::str::from_utf8(pem).context("it is not PEM")?;
    let (label, rest) =
        text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----")).context("it is not PEM")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).context("its PEM has no end")?;
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    let content = STANDARD.decode(body.as_bytes()).context("its PEM is not in base64")?;
    Ok((label.to_owned(), Zeroizing::new(content)))
}

/// A PEM file (RFC 7468).
pub fn write_pem(label: &str, content: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(content));
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, letter) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + &format!("\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: [Scheme; 2] = [Scheme::EcdsaP256, Scheme::Ed25519];

    #[test]
    fn key_is_read_as_it_was_written_and_signs_for_its_public_half() {
        for scheme in SCHEMES {
            let key = PrivateKey::generate(scheme).unwrap();
            let plain = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            let encrypted = key.to_encrypted_pem(b"a password").unwrap();
            let opened = PrivateKey::from_encrypted_pem(encrypted.as_bytes(), b"a password").unwrap();
            for read in [plain, opened] {
                assert_eq!((read.scheme(), &read.pkcs8), (scheme, &key.pkcs8));
                let public = read.public().unwrap();
                assert!(public.public().has_signed(b"message", &read.sign(b"message").unwrap()));
                assert!(!public.public().has_signed(b"another", &read.sign(b"message").unwrap()));
            }
            assert!(PrivateKey::from_pem(encrypted.as_bytes()).is_err());
            let wrong = PrivateKey::from_encrypted_pem(encrypted.as_bytes(), b"another").err().unwrap();
            assert!(wrong.to_string().contains("password does not fit"), "{wrong}");
        }
    }

    #[test]
    fn encrypted_key_with_other_parameters_or_damage_is_refused() {
        let document = encrypt(b"secret", b"password").unwrap();
        assert_eq!(&*decrypt(&document, b"password").unwrap(), b"secret");
        let text = String::from_utf8(document).unwrap();
        for (from, to) in [
            ("32768", "2"),
            ("32768", "1073741824"),
            ("\"r\":8", "\"r\":800"),
            ("\"p\":1", "\"p\":100"),
            ("scrypt", "bcrypt"),
            ("nacl/secretbox", "none"),
            ("\"nonce\":\"", "\"nonce\":\"AAAA"),
            ("\"ciphertext\":\"", "\"ciphertext\":\"AAAA"),
            ("\"salt\":\"", "\"salt\":\"AAAA"),
        ] {
            assert!(text.contains(from), "{text}");
            assert!(decrypt(text.replacen(from, to, 1).as_bytes(), b"password").is_err(), "{from} {to}");
        }
    }

    /// In both directions, plain and encrypted.
    #[cfg(feature = "log")]
    #[test]
    fn sigstore_reads_and_writes_the_same_files() {
        use sigstore::crypto::SigningScheme;
        use sigstore::crypto::signing_key::SigStoreKeyPair;
        for (scheme, theirs) in SCHEMES.into_iter().zip([SigningScheme::ECDSA_P256_SHA256_ASN1, SigningScheme::ED25519])
        {
            let key = PrivateKey::generate(scheme).unwrap();
            let spki = key.public().unwrap().spki();
            let plain = SigStoreKeyPair::from_pem(key.to_pem().as_bytes()).unwrap();
            let encrypted = key.to_encrypted_pem(b"a password").unwrap();
            let opened = SigStoreKeyPair::from_encrypted_pem(encrypted.as_bytes(), b"a password").unwrap();
            for pair in [plain, opened] {
                assert_eq!(pair.public_key_to_der().unwrap(), spki);
            }
            let pair: SigStoreKeyPair = theirs.create_signer().unwrap().to_sigstore_keypair().unwrap();
            let plain = PrivateKey::from_pem(pair.private_key_to_pem().unwrap().as_bytes()).unwrap();
            let encrypted = pair.private_key_to_encrypted_pem(b"a password").unwrap();
            let opened = PrivateKey::from_encrypted_pem(encrypted.as_bytes(), b"a password").unwrap();
            for key in [plain, opened] {
                assert_eq!(key.public().unwrap().spki(), pair.public_key_to_der().unwrap());
            }
        }
    }
}
