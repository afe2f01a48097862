//! Keys, quotes and credentials of a TPM emulator, judged by the verifier's code.

#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use attest::Code;
use attest::binding::{Binding, Purpose, Transcript};
use attest::tpm::{AttestationKey, EndorsementKey, Evidence, Randomness, check};
use measurements::Bank;
use node_tpm::Keys;
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, handles::PcrHandle, interface_types::session_handles::AuthSession};

/// A swtpm of its own, gone with this.
struct Emulator {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

/// Two free ports in a row: the TPM's, and that of its control channel, which libtss2 expects behind it. The sandbox has a network of its own, whose loopback is down.
fn free_ports() -> u16 {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

impl Emulator {
    fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_ports());
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(at("state")).unwrap();
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--tpmstate", &at("state"), "--pcr-banks", "sha1,sha256,sha384,sha512"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", at("state"))])
            .args(["--server", &format!("type=tcp,port={port}"), "--ctrl", &format!("type=tcp,port={}", port + 1)])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port + 1)).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, port, _folder: folder }
    }

    fn context(&self) -> Context {
        let name = format!("swtpm:host=127.0.0.1,port={}", self.port);
        Context::new(TctiNameConf::from_str(&name).unwrap()).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binding(name: &[u8]) -> [u8; 32] {
    let transcript = Transcript::new(&[1; 32], &[2; 32], &[3; 32]);
    Binding {
        transcript,
        hpke_key: &[4; 32],
        ak_name: name,
        purpose: Purpose::Unlock,
        disk_id: b"disk",
        header_digest: &[5; 32],
    }
    .extra_data()
}

#[test]
fn a_verifier_accepts_keys_quotes_and_activations_of_a_tpm() {
    let emulator = Emulator::start();
    let mut context = emulator.context();
    let keys = Keys::make(&mut context).unwrap();
    let ak = AttestationKey::parse(keys.attestation_key()).unwrap();
    let ek = EndorsementKey::parse(keys.endorsement_key()).unwrap();

    for bank in [Bank::Sha256, Bank::Sha384, Bank::Sha512] {
        let extra_data = binding(ak.name().as_bytes());
        let quote = keys.quote(&mut context, bank, &extra_data).unwrap();
        let evidence = Evidence { attest: &quote.attest, signature: &quote.signature, registers: &quote.registers };
        let quoted = check(&evidence, &ak, bank, &extra_data).unwrap();
        assert_eq!(quoted.registers, quote.registers);
        assert_eq!(check(&evidence, &ak, bank, &[0; 32]).unwrap_err().code, Code::BinderMismatch);
    }

    let randomness = Randomness { seed: [6; 32], padding: [7; 32] };
    let challenge = ek.challenge(b"a credential", &ak.name(), &randomness).unwrap();
    let activated = keys.activate(&mut context, &challenge.credential_blob, &challenge.encrypted_seed).unwrap();
    assert_eq!(activated.as_slice(), b"a credential");
    let again = keys.activate(&mut context, &challenge.credential_blob, &challenge.encrypted_seed);
    assert!(again.is_ok(), "no session is left behind: {again:?}");
    let mut changed = challenge.credential_blob.clone();
    changed[10] ^= 1;
    assert!(keys.activate(&mut context, &changed, &challenge.encrypted_seed).is_err());
    assert!(keys.activate(&mut context, &[1], &challenge.encrypted_seed).is_err());
    assert!(keys.are_loaded(&mut context), "a refused credential does not cost the keys");

    let (ak_area, ek_area) = (keys.attestation_key().to_vec(), keys.endorsement_key().to_vec());
    keys.flush(&mut context);
    let anew = Keys::make(&mut context).unwrap();
    assert_eq!(
        (anew.attestation_key(), anew.endorsement_key()),
        (&ak_area[..], &ek_area[..]),
        "the same TPM, the same keys"
    );
}

#[test]
fn a_quote_is_of_the_registers_as_they_are() {
    let emulator = Emulator::start();
    let mut context = emulator.context();
    let keys = Keys::make(&mut context).unwrap();
    let before = keys.quote(&mut context, Bank::Sha256, &[0; 32]).unwrap();
    let digest = tss_esapi::structures::Digest::try_from(vec![9; 32]).unwrap();
    let mut values = tss_esapi::structures::DigestValues::new();
    values.set(tss_esapi::interface_types::algorithm::HashingAlgorithm::Sha256, digest);
    context
        .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(PcrHandle::Pcr15, values))
        .unwrap();
    let after = keys.quote(&mut context, Bank::Sha256, &[0; 32]).unwrap();
    assert_eq!(after.registers[&15], Bank::Sha256.extend(&[0; 32], &[9; 32]));
    assert_eq!(before.registers.len(), 16);
    assert_ne!(before.registers[&15], after.registers[&15]);
}
