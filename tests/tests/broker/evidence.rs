//! One field of the evidence changed at a time.

use anyhow::{Result, ensure};
use attest::bytes::{Bytes32, Hex};
use attest::message::{DiskState, Purpose};
use cairn_tests::attacks::{code, codes};
use cairn_tests::attester::{hpke_key, random};
use cairn_tests::suite::Suite;
use measurements::Bank;
use xtask::vm::tpm_commands::{Attested, Selection, SigningKey};

use crate::Row;
use crate::scene::{Scene, ask, provision};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("evidence_proves_nothing_in_another_session", another_session),
        Row::new("a_quote_of_another_node_is_refused", another_node),
        Row::new("a_key_that_signs_anything_is_none_for_attestation", general_key),
        Row::new("what_is_no_quote_is_refused", no_quote),
        Row::new("a_quote_is_over_all_registers_and_no_others", selections),
        Row::new("only_the_enrolled_bank_counts", banks),
        Row::new("keys_of_two_tpms_are_no_node", two_tpms),
        Row::new("a_key_exchanged_on_the_way_gets_nothing", exchanged_key),
        Row::new("a_node_opens_no_disk_but_its_own", another_disk),
        Row::new("evidence_is_bound_to_its_connection", another_connection),
        Row::new("a_downgrade_is_noticed", downgrade),
        Row::new("every_other_field_of_the_evidence_counts", other_fields),
    ]
}

fn another_session(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let talk = scene.begin(Purpose::Unlock)?;
    let mut earlier = scene.node.evidence(&talk)?;
    let mut talk = scene.begin(Purpose::Unlock)?;
    earlier.session = talk.challenge.session.clone();
    let response = talk.show(&earlier)?;
    scene.broker.must_refuse(&response, code(2))?;
    scene.must_still_unlock()
}

fn another_node(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut other = scene.another("two")?;
    scene.must_refuse(code(5), |node, talk, evidence| {
        let extra_data = node.extra_data(talk)?;
        let quote = other.tpm.quote_of(&extra_data, &[Selection::of_a_node(talk.challenge.bank)])?;
        (evidence.quote, evidence.signature) = (Hex(quote.attest), Hex(quote.signature));
        Ok(())
    })?;
    // An endorsement key is public: until a quote was verified, the client is not this node.
    ensure!(scene.broker.last_node()?.is_empty(), "the refusal is recorded under the node's name");
    scene.must_still_release()?;
    ensure!(scene.broker.last_node()? == "one", "the release is not recorded under the node's name");
    Ok(())
}

fn general_key(suite: &Suite, _: &str) -> Result<()> {
    let [attributes, signature] = codes(6) else { anyhow::bail!("two codes") };
    let mut scene = Scene::new(suite)?;
    for kind in [SigningKey::Unrestricted, SigningKey::Duplicable] {
        let key = scene.node.tpm.tpm.commands.signing_key(kind)?;
        let mut hello = scene.node.hello(Purpose::Provision)?;
        hello.ak = Hex(key.area.clone());
        let response = scene.broker.wire()?.say("/krp/1/hello", &hello)?;
        scene.broker.must_refuse(&response, attributes)?;
        scene.node.tpm.tpm.commands.flush(key.handle)?;
    }
    // A body that somebody wrote, which a restricted key never signs.
    scene.must_refuse(signature, |node, _, evidence| {
        let commands = &mut node.tpm.tpm.commands;
        let key = commands.signing_key(SigningKey::Unrestricted)?;
        evidence.signature = Hex(commands.sign(&key, &evidence.quote.0)?);
        ensure!(
            commands.sign(&node.tpm.ak, &evidence.quote.0).is_err(),
            "a restricted key signs what looks like a quote"
        );
        Ok(commands.flush(key.handle)?)
    })?;
    scene.must_still_release().map(drop)
}

fn no_quote(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.must_refuse(code(7), |_, _, evidence| {
        evidence.quote.0[0] ^= 1;
        Ok(())
    })?;
    for certify in [true, false] {
        scene.must_refuse(code(7), |node, talk, evidence| {
            let extra_data = node.extra_data(talk)?;
            let (commands, ak) = (&mut node.tpm.tpm.commands, &node.tpm.ak);
            let Attested { attest, signature } =
                if certify { commands.certify(ak, &extra_data)? } else { commands.get_time(ak, &extra_data)? };
            (evidence.quote, evidence.signature) = (Hex(attest), Hex(signature));
            Ok(())
        })?;
    }
    scene.must_still_release().map(drop)
}

/// Replaces the quote by one over these registers.
fn must_refuse_selections(scene: &mut Scene, code: &str, selections: &[Selection]) -> Result<()> {
    scene.must_refuse(code, |node, talk, evidence| {
        let extra_data = node.extra_data(talk)?;
        let quote = node.tpm.quote_of(&extra_data, selections)?;
        (evidence.quote, evidence.signature) = (Hex(quote.attest), Hex(quote.signature));
        Ok(())
    })
}

