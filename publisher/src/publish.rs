//! `cargo xtask publish`: statements are made, signed, kept, sent, and proved, in this order, so that whatever happens a second run goes on from there with the same bytes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use envelope::{Envelope, pre_authentication_encoding};
use sha2::{Digest, Sha256};
use transparency::bundle::{Bundle, Entry};
use transparency::checkpoint::Note;
use transparency::statement::PAYLOAD_TYPE;
use transparency::tiles::Tiles;
use transparency::trust_root::TrustRoot;
use transparency::verify::{Evidence, signed_at};

use crate::certificate::certificate;
use crate::files;
use crate::known::refused;
use crate::log::{Answer, Log, request};
use crate::rekor_v1::{self, Logged, RekorV1, RekorV1Args};
use crate::signer::{Signer, SignerArgs};
use crate::statements::{Prepared, Terms, prepare, rebuilt as rebuilt_in};
use crate::timestamps::TimestampAuthority;
use crate::trust::{self, bundle_of_answer};

const DAY: u64 = 86_400;
/// What a dry run shows for a signature that is not there.
const WHEN_MADE: &str = "<the signature, when it is made>";

/// Sign an image or a machine reference, and log it
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask publish target/image --key signing/release.key --log http://127.0.0.1:3000 --read-log http://127.0.0.1:3001 --log-key log.cairn.invalid+..."
)]
pub struct PublishArgs {
    /// Folder with an image, its *.image.json, or a *.machine.json
    #[arg(value_name = "IMAGE", default_value = "target/image")]
    path: PathBuf,
    #[command(flatten)]
    where_to: LogArgs,
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
    /// Show exactly what would be signed and logged; nothing is written, signed or sent
    #[arg(long)]
    dry_run: bool,
}

/// Who signs, where it is logged, and who must believe it.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    #[command(flatten)]
    signer: SignerArgs,
    /// Address of the log (Rekor v2) that takes entries
    #[arg(long, value_name = "URL")]
    log: String,
    /// Address at which the log is read, if that is another
    #[arg(long, value_name = "URL")]
    read_log: Option<String>,
    /// The log's key and origin, as logs make them known (NAME+ID+KEY), where there is no trust root yet
    #[arg(long, value_name = "KEY", required_unless_present = "trust_root")]
    log_key: Vec<String>,
    /// Signed trust root of those who will verify: what is published must pass all that they check, witnesses included. Given several times, each must allow the next, and the last counts
    #[arg(long, value_name = "FILE", conflicts_with = "log_key")]
    trust_root: Vec<PathBuf>,
    /// Address of a timestamp authority (RFC 3161), which says when it was signed: needed where the trust root names one
    #[arg(long, value_name = "URL")]
    tsa: Option<String>,
    /// The authority's own certificate, DER or PEM, where there is no trust root yet
    #[arg(long, value_name = "FILE", requires = "tsa", conflicts_with = "trust_root")]
    tsa_certificate: Option<PathBuf>,
    #[command(flatten)]
    rekor_v1: RekorV1Args,
    /// Seconds after which a request to a log or to the authority is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
}

/// Runs the command.
pub fn run(args: &PublishArgs) -> Result<String> {
    let publisher = Publisher::open(&args.where_to)?;
    let now = publisher.now;
    let terms = Terms {
        now,
        validity: args.valid_days.saturating_mul(DAY),
        previous: args.previous.clone(),
        builder: args.builder.clone(),
        repository: args.repository.clone(),
    };
    let statements = prepare(&args.path, &terms)?;
    let mut text = String::new();
    for statement in &statements {
        text += &if args.dry_run { publisher.show(statement)? } else { publisher.publish(statement)? };
    }
    Ok(text)
}

/// Who signs and logs statements.
pub struct Publisher {
    signer: Signer,
    log: Log,
    timestamps: Option<TimestampAuthority>,
    rekor_v1: Option<RekorV1>,
    /// Of those who will verify.
    pub trust: TrustRoot,
    /// Seconds since 1970.
    pub now: u64,
}

/// Say that an image was built again, and came out the same
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask rebuild cairn_0.1.0.measured-boot.sigstore.json --key signing/rebuilder.key --log URL --trust-root signing/trust-root.json"
)]
pub struct RebuiltArgs {
    /// Folder with the image that was built again
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    where_to: LogArgs,
}

/// Runs the command.
pub fn rebuilt(args: &RebuiltArgs) -> Result<String> {
    Publisher::open(&args.where_to)?.publish(&rebuilt_in(&args.folder)?)
}

/// See whether key and trust root are there and belong together
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    where_to: LogArgs,
}

/// Runs the command. Nothing is signed, and nobody is asked.
pub fn check(args: &CheckArgs) -> Result<String> {
    Publisher::open(&args.where_to).map(|_| String::new())
}

