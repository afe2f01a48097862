//! M1 and M2: who a node says it is, and what its evidence must be bound to. Nothing is kept but in the connection; a stranger gets the same challenge as a node.

use std::net::IpAddr;
use std::time::Instant;

use attest::bytes::{Bytes32, Hex};
use attest::message::{self, Challenge, Credential, Hello, VERSION};
use attest::tpm::{AttestationKey, EndorsementKey, Randomness};
use attest::{Code as Evidence, Refusal as Refused};
use measurements::Bank;
use measurements::canonical::Document;
use ring::digest::{SHA256, digest};
use ring::hmac;
use zeroize::Zeroizing;

use super::outcome::Stop;
use super::records::{Node, get};
use super::refusals::Client;
use super::{Answer, Conversation, Engine, Open, Reply};
use crate::code::Own;
use crate::store::Table;

/// The bank that a machine which is not enrolled is asked for: always the same, either of the two, so that the bank does not tell that a machine is enrolled.
pub(super) fn unknown_bank(open: &Open, ek: &[u8]) -> Bank {
    let secret = open.keys.epochs.first_key_value().map_or(&[][..], |(_, key)| &key[..]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let is_even = hmac::sign(&key, &[b"cairn bank of an unknown machine", ek].concat()).as_ref()[0].is_multiple_of(2);
    if is_even { Bank::Sha384 } else { Bank::Sha256 }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut found = [0; 32];
    found.copy_from_slice(digest(&SHA256, bytes).as_ref());
    found
}

impl Engine {
    /// Answers a hello that came from this address, over a connection with this exporter.
    pub fn hello(
        &self,
        conversation: &mut Option<Conversation>,
        (address, exporter): (IpAddr, [u8; 32]),
        now: Instant,
        body: &[u8],
    ) -> Answer {
        *conversation = None;
        let Some(open) = self.keys() else { return Reply::sealed().into() };
        let (hello, hello_digest): (Hello, _) = match message::read(body) {
            Ok(read) => read,
            Err(refusal) => return self.refuse(Client::Stranger(address), &refusal.into()),
        };
        let ek = sha256(&hello.ek.0);
        if !self.limits.lock().unwrap_or_else(std::sync::PoisonError::into_inner).may_say_hello(address, ek, now) {
            self.count(Own::RateLimited.into());
            return Reply::busy().into();
        }
        match self.challenge(&open, &hello, hello_digest, (address, exporter), now) {
            Ok((reply, begun)) => {
                *conversation = Some(begun);
                reply.into()
            }
            Err(stop) => self.stopped(Client::Stranger(address), &stop),
        }
    }

    fn challenge(
        &self,
        open: &Open,
        hello: &Hello,
        hello_digest: [u8; 32],
        (address, exporter): (IpAddr, [u8; 32]),
        now: Instant,
    ) -> Result<(Reply, Conversation), Stop> {
        let [least, most] = hello.versions;
        if !(least..=most).contains(&VERSION) {
            let found = format!("the node speaks versions {least} to {most} of the protocol, this broker {VERSION}");
            return Err(Refused::new(Evidence::Malformed, found).into());
        }
        let key = AttestationKey::parse(&hello.ak.0)?;
        let endorsement = EndorsementKey::parse(&hello.ek.0)?;
        let node = self.node_of(&sha256(&hello.ek.0))?;
        let known = node.as_ref().is_some_and(|node| node.ak.as_ref() == Some(&hello.ak));
        let (secret, credential) = if known {
            (None, None)
        } else {
            let secret = self.random::<32>()?;
            let randomness = Randomness { seed: *self.random::<32>()?, padding: *self.random::<32>()? };
            let made = self.verifiers.run(|| endorsement.challenge(&secret[..], &key.name(), &randomness))?;
            let credential = Credential { blob: Hex(made.credential_blob), seed: Hex(made.encrypted_seed) };
            (Some(secret), Some(credential))
        };
        let session = *self.random::<16>()?;
        let latch = node.as_ref().map(|node| self.latch_of(&node.name)).transpose()?.flatten();
        let bank = node.map_or_else(|| unknown_bank(open, &hello.ek.0), |node| node.bank);
        let challenge = Challenge {
            bank,
            credential,
            epoch: open.certificate.epoch,
            hello: Bytes32(hello_digest),
            nonce: Bytes32(*self.random::<32>()?),
            schema: Challenge::SCHEMA.into(),
            session: Hex(session.to_vec()),
            ttl: u32::try_from(self.settings.challenge.as_secs()).unwrap_or(u32::MAX),
            version: VERSION,
        };
        let sent = self.verifiers.run(|| message::sign(&challenge, "broker", &open.keys.message))?;
        let begun = Conversation {
            address,
            hello: hello.clone(),
            hello_digest,
            challenge_digest: sent.digest,
            exporter,
            session,
            secret: secret.map(|secret| Zeroizing::new(*secret)),
            bank,
            last: latch.map(|latch| latch.session),
            until: now + self.settings.challenge,
        };
        Ok((Reply { status: 200, body: sent.bytes, retry_after: None }, begun))
    }

    /// The node with this endorsement key.
    pub(super) fn node_of(&self, ek: &[u8; 32]) -> Result<Option<Node>, crate::store::Error> {
        let mut node = None;
        self.store.look(&mut |transaction| {
            if let Some(name) = transaction.get(Table::EndorsementKeys, ek)? {
                node = get(transaction, Table::Nodes, &name)?;
            }
            Ok(())
        })?;
        Ok(node)
    }
}
