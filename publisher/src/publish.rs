//! `cargo xtask publish`: statements are made, signed, kept, sent, and proved, in this order, so that whatever happens a second run goes on from there with the same bytes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use envelope::{Envelope, pre_authentication_encoding};
use sha2::{Digest, Sha256};
use transparency::bundle::{Bundle, Entry};
use transparency::checkpoint::Note;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::statement::{PAYLOAD_TYPE, Predicate};
use transparency::trust_root::TrustRoot;
use transparency::verify::logged;

use crate::files;
use crate::log::{Answer, Log, request};
use crate::proof::{KnownLog, bundle_of_answer, check};
use crate::signer::{Signer, SignerArgs};
use crate::statements::{Prepared, Terms, prepare};
use crate::tiles::Tiles;

const DAY: u64 = 86_400;

/// Sign an image or a machine reference, and log it
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask publish target/image --key release.key --log http://127.0.0.1:3000 --read-log http://127.0.0.1:3001 --log-key log.cairn.invalid+..."
)]
pub struct PublishArgs {
    /// Folder with an image, its *.image.json, or a *.machine.json
    #[arg(value_name = "IMAGE", default_value = "target/image")]
    path: PathBuf,
    #[command(flatten)]
    signer: SignerArgs,
    /// Address of the log (Rekor v2) that takes entries
    #[arg(long, value_name = "URL")]
    log: String,
    /// Address at which the log is read, if that is another
    #[arg(long, value_name = "URL")]
    read_log: Option<String>,
    /// The log's key and origin, as logs make them known (NAME+ID+KEY); may be repeated
    #[arg(long, value_name = "KEY", required_unless_present = "trust_root")]
    log_key: Vec<String>,
    /// Signed trust root: what is published must pass everything that `cairn verify` checks, witnesses included
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    /// Days for which the measurements hold
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    valid_days: u64,
    /// Statement of the release before this one
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// URI of whoever vouches for the build
    #[arg(long, value_name = "URI", default_value = "https://cairn.example/builder/manual")]
    builder: String,
    /// Where the sources are
    #[arg(long, value_name = "URI")]
    repository: Option<String>,
    /// Seconds after which a request to the log is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
    /// Show exactly what would be signed and logged; nothing is written, signed or sent
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: &PublishArgs) -> Result<String> {
    let signer = Signer::open(&args.signer)?;
    let trust = args.trust_root.as_deref().map(files::read).transpose()?;
    let trust = trust.map(|bytes| TrustRoot::first(&bytes)).transpose().map_err(|refusal| anyhow!("{refusal}"))?;
    let mut logs = args.log_key.iter().map(|text| KnownLog::parse(text)).collect::<Result<Vec<_>>>()?;
    if let Some(root) = &trust {
        logs.extend(root.logs().map(|(key, origin)| KnownLog { key: key.clone(), origin: origin.to_owned() }));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let terms = Terms {
        now,
        validity: args.valid_days.saturating_mul(DAY),
        previous: args.previous.clone(),
        builder: args.builder.clone(),
        repository: args.repository.clone(),
    };
    let statements = prepare(&args.path, &terms)?;
    let log = Log::new(&args.log, args.read_log.as_deref().unwrap_or(&args.log), Duration::from_secs(args.patience))?;
    let publisher = Publisher { signer, log, logs, trust, now };
    let mut text = String::new();
    for statement in &statements {
        text += &if args.dry_run { publisher.show(statement)? } else { publisher.publish(statement)? };
    }
    Ok(text)
}

struct Publisher {
    signer: Signer,
    log: Log,
    logs: Vec<KnownLog>,
    trust: Option<TrustRoot>,
    now: u64,
}

impl Publisher {
    /// Publishes one statement, or goes on where an earlier run ended.
    fn publish(&self, statement: &Prepared) -> Result<String> {
        if let Some(bytes) = files::read_if_there(&statement.bundle())? {
            let path = statement.bundle();
            let kept = || {
                format!("{} is there, but is not this statement's, by this key and log: move it away", path.display())
            };
            let bundle = Bundle::parse(&bytes).map_err(|refusal| anyhow!("{refusal}")).with_context(kept)?;
            self.accept(statement, &bundle, &bytes).with_context(kept)?;
            return Ok(format!("{}   already\n", self.line(statement, &bundle)?));
        }
        let envelope = self.envelope(statement)?;
        let bundle = self.logged(&envelope).and_then(|bundle| {
            let bytes = bundle.write().map_err(|refusal| anyhow!("{refusal}"))?;
            self.accept(statement, &bundle, &bytes)?;
            files::write(&statement.bundle(), &bytes)?;
            Ok(bundle)
        });
        let bundle = bundle.with_context(|| {
            format!(
                "{} is not published yet. What was signed is kept in {}: run the same command again, and the same bytes are sent",
                statement.statement().display(),
                statement.envelope().display()
            )
        })?;
        Ok(self.line(statement, &bundle)? + "\n")
    }

    /// The signed statement: that of an earlier run, or a new one, which is kept before anybody else sees it.
    fn envelope(&self, statement: &Prepared) -> Result<Envelope> {
        let path = statement.envelope();
        if let Some(bytes) = files::read_if_there(&path)? {
            let kept = Envelope::parse(&bytes).and_then(|envelope| {
                let key = std::slice::from_ref(self.signer.key.public());
                Ok((envelope.verify(PAYLOAD_TYPE, key, 1)? == statement.bytes).then_some(envelope))
            });
            return match kept {
                Ok(Some(envelope)) => Ok(envelope),
                _ => bail!("{} is not this statement, signed by this key: move it away to sign anew", path.display()),
            };
        }
        let envelope = self.signer.sign(&statement.bytes)?;
        let bytes = serde_json::to_vec(&envelope).context("Failed to write an envelope")?;
        files::write(&statement.statement(), &statement.bytes)?;
        files::write(&path, &bytes)?;
        Ok(envelope)
    }

    /// Sends what was signed; gives it with its proof.
    fn logged(&self, envelope: &Envelope) -> Result<Bundle> {
        let payload = envelope.unverified_payload()?;
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
        let signature = signature(envelope)?;
        match self.log.post(&request(&signed, &signature, &self.signer.key))? {
            Answer::Logged(entry) => bundle_of_answer(envelope, &self.signer.key.hint(), &entry),
            Answer::Known(index) => self.proved_by_tiles(envelope, index),
        }
    }

    /// The proof of an entry that was logged before.
    fn proved_by_tiles(&self, envelope: &Envelope, index: u64) -> Result<Bundle> {
        let checkpoint = self.log.checkpoint()?;
        let note = Note::parse(&checkpoint).context("The log's head cannot be read")?;
        let (size, root, origin) = (note.checkpoint.size, note.checkpoint.root, note.checkpoint.origin.clone());
        ensure!(index < size, "The log says that it has entry {index}, but its head has {size}: try again in a minute");
        let log = self.logs.iter().find(|log| log.origin == origin);
        let log = log.with_context(|| format!("The log is {origin:?}, which is none of the known ones"))?;
        let mut tiles = Tiles::new(&self.log, size);
        let entry = Entry {
            index,
            log_id: log.key.note_id(&origin),
            body: tiles.entry(index)?,
            size,
            root,
            path: tiles.proof(index)?,
            checkpoint,
        };
        Ok(Bundle { hint: self.signer.key.hint(), envelope: envelope.clone(), entry, timestamps: Vec::new() })
    }

    /// All that is known to be checked, before it counts as published.
    fn accept(&self, statement: &Prepared, bundle: &Bundle, bytes: &[u8]) -> Result<()> {
        check(bundle, &self.signer.key, &self.logs)?;
        let payload = bundle.envelope.unverified_payload()?;
        ensure!(payload == statement.bytes, "The bundle has another statement");
        let Some(root) = &self.trust else { return Ok(()) };
        let verified = match statement.predicate_type {
            MeasuredBoot::TYPE => logged::<MeasuredBoot>(bytes, root, self.now).map(drop),
            _ => logged::<Provenance>(bytes, root, self.now).map(drop),
        };
        verified
            .map_err(|refusal| anyhow!("{refusal} (next: {})", refusal.code.next()))
            .context("Verifiers would refuse it")
    }

    fn line(&self, statement: &Prepared, bundle: &Bundle) -> Result<String> {
        let origin = check(bundle, &self.signer.key, &self.logs)?;
        Ok(format!("{}   entry {} of {origin}", statement.bundle().display(), bundle.entry.index))
    }

    /// What would be signed and sent.
    fn show(&self, statement: &Prepared) -> Result<String> {
        let kept = files::read_if_there(&statement.envelope())?;
        let kept = kept.map(|bytes| Envelope::parse(&bytes)).transpose().context("The kept envelope is none")?;
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &statement.bytes);
        let mut body =
            request(&signed, &kept.as_ref().map(signature).transpose()?.unwrap_or_default(), &self.signer.key);
        if kept.is_none() {
            body["hashedRekordRequestV002"]["signature"]["content"] = "<the signature, when it is made>".into();
        }
        let mut text = String::new();
        let _ = writeln!(text, "statement      {}", statement.statement().display());
        let _ = writeln!(text, "  predicate    {}", statement.predicate_type);
        let _ = writeln!(text, "  sha256       {}", hex::encode(Sha256::digest(&statement.bytes)));
        let _ = writeln!(
            text,
            "signed         sha256:{}  (DSSE PAE, {PAYLOAD_TYPE})",
            hex::encode(Sha256::digest(&signed))
        );
        let _ = writeln!(text, "by key         sha256:{}", hex::encode(self.signer.key.fingerprint()));
        let _ = writeln!(text, "POST           {}\n{body}", self.log.address());
        let _ = writeln!(text, "The statement itself is not logged; these are its bytes:");
        Ok(text + &String::from_utf8_lossy(&statement.bytes) + "\n")
    }
}

fn signature(envelope: &Envelope) -> Result<Vec<u8>> {
    let signatures = envelope.signatures()?;
    ensure!(signatures.len() == 1, "The envelope has {} signatures, one is expected", signatures.len());
    signatures.into_iter().next().map(|(_, signature)| signature).context("The envelope has no signature")
}