impl Publisher {
    /// Opens key and trust root; the log is not asked yet.
    pub fn open(args: &LogArgs) -> Result<Self> {
        let signer = Signer::open(&args.signer)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
        let trust = match &args.trust_root[..] {
            [first, rest @ ..] => {
                let first = TrustRoot::first(&files::read(first)?).map_err(refused)?;
                rest.iter().try_fold(first, |root, next| root.next(&files::read(next)?).map_err(refused))?
            }
            [] => {
                let authority = args.tsa_certificate.as_deref().map(certificate).transpose()?;
                trust::of_keys(&signer.key, &args.log_key, authority, now)?
            }
        };
        // Before anything is sent that nobody would believe.
        let fingerprint = hex::encode(signer.key.fingerprint());
        ensure!(
            trust.key(&signer.key.hint()).is_some(),
            "cannot sign: the trust root does not list the release key sha256:{fingerprint}\nhint: name the key that it lists, or add this one with `cargo xtask trust-root make --after`"
        );
        let read = args.read_log.as_deref().unwrap_or(&args.log);
        let patience = Duration::from_secs(args.patience);
        let log = Log::new(&args.log, read, patience)?;
        let timestamps = args.tsa.as_deref().map(|address| TimestampAuthority::new(address, patience)).transpose()?;
        ensure!(
            timestamps.is_none() || !trust.document().timestamp_authorities.is_empty(),
            "Nobody could check what --tsa says, because no timestamp authority is known: give its certificate (--tsa-certificate, or a trust root that has it), or leave --tsa out"
        );
        let rekor_v1 = RekorV1::open(&args.rekor_v1, patience)?;
        Ok(Self { signer, log, timestamps, rekor_v1, trust, now })
    }

    /// Publishes one statement, or goes on where an earlier run ended.
    pub fn publish(&self, statement: &Prepared) -> Result<String> {
        let line = self.publish_bundle(statement)?;
        let Some(log) = &self.rekor_v1 else { return Ok(line) };
        let envelope = Bundle::parse(&files::read(&statement.bundle())?).map_err(refused)?.envelope;
        let (signed, signature) = signed(&envelope)?;
        let (path, key) = (statement.rekor_v1(), &self.signer.key);
        let index = log.publish(&Logged { signed: &signed, signature: &signature, key }, &path).with_context(|| {
            format!(
                "{} is there, but its entry in {} is not: run the same command again, and it goes on there",
                statement.bundle().display(),
                log.address()
            )
        })?;
        Ok(format!("{line}{}   entry {index} of {}\n", path.display(), log.address()))
    }