fn selections(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let bank = Bank::Sha384;
    for registers in [0xfffe, 0x7fff, 0x1_ffff, 1] {
        must_refuse_selections(&mut scene, code(8), &[Selection { bank, registers }])?;
    }
    let both = [Selection::of_a_node(bank), Selection::of_a_node(Bank::Sha256)];
    must_refuse_selections(&mut scene, code(8), &both)?;
    must_refuse_selections(&mut scene, code(8), &[])?;
    scene.must_still_release().map(drop)
}

fn banks(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    for bank in [Bank::Sha1, Bank::Sha256, Bank::Sha512] {
        must_refuse_selections(&mut scene, code(9), &[Selection::of_a_node(bank)])?;
    }
    // Enrolled with SHA-384, which this firmware leaves alone.
    let mut boot = scene.boot.clone();
    boot.banks = vec![Bank::Sha1, Bank::Sha256];
    scene.node.reboot(&boot)?;
    scene.must_refuse(code(9), |_, _, _| Ok(()))?;
    let boot = scene.boot.clone();
    scene.node.reboot(&boot)?;
    scene.must_still_release().map(drop)
}

fn two_tpms(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut other = scene.stranger()?;
    let ek = scene.node.hello(Purpose::Provision)?.ek;
    for guess in [None, Some(Bytes32(random()?))] {
        let mut hello = other.hello(Purpose::Provision)?;
        hello.ek = ek.clone();
        let mut talk = scene.broker.wire()?.begin(hello)?;
        ensure!(other.evidence(&talk).is_err(), "a TPM activates another's credential");
        talk.challenge.credential = None;
        let mut evidence = other.evidence(&talk)?;
        evidence.activation = guess;
        let response = talk.show(&evidence)?;
        scene.broker.must_refuse(&response, code(11))?;
    }
    scene.must_still_release().map(drop)
}

fn exchanged_key(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let theirs = Bytes32(hpke_key()?.public());
    let hello = scene.node.hello(Purpose::Unlock)?;
    let mut talk = scene.broker.wire()?.begin_changed(hello, |hello| hello.hpke_key = theirs)?;
    ensure!(talk.challenge.hello.0 != talk.hello_digest, "the node cannot notice it by the challenge");
    let evidence = scene.node.evidence(&talk)?;
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, code(13))?;
    scene.must_still_unlock()
}

fn another_disk(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    let mut other = scene.another("two")?;
    other.disk = scene.node.disk.clone();
    for purpose in [Purpose::Unlock, Purpose::Provision] {
        let (_, response) = ask(&scene.broker, &mut other, purpose)?;
        scene.broker.must_refuse(&response, code(14))?;
    }
    other.disk = DiskState::Blank;
    provision(&scene.broker, &mut other).map(drop)
}

fn another_connection(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    // Somebody between has one connection to the broker and another to the node: the node binds what it sees.
    let mut talk = scene.begin(Purpose::Unlock)?;
    talk.exporter = random()?;
    let evidence = scene.node.evidence(&talk)?;
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, code(15))?;
    scene.must_still_unlock()
}

fn downgrade(suite: &Suite, _: &str) -> Result<()> {
    let [changed, unspoken] = codes(16) else { anyhow::bail!("two codes") };
    let mut scene = Scene::known(suite)?;
    let hello = scene.node.hello(Purpose::Unlock)?;
    let mut talk = scene.broker.wire()?.begin_changed(hello, |hello| hello.versions = [0, 1])?;
    let evidence = scene.node.evidence(&talk)?;
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, changed)?;
    let mut hello = scene.node.hello(Purpose::Unlock)?;
    hello.versions = [2, 3];
    let response = scene.broker.wire()?.say("/krp/1/hello", &hello)?;
    scene.broker.must_refuse(&response, unspoken)?;
    scene.must_still_unlock()
}

fn other_fields(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.must_refuse("PCR_DIGEST", |_, _, evidence| {
        evidence.registers[4].0[0] ^= 1;
        Ok(())
    })?;
    scene.must_refuse("MALFORMED", |_, _, evidence| {
        evidence.registers.pop();
        Ok(())
    })?;
    scene.must_refuse("MALFORMED", |_, _, evidence| {
        evidence.quote.0.pop();
        Ok(())
    })?;
    scene.must_refuse("QUOTE_SIGNATURE", |_, _, evidence| {
        let last = evidence.signature.0.len() - 1;
        evidence.signature.0[last] ^= 1;
        Ok(())
    })?;
    scene.must_refuse("LOG_REPLAY", |_, _, evidence| {
        evidence.event_log.0.clear();
        Ok(())
    })?;
    // What is said of the disk, and what for, is bound, too.
    let mut scene = Scene::known(suite)?;
    for change in [
        (|hello| hello.purpose = Purpose::Provision) as fn(&mut attest::message::Hello),
        |hello| hello.nonce.0[0] ^= 1,
        |hello| hello.disk = DiskState::Blank,
        |hello| {
            if let DiskState::Luks { digest, .. } = &mut hello.disk {
                digest.0[0] ^= 1;
            }
        },
    ] {
        let hello = scene.node.hello(Purpose::Unlock)?;
        let mut talk = scene.broker.wire()?.begin_changed(hello, change)?;
        let evidence = scene.node.evidence(&talk)?;
        let response = talk.show(&evidence)?;
        scene.broker.must_refuse(&response, "BINDER_MISMATCH")?;
    }
    scene.must_still_unlock()
}