    fn publish_bundle(&self, statement: &Prepared) -> Result<String> {
        let path = statement.bundle();
        if let Some(bytes) = files::read_if_there(&path)? {
            let evidence = self.accept(statement, &bytes).with_context(|| {
                format!("{} is there, but is not this statement's, by this key and log: move it away", path.display())
            })?;
            return Ok(line(statement, &evidence) + "   already\n");
        }
        self.check_timestamps(statement)?;
        let envelope = self.envelope(statement)?;
        let evidence = self.logged(statement, &envelope).and_then(|bundle| {
            let bytes = bundle.write().map_err(refused)?;
            let evidence = self.accept(statement, &bytes)?;
            files::write(&path, &bytes)?;
            Ok(evidence)
        });
        let evidence = evidence.with_context(|| {
            format!(
                "{} is not published yet. What was signed is kept in {}: run the same command again, and the same bytes are sent",
                statement.statement().display(),
                statement.envelope().display()
            )
        })?;
        Ok(line(statement, &evidence) + "\n")
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

    /// Before anything is signed that could not be published.
    fn check_timestamps(&self, statement: &Prepared) -> Result<()> {
        let authorities = self.trust.document().timestamp_authorities.len();
        let is_kept = statement.timestamp().exists();
        ensure!(
            authorities == 0 || is_kept || self.timestamps.is_some(),
            "The trust root names {authorities} timestamp authorities: give the address of one (--tsa URL). Nothing was signed, nothing was sent"
        );
        Ok(())
    }

    /// Sends what was signed; gives it with its proof.
    fn logged(&self, statement: &Prepared, envelope: &Envelope) -> Result<Bundle> {
        let (signed, signature) = signed(envelope)?;
        let timestamps = self.timestamps(statement, &signature)?;
        let bundle = match self.log.post(&request(&signed, &signature, &self.signer.key))? {
            Answer::Logged(entry) => bundle_of_answer(envelope, &self.signer.key.hint(), &entry)?,
            Answer::Known(index) => self.proved_by_tiles(envelope, index)?,
        };
        Ok(Bundle { timestamps, ..bundle })
    }

    /// The timestamp of a signature: that of an earlier run, or a new one, which is kept before the log has the signature. Verifiers believe it, and that the key was valid then, or nothing is sent.
    fn timestamps(&self, statement: &Prepared, signature: &[u8]) -> Result<Vec<Vec<u8>>> {
        let hint = self.signer.key.hint();
        let check = |timestamps: &[Vec<u8>]| {
            signed_at(&self.trust, &hint, signature, timestamps, self.now).map_err(refused).map(drop)
        };
        let path = statement.timestamp();
        if let Some(kept) = files::read_if_there(&path)? {
            let kept = vec![kept];
            check(&kept).with_context(|| {
                format!("Verifiers would not believe {}: move it away to fetch another", path.display())
            })?;
            return Ok(kept);
        }
        let Some(authority) = &self.timestamps else {
            check(&[]).context("Verifiers would refuse it, so nothing was sent to the log")?;
            return Ok(vec![]);
        };
        let fetched = authority.stamp(signature).and_then(|response| {
            let response = vec![response];
            check(&response)
                .with_context(|| format!("Verifiers would not believe the timestamp of {}", authority.address))?;
            Ok(response)
        });
        let fetched = fetched.context("Nothing was sent to the log, because it would have no timestamp")?;
        for response in &fetched {
            files::write(&path, response)?;
        }
        Ok(fetched)
    }

    /// The proof of an entry that was logged before.
    fn proved_by_tiles(&self, envelope: &Envelope, index: u64) -> Result<Bundle> {
        let checkpoint = self.log.checkpoint()?;
        let note = Note::parse(&checkpoint).context("The log's head cannot be read")?;
        let (size, root, origin) = (note.checkpoint.size, note.checkpoint.root, note.checkpoint.origin.clone());
        ensure!(index < size, "The log says that it has entry {index}, but its head has {size}: try again in a minute");
        let key = self.trust.logs().find_map(|(key, known)| (known == origin).then_some(key));
        let key = key.with_context(|| format!("The log is {origin:?}, which the trust root does not know"))?;
        let mut tiles = Tiles::new(&self.log, size);
        let entry = Entry {
            index,
            log_id: key.note_id(&origin),
            body: tiles.entry(index)?,
            size,
            root,
            path: tiles.proof(index)?,
            checkpoint,
        };
        Ok(Bundle { hint: self.signer.key.hint(), envelope: envelope.clone(), entry, timestamps: Vec::new() })
    }

    /// Whether everybody will believe that this statement is published.
    fn accept(&self, statement: &Prepared, bundle: &[u8]) -> Result<Evidence> {
        let evidence = trust::verify(bundle, statement.predicate_type, &self.trust, self.now)?;
        let envelope = Bundle::parse(bundle).map_err(refused)?.envelope;
        ensure!(envelope.unverified_payload()? == statement.bytes, "The bundle has another statement");
        ensure!(evidence.key.0 == self.signer.key.fingerprint(), "The bundle is signed by another key");
        Ok(evidence)
    }

    /// What would be signed and sent.
    fn show(&self, statement: &Prepared) -> Result<String> {
        self.check_timestamps(statement)?;
        let kept = files::read_if_there(&statement.envelope())?;
        let kept = kept.map(|bytes| Envelope::parse(&bytes)).transpose().context("The kept envelope is none")?;
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &statement.bytes);
        let signature = kept.as_ref().map(signature).transpose()?.unwrap_or_default();
        let logged = Logged { signed: &signed, signature: &signature, key: &self.signer.key };
        let (mut body, mut body_v1) = (request(&signed, &signature, &self.signer.key), rekor_v1::request(&logged));
        if kept.is_none() {
            body["hashedRekordRequestV002"]["signature"]["content"] = WHEN_MADE.into();
            body_v1["spec"]["signature"]["content"] = WHEN_MADE.into();
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
        if let Some(authority) = &self.timestamps {
            let _ = writeln!(text, "POST           {}\nSHA-256 of the signature", authority.address);
        }
        let _ = writeln!(text, "POST           {}\n{body}", self.log.address());
        if let Some(log) = &self.rekor_v1 {
            let _ = writeln!(text, "POST           {}\n{body_v1}", log.address());
        }
        let _ = writeln!(text, "The statement itself is not logged; these are its bytes:");
        Ok(text + &String::from_utf8_lossy(&statement.bytes) + "\n")
    }
}

fn line(statement: &Prepared, evidence: &Evidence) -> String {
    format!("{}   entry {} of {}", statement.bundle().display(), evidence.index, evidence.origin)
}

/// What DSSE signs, and its signature.
fn signed(envelope: &Envelope) -> Result<(Vec<u8>, Vec<u8>)> {
    let payload = envelope.unverified_payload()?;
    Ok((pre_authentication_encoding(PAYLOAD_TYPE, &payload), signature(envelope)?))
}

fn signature(envelope: &Envelope) -> Result<Vec<u8>> {
    let signatures = envelope.signatures()?;
    ensure!(signatures.len() == 1, "The envelope has {} signatures, one is expected", signatures.len());
    signatures.into_iter().next().map(|(_, signature)| signature).context("The envelope has no signature")
}
